"""`python -m knowfuse.surface` on tokenizers saved to disk: what it says, and how it ends."""

from pathlib import Path

import pytest
from commands_for_tests import FORKED_AND_STARTED, Run
from tokenizers import normalizers
from tokenizers_for_tests import gemma, llama, neox, wordpiece
from transformers import ByT5Tokenizer

from knowfuse.surface.__main__ import main
from knowfuse.surface.hard_texts import HARD_TEXTS


@FORKED_AND_STARTED
def test_facts_of_two_tokenizers(by: Run, tmp_path: Path) -> None:
    """As a user runs it; exit status 0, since every byte is recovered."""
    llama().save_pretrained(tmp_path / "llama")
    neox().save_pretrained(tmp_path / "neox")
    said = by("-m", "knowfuse.surface", str(tmp_path / "llama"), str(tmp_path / "neox"), cache=tmp_path).well()
    one, other = (" ".join(part.split()) for part in said.split(str(tmp_path / "neox")))
    for fact in (
        "family sentencepiece (BPE)",
        f"vocabulary {len(llama())} ids, 3 without bytes",
        "normalises nothing",
        "dummy prefix a space before a text",
        "special roles BOS 1 '<s>', EOS 2 '</s>', unknown 0 '<unk>'",
        f"bytes recovered in {len(HARD_TEXTS)} of {len(HARD_TEXTS)} hard texts",
        "lone surrogate refused",
    ):
        assert fact in one
    for fact in ("family byte_level (BPE)", "dummy prefix none", "special roles EOS 0 '<|endoftext|>' in place of BOS"):
        assert fact in other


def test_a_tokenizer_that_loses_bytes_shows_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = gemma()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), tokenizer.backend_tokenizer.normalizer]
    )
    tokenizer.save_pretrained(tmp_path)
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "normalises      NFC\n" in said
    assert f"recovered in {len(HARD_TEXTS) - 1} of" in said
    assert (
        r"lost in decomposed accents: spells b'\xc3\xa9j\xc3\xa0 vu, \xc3\x85ngst' where the text has b'e\xcc\x81"
        in said
    )
    assert ascii(HARD_TEXTS["decomposed accents"]) in said


def test_what_cannot_be_read_is_named_and_the_others_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path / "byt5")
    llama().backend_tokenizer.save(str(tmp_path / "bare.json"))
    llama().save_pretrained(tmp_path / "llama")
    (tmp_path / "broken.json").write_text("{}")
    (tmp_path / "broken.gguf").write_bytes(b"not a model")
    names = ["nowhere", "broken.json", "broken.gguf", "byt5", "bare.json", "llama"]
    assert main([str(tmp_path / name) for name in names]) == 1
    said = capsys.readouterr()
    for line, name in zip(said.err.splitlines(), names[:-1], strict=True):
        assert str(tmp_path / name) in line
    for error in (
        "nowhere: cannot be loaded (",
        "broken.json: cannot be loaded (",
        "broken.gguf: cannot be loaded (",
        "byt5' (ByT5Tokenizer) hides the bytes of its tokens",
        "bare.json' has neither BOS nor EOS",
    ):
        assert error in said.err
    assert said.out.startswith(f"{tmp_path / 'llama'}\n  family          sentencepiece (BPE)\n")


def test_a_bare_tokenizer_json_is_told_its_bos_and_eos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bare.json"
    llama().backend_tokenizer.save(str(path))
    assert main([str(path), "--bos", "<s>", "--eos", "</s>"]) == 0
    assert "BOS 1 '<s>' as asked, EOS 2 '</s>' as asked" in capsys.readouterr().out
    assert main([str(path), "--eos", "<eos>"]) == 1
    assert (
        "eos '<eos>' is no token of its vocabulary: give one of its special tokens ('<unk>', "
        in capsys.readouterr().err
    )
    assert main([str(path), "--eos", "▁the"]) == 1
    assert "eos '▁the' is a piece of text, which documents hold: give one of" in capsys.readouterr().err


def test_other_ends_of_texts_than_the_tokenizers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gemma().save_pretrained(tmp_path)
    assert main([str(tmp_path), "--bos", "</s>", "--eos", "<unused0>"]) == 0
    said = capsys.readouterr().out
    unused = gemma().convert_tokens_to_ids("<unused0>")
    assert f"special roles   BOS 2 '</s>' as asked, EOS {unused} '<unused0>' as asked, unknown 0 '<unk>'\n" in said
    assert "special tokens  '<unk>', '<s>', '</s>', '<table>', '<unused0>'\n" in said
    assert main([str(tmp_path), "--eos", "null"]) == 0
    assert "BOS 1 '<s>', no EOS, unknown 0 '<unk>'" in capsys.readouterr().out


def test_a_tokenizer_json_in_its_folder_knows_its_roles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wordpiece(lowercase=True).save_pretrained(tmp_path)
    assert main([str(tmp_path / "tokenizer.json")]) == 1
    said = capsys.readouterr().out
    assert "BOS 1 '[CLS]', EOS 2 '[SEP]'" in said
    assert "normalises      Lowercase, BertPreTokenizer" in said
    assert "lost in upper case: spells b'capitals, all an' where the text has b'Capitals, ALL an' (byte 0)" in said
