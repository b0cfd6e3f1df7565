"""Conversations of files: what is in a row, in each of its forms, and what cannot be one, told all at once."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chats_for_tests import write_jsonl

from knowfuse.text.chat import chat
from knowfuse.text.conversations import Conversations
from knowfuse.text.document import Conversation, Message
from knowfuse.text.findings import Findings

ASK, TELL = {"role": "user", "content": " h\u00e9? "}, {"role": "assistant", "content": "so"}
WANTED = Conversation(" h\u00e9? so", (Message("user", 6), Message("assistant", 2)))


def of(row: dict[str, Any]) -> tuple[Conversation | None, Findings]:
    findings = Findings()
    return Conversations().of(row, "corpus file 'x.jsonl', line", 7, findings), findings


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, TELL]},
        {"conversations": [ASK, TELL], "id": 3},
        {"conversations": [{"from": "human", "value": " h\u00e9? "}, {"from": "gpt", "value": "so"}]},
        {"prompt": " h\u00e9? ", "completion": "so"},
        {"prompt": [ASK], "completion": [TELL], "messages": None},
        {"messages": [{**ASK, "name": "Jo"}, {**TELL, "tool_calls": None, "weight": 1}], "tools": "[]", "system": ""},
    ],
)
def test_every_form_gives_the_bytes_of_the_messages(row: dict[str, Any]) -> None:
    assert of(row)[0] == WANTED


def test_an_empty_system_prompt_is_a_message_of_no_bytes() -> None:
    briefed = {"messages": [{"role": "system", "content": ""}, ASK, TELL]}
    assert of(briefed)[0] == Conversation(WANTED.text, (Message("system", 0), *WANTED.messages))


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": "a"}, "line 7 has no conversation: it has 'text', wanted are messages, conversations, or prompt and"),
        ({"prompt": "a"}, "line 7 has no conversation: it has 'prompt'"),
        ({"messages": "hello"}, "line 7 has no list of messages in field 'messages', but str 'hello'"),
        ({"messages": []}, "line 7 has no list of messages in field 'messages', but list []"),
        ({"messages": [ASK, {"content": "a"}]}, "line 7 has no role in message 2 of 'messages': {'content': 'a'}"),
        (
            {"messages": [{"role": "boss", "content": "a"}]},
            "line 7 has an unknown role 'boss' in message 1 of 'messages'",
        ),
        (
            {"messages": [{"role": ["user"], "content": "a"}]},
            "line 7 has an unknown role ['user'] in message 1 of 'messages'",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "content": [1]}]},
            "line 7 has no text in message 2 of 'messages', but list",
        ),
    ],
)
def test_what_is_no_conversation_is_a_fault_with_its_line(row: dict[str, Any], fault: str) -> None:
    found, findings = of(row)
    assert found is None
    with pytest.raises(ValueError, match="line 7") as caught:
        findings.require_no_faults()
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [ASK]}, "conversation without an answer of the assistant"),
        ({"messages": [ASK, {"role": "assistant", "content": " \n"}]}, "conversation with an empty message"),
        ({"messages": [ASK, {"role": "assistant", "content": None}]}, "conversation with an empty message"),
        ({"messages": [{"role": "system", "content": None}, ASK, TELL]}, "conversation with an empty message"),
        ({"messages": [{"role": "system", "content": " "}, ASK, TELL]}, "conversation with an empty message"),
        ({"messages": [{"role": "user", "content": ""}, TELL]}, "conversation with an empty message"),
        ({"messages": [ASK, {"role": "assistant", "content": "\ud83d"}]}, "half a surrogate pair"),
        (
            {"messages": [ASK, {**TELL, "weight": 0}, ASK, {**TELL, "weight": 1}]},
            "conversation with a message of another 'weight' than 1, and all answers are learnt alike",
        ),
        (
            {"messages": [ASK, {**TELL, "tool_calls": [{"name": "look"}]}, TELL]},
            "conversation with 'tool_calls', which no template is given",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]}]},
            "conversation with 'tool_calls', which no template is given",
        ),
        (
            {"prompt": [ASK], "completion": [{**TELL, "reasoning_content": "hm"}]},
            "conversation with 'reasoning_content', which no template is given",
        ),
        (
            {"conversations": [ASK, TELL], "system": "Be brief."},
            "conversation with 'system', which no template is given",
        ),
    ],
)
def test_where_nothing_can_be_learnt_is_counted(row: dict[str, Any], reason: str) -> None:
    found, findings = of(row)
    assert found is None
    assert findings.skipped == {reason: 1}
    assert findings.first == {reason: "corpus file 'x.jsonl', line 7"}


def rows(number: int, name: str = "") -> list[Any]:
    return [{"messages": [ASK, {"role": "assistant", "content": f"{name} answer {n}"}]} for n in range(number)]


def test_all_bad_lines_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    bad = [{"messages": "a"}, {"messages": [{"role": "boss", "content": "a"}]}, "no object"]
    one, other = write_jsonl(tmp_path / "one.jsonl", [*rows(3), *bad]), write_jsonl(tmp_path / "two.jsonl", [{"x": 1}])
    with pytest.raises(ValueError, match="the text has 4 places that cannot be read") as caught:
        chat(files={"mine": [str(one), str(other)]})
    for place in ("one.jsonl', line 4", "one.jsonl', line 5", "one.jsonl', line 6", "two.jsonl', line 1"):
        assert place in str(caught.value)


def test_a_corpus_of_conversations_of_every_file_is_built_once_and_opened(tmp_path: Path) -> None:
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows(60, "b")).encode()))
    pq.write_table(pa.Table.from_pylist(rows(60, "c")), tmp_path / "c.parquet")
    files = {
        "a": [str(write_jsonl(tmp_path / "a.jsonl", rows(60, "a")))],
        "b": [str(packed)],
        "c": [str(tmp_path / "c.parquet")],
    }
    shares = {"validation_share": 0.2, "test_share": 0.2, "cache": str(tmp_path / "cache")}
    made, found = (chat(files=files, learn=learn, **shares) for learn in ("all", "last"))
    assert made.is_chat
    assert len(made.documents) == 180
    assert made.documents.names == found.documents.names, "what is learnt is in no id, and in no corpus"
    assert len(list((tmp_path / "cache" / "corpora").glob("*/about.json"))) == 1
    first, same = made.documents[0], found.documents[0]
    assert first.contents[0] == ASK["content"]
    assert (first.messages, first.learn, same.learn) == (same.messages, "all", "last")
    sizes = [d.messages[1].num_bytes for d in found.documents]
    assert found.documents.num_bytes.tolist() == sizes
    assert made.documents.num_bytes.tolist() == [size + 6 for size in sizes]
    assert found.split("test")[:2].learn == found.with_share(0.5).split("fusion").learn == "last"


def test_weights_decide_of_which_file_how_much_is_taken(tmp_path: Path) -> None:
    files = {name: [str(write_jsonl(tmp_path / f"{name}.jsonl", rows(90, name)))] for name in ("a", "b")}
    corpus = chat(files=files, weights={"a": 3, "b": 1}, weigh_by="documents", validation_share=0.1, test_share=0.1)
    a, b = (corpus.count("fusion", domain) for domain in "ab")
    assert abs(a - 3 * b) <= 3


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"corpus.learn is 'user': choose one of assistant, last, all"):
        chat(files={"a": ["a.jsonl"]}, learn="user")
    with pytest.raises(ValueError, match=r"there are no conversations: give corpus.files or corpus.datasets"):
        chat()
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(ValueError, match=r"a.txt' is a text, not a file of conversations: give .jsonl or .parquet"):
        chat(files={"a": [str(tmp_path / "a.txt")]})
    with pytest.raises(ValueError, match=r"is empty: it has no conversation in it \(1 conversation without an answer"):
        chat(files={"a": [str(write_jsonl(tmp_path / "none.jsonl", [{"messages": [ASK]}]))]})
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has no conversations: its columns are 'text', wanted are messages"):
        chat(files={"a": [str(tmp_path / "a.parquet")]})


def test_conversations_of_a_data_set(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows(60)), folder / "train.parquet")
    corpus = chat(datasets={"mine": {"path": str(folder)}}, validation_share=0.2, test_share=0.2)
    assert len(corpus.documents) == 60
    assert corpus.documents[0].messages[0] == Message("user", 6)


def test_what_stands_beside_the_messages_of_a_table_is_seen(tmp_path: Path) -> None:
    briefed = [{**row, "id": 1, "system": "Be brief." if n < 3 else None} for n, row in enumerate(rows(60))]
    pq.write_table(pa.Table.from_pylist(briefed), tmp_path / "a.parquet")
    corpus = chat(files={"a": [str(tmp_path / "a.parquet")]}, validation_share=0.2, test_share=0.2)
    assert corpus.skipped == {"conversation with 'system', which no template is given": 3}
    assert len(corpus.documents) == 57
