"""`python -m knowfuse.surface --chat`: one conversation as two LLMs read it, and what aligns with what."""

from pathlib import Path

import pytest
from chats_for_tests import chat_tokenizer, write_jsonl

from knowfuse.surface.__main__ import main

ROW = {"messages": [{"role": "user", "content": "so?"}, {"role": "assistant", "content": "wrap it"}]}


def test_template_message_end_and_serving_rows_of_two_llms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("chatml", "llama3"):
        chat_tokenizer(kind).save_pretrained(tmp_path / kind)
    file = write_jsonl(tmp_path / "chat.jsonl", [ROW])
    assert main([str(tmp_path / "chatml"), str(tmp_path / "llama3"), "--chat", str(file)]) == 0
    said = capsys.readouterr().out
    first, second = said.split(f"\n{tmp_path / 'llama3'}: an answer ends with '<|eot_id|>'\n")
    assert f"\n{tmp_path / 'chatml'}: an answer ends with '<|im_end|>'\n" in first
    numbered = dict(
        piece.strip().removesuffix(")").split("(")[::-1] for piece in first.splitlines()[-1].split("|") if "(" in piece
    )
    served = [piece.removesuffix(")").split("(") for piece in second.strip().split("|") if "(" in piece]
    assert "".join(text for text, _ in served[:-1]) == "wrap·it"
    following = {int(n) - 1: text for n, text in numbered.items()}
    assert [following[int(row)] for _, row in served[:-1]] == [text for text, _ in served[:-1]], (
        "one tokenizer, two templates"
    )


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = chat_tokenizer("llama3").backend_tokenizer
    chat_tokenizer("gemma").save_pretrained(tmp_path / "gemma")
    file = write_jsonl(tmp_path / "chat.jsonl", [{"messages": [{"role": "system", "content": "a"}, *ROW["messages"]]}])
    assert main([str(tmp_path / "gemma"), "--chat", str(file)]) == 1
    assert (
        "set aside: its chat template refuses a conversation of system, user, assistant: System role"
        in capsys.readouterr().out
    )
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"messages": 3}])
    assert main([str(tmp_path / "gemma"), "--chat", str(bad)]) == 1
    assert "line 1 has no list of messages in field 'messages', but int 3" in capsys.readouterr().err
    bare.save(str(tmp_path / "tokenizer.json"))
    assert main([str(tmp_path / "tokenizer.json"), "--chat", str(file)]) == 1
    assert capsys.readouterr().err
