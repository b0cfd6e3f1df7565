"""From which beginnings a target writes: those of texts, of conversations up to an answer, and the texts of a file."""

from pathlib import Path

import pytest
from chats_for_tests import SAID, chat, conversation, tokens_of, write_jsonl
from experiments_for_tests import documents
from tokenizers_for_tests import surface

from knowfuse.rollouts.prompts import prompts_in, prompts_of, spread
from knowfuse.text.document import Document
from knowfuse.text.documents import Documents


def test_the_first_tokens_of_each_text_once() -> None:
    """Their text is what they spell; a text that begins like another, or is no longer, is none."""
    neox = surface("neox")
    given = [
        *documents(6),
        Document(documents(1)[0].text + " and more", "code", "fusion"),
        Document("a", "code", "fusion"),
    ]
    prompts = prompts_of(Documents.of(given), neox, 6, 512)
    assert len(prompts) == 6
    for prompt, document in zip(prompts, given, strict=False):
        assert document.text.startswith(prompt.text)
        assert neox.tokenize(document.text).input_ids[:6].tolist() == list(prompt.input_ids)


def test_a_text_is_not_cut_inside_a_character() -> None:
    neox = surface("neox")
    text = "\U0001f600" * 5
    inside = [n for n in range(2, 12) if not _is_prompt(text, n)]
    assert inside
    assert any(_is_prompt(text, n) for n in range(2, 12))
    assert neox.tokenize(text).ends[inside[0] - 1] % 4


def _is_prompt(text: str, tokens: int) -> bool:
    try:
        return len(prompts_of(Documents.of([Document(text, "a", "fusion")]), surface("neox"), tokens, 512)) == 1
    except ValueError:
        return False


@pytest.mark.parametrize("kind", ["chatml", "gemma", "llama2", "llama3"])
def test_a_conversation_up_to_its_last_answer(kind: str) -> None:
    """The tokens before it are those that the LLM reads the whole conversation by."""
    llm, document = chat(kind), conversation(SAID)
    (prompt,) = prompts_of(Documents.of([document, document]), llm, 16, 512)
    tokens = tokens_of(llm, document)
    assert tokens.turns is not None
    last = tokens.turns[-1]
    assert list(prompt.input_ids) == tokens.input_ids[: last.before + 1].tolist()
    assert prompt.text.encode() == document.text.encode()[: last.begin]
    assert prompt.messages == document.messages[:-1]


def test_the_texts_of_a_file(tmp_path: Path) -> None:
    llama = surface("llama")
    file = tmp_path / "mine.txt"
    file.write_text("def wrap\n\nreturn\n\ndef wrap\n")
    assert [prompt.text for prompt in prompts_in(file, llama, 512)] == ["def wrap", "return"]
    file.write_text("short\n\n" + "longer " * 40)
    with pytest.raises(
        ValueError, match=r"1 of 2 prompts of '.*mine.txt' cannot be gone on with, the first is number 2: "
    ) as caught:
        prompts_in(file, llama, 20)
    assert "tokens, 'llama' can hold 19. Its context is of 20: cut them shorter, or leave them out" in str(caught.value)
    with pytest.raises(
        ValueError, match=r"prompts is '.*none.txt', and there is no such file: give a .txt or .jsonl file"
    ):
        prompts_in(tmp_path / "none.txt", llama, 20)


def test_the_conversations_of_a_file_are_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to the answer that one ends with, or all of one that ends with a question; in the tokens of a corpus' own."""
    llm = chat("chatml")
    rows = [
        {"messages": [{"role": role, "content": content} for role, content in said]}
        for said in (SAID[:1], SAID[:3], SAID)
    ]
    file = write_jsonl(tmp_path / "mine.jsonl", [*rows, {"messages": [{"role": "user", "content": " "}]}])
    first, second = prompts_in(file, llm, 512)
    assert [first, second] == prompts_of(Documents.of([conversation(SAID[:2]), conversation(SAID)]), llm, 16, 512)
    assert (
        f"rollouts: of {file} left out: 1 conversation with an empty message; the first is " in capsys.readouterr().out
    )
    with pytest.raises(
        ValueError, match=r"3 of 3 prompts of '.*' cannot be gone on with, the first is number 1: .* can hold 9"
    ):
        prompts_in(file, llm, 9)
    briefed = [{"messages": [{"role": "system", "content": "be brief"}, *rows[0]["messages"]]}]
    with pytest.raises(ValueError, match=r"the first is number 1: its chat template refuses .* leave them out"):
        prompts_in(write_jsonl(tmp_path / "briefed.jsonl", briefed), chat("gemma"), 512)
    (tmp_path / "mine.txt").write_text("And?")
    with pytest.raises(ValueError, match=r"is a text, not a file of conversations: give .jsonl or .parquet files"):
        prompts_in(tmp_path / "mine.txt", llm, 512)


def test_what_leaves_no_room_is_refused() -> None:
    texts = Documents.of(documents(4))
    with pytest.raises(
        ValueError, match="prompt_tokens is 20, and target 'llama' can hold 20 tokens in all: set it lower"
    ):
        prompts_of(texts, surface("llama"), 20, 20)
    with pytest.raises(
        ValueError,
        match="none of the 4 documents of the run begins so that target 'llama' can go on: 4 of at most prompt_tokens=400 tokens, for ",
    ):
        prompts_of(texts, surface("llama"), 400, 512)
    with pytest.raises(
        ValueError,
        match=r"none of the 1 documents of the run begins so that target 'chatml' can go on: 1 too long; the first, .* can hold 9",
    ):
        prompts_of(Documents.of([conversation(SAID)]), chat("chatml"), 16, 9)


def test_conversations_that_leave_no_room_for_an_answer_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """By reason, with the first by its id in the corpus; two that are alike are two."""
    short, long = conversation([("user", "And?"), ("assistant", "def")]), conversation(SAID)
    briefed = conversation([("system", "be brief"), ("user", "And?"), ("assistant", "def")])
    gemma = chat("gemma")
    most = len(tokens_of(gemma, short).input_ids) + 2
    prompts = prompts_of(Documents.of([short, long, briefed, long]), gemma, 16, most)
    assert [prompt.messages for prompt in prompts] == [short.messages[:-1]]
    told, kept = capsys.readouterr().out.splitlines()
    first = f"rollouts: 3 of 4 documents left out: 2 too long, 1 refused by the template; the first, {long.id}, with an answer of one letter: "
    assert told.startswith(first)
    assert told.endswith(f" tokens, 'gemma' can hold {most}. Shorter conversations leave room for an answer")
    assert kept == "rollouts: 1 prompts of 4 documents, 0 that begin alike left out"


def test_texts_that_are_too_short_are_counted_and_long_ones_begin_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A prompt is the beginning: how long a text is beyond the context is of no matter."""
    long = Document("def wrap(text): return text " * 40, "a", "fusion")
    (prompt,) = prompts_of(Documents.of([Document("a", "a", "fusion"), long]), surface("neox"), 6, 20)
    assert long.text.startswith(prompt.text)
    told = capsys.readouterr().out
    assert (
        "rollouts: 1 of 2 documents left out: 1 of at most prompt_tokens=6 tokens, for which it can be lower\n" in told
    )


def test_some_of_the_documents_are_evenly_spread() -> None:
    texts = Documents.of(documents(10))
    assert spread(texts, 3).names == [texts.names[n] for n in (0, 3, 6)]
    assert spread(texts, 99).names == spread(texts, None).names == texts.names
    with pytest.raises(ValueError, match="most_prompts is 0: it must be at least 1, or null for all"):
        spread(texts, 0)
