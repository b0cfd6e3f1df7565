"""Text that a target wrote, beside the given: shares, ids, what is learnt of it, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from chats_for_tests import SAID, conversation, write_jsonl

from knowfuse.text.corpus import Corpus
from knowfuse.text.document import Document, Message
from knowfuse.text.own import Own

GIVEN = [Document(f"given text {n:03d}", "ab"[n % 2], "fusion", is_complete=n % 3 > 0) for n in range(40)]
HELD_OUT = [Document(f"held out {n}", "a", split) for n, split in enumerate(("validation", "test", "sources"))]


def rollouts(folder: Path, number: int, size: int = 14) -> str:
    """So many texts, each begun with a given one, of which so many bytes are learnt."""
    folder.mkdir()
    rows: list[object] = [
        {"text": f"begun {n:03d}\u2028" + "x" * size, "prompt_bytes": 12, "is_complete": n % 2 == 0}
        for n in range(number)
    ]
    write_jsonl(folder / "rollouts.jsonl", rows)
    return str(folder)


@pytest.mark.parametrize(("number", "share"), [(40, 0.5), (10, 0.5), (40, 0.2), (3, 0.8), (40, 1.0)])
def test_own_text_has_its_share_of_what_is_learnt(tmp_path: Path, number: int, share: float) -> None:
    """Until given or own text is all taken; both evenly spread, and given documents of two domains alike."""
    own = Own([rollouts(tmp_path / "own", number)], share)
    corpus = own.beside(Corpus.of("mine", [*HELD_OUT, *GIVEN]), tmp_path)
    fusion = corpus.split("fusion")
    by_domain = {name: corpus.count("fusion", name) for name in ("a", "b", "own")}
    given = by_domain["a"] + by_domain["b"]
    assert by_domain["own"] == number or given == len(GIVEN)
    assert abs(14 * by_domain["own"] - share * int(fusion.num_bytes.sum())) <= 14
    assert abs(by_domain["a"] - by_domain["b"]) <= 1
    for split in ("validation", "test", "sources"):
        assert corpus.split(split).names == [d.id for d in HELD_OUT if d.split == split]


def test_documents_keep_their_ids_and_prompts_are_not_learnt(tmp_path: Path) -> None:
    """Also once the corpus is opened again, which is built once."""
    folder = rollouts(tmp_path / "own", 40)
    given = Corpus.of("mine", [*HELD_OUT, *GIVEN])
    for _ in range(2):
        corpus = Own([folder]).beside(given, tmp_path)
        assert {d.id for d in GIVEN} < set(corpus.split("fusion").names), "sources read no given text again"
        first = corpus.split("fusion", domain="own")[0]
        assert (first.text, first.prompt_bytes, first.is_complete) == ("begun 000\u2028" + "x" * 14, 12, True)
        assert first.id == Document(first.text, "anywhere", "test").id
        assert not corpus.documents.is_learnt_whole
        assert corpus.split("fusion", domain="own").num_bytes.tolist() == [14] * 40
    assert len(list((tmp_path / "corpora").glob("*/about.json"))) == 1
    assert given.documents.is_learnt_whole
    assert Own().beside(given, tmp_path) is given


def test_a_corpus_is_of_its_domains_and_of_what_is_learnt(tmp_path: Path) -> None:
    """Not of another with the same texts in the same cache: shares are by domain, and of what is learnt."""
    own = Own([rollouts(tmp_path / "own", 10)])
    for domains in ("ab", "ac"):
        texts = [replace(d, domain=domains["ab".index(d.domain)]) for d in GIVEN]
        assert own.beside(Corpus.of("mine", texts), tmp_path).domains == [*domains, "own"]
    built = len(list((tmp_path / "corpora").glob("*/about.json")))
    for learn in ("assistant", "all", "all"):
        own.beside(replace(Corpus.of("mine", GIVEN), learn=learn), tmp_path)
    assert len(list((tmp_path / "corpora").glob("*/about.json"))) == built + 1, (
        "that of the assistant's is there already"
    )


def test_of_conversations_the_last_answer_is_learnt(tmp_path: Path) -> None:
    said = [{"role": role, "content": content} for role, content in SAID]
    (tmp_path / "own").mkdir()
    write_jsonl(tmp_path / "own" / "rollouts.jsonl", [{"messages": said, "other_tokens": False}])
    given = [conversation([("user", f"{n}?"), ("assistant", f"It is {n}.")]) for n in range(9)]
    corpus = Own([str(tmp_path / "own")], share=0.9).beside(Corpus.of("mine", given), tmp_path)
    own = corpus.split("fusion", domain="own")
    assert corpus.is_chat
    assert own[0].messages[-1] == Message("assistant", int(own.num_bytes[0]))
    assert own[0].prompt_bytes == own[0].num_bytes - own.num_bytes[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollouts": "mine"}, "own.rollouts is 'mine': give a list of folders, own.rollouts=[mine]"),
        (
            {"share": 0.0},
            "own.share is 0.0: it is a share of what is learnt, above 0 and at most 1; for none leave own.rollouts",
        ),
        ({"lm_weight": 2.0}, "own.lm_weight is 2.0: it is lambda on own text, and must lie in [0, 1]"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Own(**settings)


def test_text_that_cannot_be_is_refused(tmp_path: Path) -> None:
    folder, given = rollouts(tmp_path / "own", 2), Corpus.of("mine", GIVEN)
    with pytest.raises(
        ValueError, match=r"own.rollouts has '.*none', which has no rollouts.jsonl: give a folder that python -m"
    ):
        Own([str(tmp_path / "none")]).beside(given, tmp_path)
    with pytest.raises(
        ValueError, match=r"has texts, and the text of this run is conversations: give rollouts of a run of its"
    ):
        Own([folder]).beside(Corpus.of("chat", [conversation(SAID)]), tmp_path)
    with pytest.raises(
        ValueError, match=r"the text has a domain 'own', which is that of own.rollouts: give it another name"
    ):
        Own([folder]).beside(Corpus.of("mine", [Document("a", "own", "fusion")]), tmp_path)
    file = Path(folder) / "rollouts.jsonl"
    file.write_text(json.dumps({"text": "a"}) + "\n")
    with pytest.raises(ValueError, match=r"rollouts.jsonl' is cut off or damaged \(KeyError"):
        Own([folder]).beside(given, tmp_path)
