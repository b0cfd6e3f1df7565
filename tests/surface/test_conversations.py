"""A conversation in the tokens of an LLM: what its own template writes, cut as it cuts it, with ends in the contents."""

import hashlib
import json
import pickle
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chats_for_tests import CHATML, ENDS, KINDS, SAID, chat, chat_tokenizer, conversation
from tokenizers_for_tests import surface

from knowfuse.surface import Surface, UnspellableDocument
from knowfuse.surface.conversations import in_tokens
from knowfuse.surface.cutting import Chat
from knowfuse.surface.set_aside import report_set_aside
from knowfuse.surface.templates import Template, template_of
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.surface.turns import learnt_rows
from knowfuse.surface.unspellable import by_kind
from knowfuse.text.documents import Documents
from knowfuse.types import TokenizedDocument


def cut(llm: Surface, *said: Any, learn: Any = "assistant") -> TokenizedDocument:
    (found,) = in_tokens(llm, [conversation(list(said), learn)])
    assert isinstance(found, TokenizedDocument), found
    return found


def refused(llm: Surface, *said: Any) -> str:
    (found,) = in_tokens(llm, [conversation(list(said))])
    assert isinstance(found, UnspellableDocument)
    return str(found)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_transformers_and_their_bytes_are_the_contents(kind: str) -> None:
    llm, tokenizer = chat(kind), chat_tokenizer(kind)
    messages = [{"role": role, "content": content} for role, content in SAID]
    template = KINDS[kind][1].replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
    theirs = tokenizer.apply_chat_template(messages, chat_template=template, return_dict=False)
    tokens = cut(llm, *SAID)
    assert tokens.input_ids.tolist() == theirs
    data = "".join(content for _, content in SAID).encode()
    assert tokens.ends[-1] == len(data)
    assert np.all(np.diff(tokens.ends, prepend=0) >= 0)
    sizes = np.diff(tokens.ends, prepend=0)
    for i, size, end in zip(tokens.input_ids.tolist(), sizes.tolist(), tokens.ends.tolist(), strict=True):
        spelled = llm.token_bytes[i]
        if size:  # its last bytes are the message's; before them at most the space of the template
            assert spelled is not None
            assert spelled.endswith(data[end - size : end])
            assert spelled[: len(spelled) - size] in (b"", llm.lead)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learn", ["assistant", "last", "all"])
def test_the_rows_that_are_learnt_spell_the_messages_and_their_ends(kind: str, learn: Any) -> None:
    llm, tokens = chat(kind), cut(chat(kind), *SAID, learn=learn)
    is_text, is_end = (np.flatnonzero(rows) for rows in learnt_rows(tokens))
    wanted = {"assistant": SAID[1::2], "last": SAID[3:], "all": SAID}[learn]
    sizes = np.diff(tokens.ends)
    assert sizes[is_text].sum() == sum(len(content.encode()) for _, content in wanted)
    assert (sizes[is_text] > 0).all()
    assert (sizes[is_end] == 0).all()
    closing = [llm.token_strings[i] for i in tokens.input_ids[is_end + 1].tolist()]
    answers = sum(role == "assistant" for role, _ in wanted)
    assert closing.count(ENDS[kind]) == answers
    assert set(closing) - {ENDS[kind]} == ({"▁"} if kind == "llama2" else set()), "its template closes by a space first"
    assert llm.eos_id == llm.tokenizer.token_to_id(ENDS[kind])


def test_a_space_of_the_template_goes_with_the_first_token_of_an_answer() -> None:
    assert {kind: chat(kind).lead for kind in KINDS} == {**dict.fromkeys(KINDS, b""), "llama2": b" "}
    tokens = cut(chat("llama2"), ("user", "a"), ("assistant", "wrap"))
    assert tokens.turns is not None
    first = tokens.input_ids[tokens.turns[0].first + 1]
    assert chat("llama2").token_bytes[first] == b" wrap"[: len(chat("llama2").token_bytes[first] or b"")]


def test_a_text_keeps_its_fingerprint_and_a_template_and_its_variables_decide_another() -> None:
    """Traces, tokens and maps of plain text are found again under the keys that they had."""
    plain, llm = surface("neox"), chat("chatml")
    state = json.dumps([plain.tokenizer.to_str(), plain.bos_id, plain.eos_id])
    assert plain.fingerprint == hashlib.sha256(state.encode()).hexdigest(), "as before there were conversations"
    one, other = (Template(CHATML, variables) for variables in ({}, {"enable_thinking": False}))
    assert one.state != other.state
    assert len({chat("chatml").fingerprint, chat("chatml", "plain").fingerprint, surface("neox").fingerprint}) == 3
    assert pickle.loads(pickle.dumps(llm)).fingerprint == llm.fingerprint


def test_what_is_learnt_is_in_no_token_and_no_id() -> None:
    documents = [conversation(SAID, learn) for learn in ("assistant", "last", "all")]
    assert len({d.id for d in documents}) == 1
    folders = [tokenize_documents(chat("gemma"), [d], 512) for d in documents]
    assert all(np.array_equal(f[documents[0].id].input_ids, folders[0][documents[0].id].input_ids) for f in folders)
    assert [len(f[documents[0].id].turns or ()) for f in folders] == [2, 1, 4]
    assert [int(f.documents.num_bytes[0]) for f in folders] == [
        sum(len(content.encode()) for _, content in said) for said in (SAID[1::2], SAID[3:], SAID)
    ]


def test_mapped_tokens_know_the_turns(tmp_path: Path) -> None:
    document = conversation(SAID)
    made, found = (tokenize_documents(chat("llama2"), [document], 512, tmp_path) for _ in range(2))
    again = pickle.loads(pickle.dumps(found))
    assert made[document.id].turns == found[document.id].turns == again[document.id].turns
    assert made[document.id].turns == cut(chat("llama2"), *SAID).turns


ASK = ("user", "a question")


@pytest.mark.parametrize(
    ("kind", "said", "reason", "counted"),
    [
        (
            "trims",
            [ASK, ("assistant", "answer \n")],
            "its chat template drops the white space around message 2",
            "trimmed by the template",
        ),
        (
            "gemma",
            [("system", "be brief"), ASK, ("assistant", "yes")],
            "System role not supported",
            "refused by the template",
        ),
        (
            "gemma",
            [ASK, ("assistant", "one"), ("assistant", "two")],
            "Conversation roles must alternate",
            "refused by the template",
        ),
        (
            "gemma",
            [ASK, ("assistant", "\nwrap")],
            "is partly its chat template, partly a message",
            "a token across the template and a message",
        ),
        (
            "chatml",
            [ASK, ("assistant", "so <|im_end|> ends it")],
            "a message spells '<|im_end|>'",
            "a special token spelled",
        ),
    ],
)
def test_what_a_template_would_change_is_set_aside_with_the_reason(
    kind: str, said: list, reason: str, counted: str
) -> None:
    assert reason in refused(chat(kind), *said)
    assert by_kind([refused(chat(kind), *said)]) == {counted: 1}
    good = conversation([ASK, ("assistant", "yes")])
    tokens = tokenize_documents(chat(kind), [conversation(said), good], 512)
    assert list(tokens) == [good.id]
    assert reason in next(iter(tokens.set_aside.values()))


@pytest.mark.parametrize(
    ("template", "said", "reason"),
    [
        (
            "{{ '<s>' }}{% for m in messages %}{{ m['role'] + m['content'] | tojson }}{% endfor %}",
            'a "b"',
            "changes the text",
        ),
        ("{{ '<s>' }}{% for m in messages | reverse %}{{ m['content'] }}{% endfor %}", "b", "in another order"),
        ("{{ '<s>' + messages[1]['content'] }}", "b", "leaves out a message of the user"),
        ("{{ messages[0]['content'] + '|' + messages[1]['content'] }}", "b", "stands before the first message"),
        (
            "{{ '<s>' }}{% for m in messages %}{{ m['content'].split('</think>')[-1] + '|' }}{% endfor %}",
            "<think>hm</think>b",
            "changes the text of message 2",
        ),
    ],
)
def test_templates_that_change_messages(template: str, said: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text(template)
    tokenizer = chat_tokenizer("chatml")
    written = template_of(tokenizer, "x", str(tmp_path / "t.jinja"), None)
    told = refused(replace(chat("chatml"), chat=Chat(written)), ASK, ("assistant", said))
    assert reason in told
    assert "other" not in by_kind([told])


def test_a_template_that_fails_is_not_one_that_refuses() -> None:
    failing = Template("{{ '<s>' + messages[2]['content'] }}", {})
    told = refused(replace(chat("chatml"), chat=Chat(failing)), ASK, ("assistant", "yes"))
    assert told.startswith("its chat template fails on a conversation of user, assistant: ")
    assert list(by_kind([told])) == ["the template fails"]


def test_those_set_aside_are_counted_by_kind_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of reason that Gemma's template and tokens give, and a conversation that is too long; two LLMs, two counts."""
    said = [
        [("system", "be brief"), ASK, ("assistant", "yes")],
        [("system", "be long"), ASK, ("assistant", "no")],
        [ASK, ("assistant", "\nwrap")],
        [ASK, ("assistant", "so <end_of_turn> ends it")],
        [ASK, ("assistant", "on and on " * 40)],
        [ASK, ("assistant", "yes")],
    ]
    documents = Documents.of([conversation(each) for each in said])
    for kind, line in (
        (
            "gemma",
            "traces gemma: 5 of 6 documents (83.3%) set aside; 2 refused by the template, 1 a token across the template and a "
            "message, 1 a special token spelled, 1 too long; the first, ",
        ),
        ("chatml", "traces chatml: 1 of 6 documents (16.7%) set aside; the first, "),
    ):
        tokens = tokenize_documents(chat(kind), documents, 64)
        report_set_aside("source", chat(kind), tokens.set_aside, documents)
        assert line in " ".join(capsys.readouterr().out.split())


def test_a_default_system_prompt_is_the_templates_and_the_day_stands_still() -> None:
    tokens = cut(chat("chatml"), *SAID)
    before = [chat("chatml").token_bytes[i] or b"|" for i in tokens.input_ids[tokens.ends == 0].tolist()]
    assert b"".join(before) == b"|system\nYou are tiny.|\n|user\n"
    day = [chat("llama3").token_bytes[i] or b"|" for i in cut(chat("llama3"), *SAID).input_ids.tolist()]
    assert b"Today: 26 Jul 2024" in b"".join(day)


# Of real templates what they do with a system prompt: Llama 3.1, Mistral Small, Gemma 3, Phi 3, and one that asks whether there is one.
TURNS = "{% for m in rest %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
REST = "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
SYSTEMS = {
    "trimmed, and a header without it too": REST
    + "{% set system = system | trim %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    + "{{ '<|im_start|>system\nToday.\n' + system + '<|im_end|>' }}"
    + TURNS,
    "defined": REST
    + "{% else %}{% set system = 'You are.' %}{% set rest = messages %}{% endif %}{{ '<|im_start|>' + system + '<|im_end|>' }}"
    + TURNS,
    "before the first question": REST
    + "{% set before = system + '\n\n' %}{% else %}{% set before = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    + "{{ '<|im_start|>' + m['role'] + '\n' + (before if loop.first else '') + m['content'] + '<|im_end|>\n' }}{% endfor %}",
    "each alike": TURNS.replace("in rest", "in messages"),
}
TAKEN_FOR_NONE = {
    "nothing in its place": REST
    + "{% else %}{% set rest = messages %}{% endif %}{% if system %}{{ '<|im_start|>' + system + '<|im_end|>' }}{% endif %}"
    + TURNS,
    "its own in its place": REST
    + "{% else %}{% set rest = messages %}{% endif %}{{ '<|im_start|>' + (system or 'You are.') + '<|im_end|>' }}"
    + TURNS,
}


def with_template(template: str) -> Surface:
    return replace(chat("chatml"), chat=Chat(Template(template, {})))


@pytest.mark.parametrize("how", [*SYSTEMS, *(kind for kind in KINDS if kind != "gemma"), "plain"])
def test_an_empty_system_prompt_is_read_as_the_template_writes_it(how: str) -> None:
    """In the tokens of transformers, in which it has no byte and nothing that is learnt; it keeps a default prompt away."""
    llm = with_template(SYSTEMS[how]) if how in SYSTEMS else chat("chatml", how) if how == "plain" else chat(how)
    kind = how if how in KINDS else "chatml"
    said = [("system", ""), *SAID]
    messages = [{"role": role, "content": content} for role, content in said]
    assert llm.chat is not None
    template = llm.chat.template.source.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
    theirs = chat_tokenizer(kind).apply_chat_template(messages, chat_template=template, return_dict=False)
    empty, without = (cut(llm, *each, learn="all") for each in (said, SAID))
    assert empty.input_ids.tolist() == theirs
    assert empty.ends[-1] == without.ends[-1]
    assert [(t.begin, t.end) for t in empty.turns or ()] == [(t.begin, t.end) for t in without.turns or ()]
    assert conversation(said).id != conversation(SAID).id
    spelled = b"".join(llm.token_bytes[i] or b"" for i in empty.input_ids.tolist())
    assert b"You are" not in spelled


@pytest.mark.parametrize(
    "asked", ["{% set f = '%d %b %Y' %}{{ strftime_now(f) }}", "{{ strftime_now(format='%d %b %Y') }}"]
)
def test_no_template_writes_todays_date(asked: str) -> None:
    """However it asks for it: traces of it are kept."""
    template = Template(f"{asked}{{% for message in messages %}}|{{{{ message['content'] }}}}{{% endfor %}}")
    assert template.written(["user"], ["hi"])[0] == "26 Jul 2024|hi"


@pytest.mark.parametrize("how", TAKEN_FOR_NONE)
def test_one_that_a_template_takes_for_none_is_set_aside(how: str) -> None:
    """Another prompt than the one that was given would be read, or none."""
    told = refused(with_template(TAKEN_FOR_NONE[how]), ("system", ""), *SAID)
    assert told == "its chat template takes an empty system prompt for none"
    assert list(by_kind([told])) == ["an empty system prompt that the template takes for none"]
    assert cut(with_template(TAKEN_FOR_NONE[how]), ("system", "be brief"), *SAID)


def test_an_llm_without_a_template_says_what_to_set(tmp_path: Path) -> None:
    tokenizer = deepcopy(chat_tokenizer("llama2"))
    tokenizer.chat_template = None
    with pytest.raises(
        ValueError, match=r"LLM 'base': its tokenizer has no chat template.* write chat_template: plain beside its path"
    ):
        template_of(tokenizer, "base", None, None)
    with pytest.raises(ValueError, match=r"LLM 'base': chat_template is 'none.jinja', and there is no such file"):
        template_of(tokenizer, "base", "none.jinja", None)
    plain = cut(chat("llama2", "plain"), *SAID)
    assert plain.turns is not None
    assert [plain.input_ids[t.closes + 1] for t in plain.turns if t.closes] == [chat("llama2").eos_id] * 2
