"""What a target writes: the same documents however it was interrupted or batched, nothing twice, and each a document or a reason."""

import json
import re
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from chats_for_tests import chat
from experiments_for_tests import documents, forward_passes, local_llm
from tokenizers_for_tests import surface

from knowfuse.rollouts.going_on import Item, here, sayable
from knowfuse.rollouts.prompts import Prompt, prompts_of
from knowfuse.rollouts.sampling import Sampling
from knowfuse.rollouts.writing import DOCUMENTS, PARTS, Rollouts, write_rollouts
from knowfuse.rollouts.written import line_of
from knowfuse.text.document import Message
from knowfuse.text.documents import Documents

SAMPLING = Sampling(n=2, temperature=0.7, prompt_tokens=5, new_tokens=6, seed=3)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory):
    return local_llm(tmp_path_factory.mktemp("llm") / "target")


def write(llm, cache: Path, batch: int, stop: int | None = None, sampling: Sampling = SAMPLING) -> Rollouts:
    """With a power cut before that batch."""
    spelled = llm.surface()
    prompts = prompts_of(Documents.of(documents(9)), spelled, sampling.prompt_tokens, 512)

    @contextmanager
    def go_on_by():
        with here(llm, spelled, sampling, cache) as go_on:
            asked = []

            def counted(items: Sequence[Item]) -> list[list[int]]:
                if len(asked) == stop:
                    raise KeyboardInterrupt
                asked.append(items)
                return go_on(items)

            yield counted

    return write_rollouts(go_on_by, llm.fingerprint, spelled, prompts, sampling, batch, cache, {"run": "mine"})


def test_what_an_llm_has_no_text_for_is_not_said() -> None:
    """Special tokens but the EOS, and the rows that the head has beyond the tokenizer: a server draws from those too."""
    padded = replace(surface("llama"), rows=surface("llama").vocabulary_size + 9)
    may = sayable(padded)
    assert len(may) == padded.rows
    said = {i for i, piece in enumerate(padded.token_bytes) if piece} | {padded.eos_id}
    assert {i for i, it in enumerate(may) if it} == said
    fewer = sayable(replace(padded, rows=100))
    assert fewer == may[:100]


def test_a_kill_and_another_batch_size_change_nothing(llm, tmp_path: Path) -> None:
    """What was written stays as it is, and only the rest is asked for; what is finished is read."""
    whole = write(llm, tmp_path / "whole", batch=32)
    with pytest.raises(KeyboardInterrupt):
        write(llm, tmp_path / "cut", batch=3, stop=2)
    (folder,) = (tmp_path / "cut" / "rollouts").glob("*/")
    parts = {path: path.read_bytes() for path in (folder / PARTS).glob("*.jsonl")}
    assert len(parts) == 2
    assert not (folder / DOCUMENTS).exists()
    with pytest.raises(KeyboardInterrupt):
        write(llm, tmp_path / "cut", batch=2, stop=1)
    assert {path: path.read_bytes() for path in parts} == parts
    with forward_passes() as passes:
        resumed = write(llm, tmp_path / "cut", batch=100)
    assert 1 < len(passes) <= 1 + SAMPLING.new_tokens, "one batch of what was missing, and the look at what was loaded"
    assert resumed.folder.name == whole.folder.name
    assert (resumed.folder / DOCUMENTS).read_bytes() == (whole.folder / DOCUMENTS).read_bytes()
    assert not (resumed.folder / PARTS).exists()
    with forward_passes() as passes:
        assert write(llm, tmp_path / "cut", batch=1).about == whole.about
    assert not passes
    lines = [json.loads(line) for line in (whole.folder / DOCUMENTS).read_text().split("\n")[:-1]]
    assert len(lines) == whole.documents
    assert len({line["text"] for line in lines}) > len(lines) // 2, "each by its own chance"


def test_another_seed_temperature_or_prompt_is_another_folder(llm, tmp_path: Path) -> None:
    names = {
        write(llm, tmp_path, 32, sampling=sampling).folder.name
        for sampling in (SAMPLING, Sampling(1, 0.7, 5, 2, 3), Sampling(1, 0.7, 5, 2, 4), Sampling(1, 0.8, 5, 2, 3))
    }
    assert len(names) == 4


def ids(text: str) -> list[int]:
    return surface("llama").tokenize("a" + text, is_complete=False).input_ids.tolist()[2:]


def test_a_line_is_a_document_or_says_why_there_is_none() -> None:
    llama = surface("llama")
    prompt = Prompt(tuple(llama.tokenize("def wrap", is_complete=False).input_ids.tolist()), "def wrap")
    assert llama.eos_id is not None
    said = line_of(llama, prompt, [*ids("(text)"), llama.eos_id])
    assert said == {
        "text": "def wrap(text)",
        "prompt_bytes": 8,
        "is_complete": True,
        "other_tokens": said["other_tokens"],
    }
    cut = line_of(llama, prompt, [*ids("(te"), llama.token_strings.index("<0xC3>"), llama.eos_id])
    assert (cut["text"], cut["is_complete"]) == ("def wrap(te", False)
    assert line_of(llama, prompt, [llama.eos_id]) == {"left_out": "that end at once"}
    letters = [llama.token_strings.index(letter) for letter in "self"]
    assert line_of(llama, prompt, letters)["other_tokens"]


def test_an_answer_is_a_message_that_has_ended() -> None:
    llm = chat("chatml")
    prompt = Prompt((1, 2), "Hello?", (Message("user", 6),))
    letters = [llm.token_strings.index(letter) for letter in "so"]
    assert llm.eos_id is not None
    said = line_of(llm, prompt, [*letters, llm.eos_id])
    assert said["messages"] == [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "so"}]
    assert line_of(llm, prompt, letters) == {"left_out": "answers that do not end within new_tokens"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n is 0: it must be at least 1"),
        ({"prompt_tokens": 1}, "prompt_tokens is 1: it must be at least 2"),
        ({"new_tokens": 0}, "new_tokens is 0: it must be at least 1"),
        ({"temperature": 0.0}, "temperature is 0.0: it divides logits, and must be above 0"),
    ],
)
def test_sampling_that_cannot_be_is_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Sampling(**settings)
