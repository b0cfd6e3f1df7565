"""The tokens are those of a folder's tokenizer.json, whatever class transformers takes and whatever stands beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers_for_tests import gemma, llama, neox, training_text, unigram, wordpiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from knowfuse.surface import Surface, surface_of
from knowfuse.surface.hard_texts import HARD_TEXTS
from knowfuse.surface.loading import load_tokenizer

TEXTS = [*HARD_TEXTS.values(), *training_text()[:40]]


def edit(folder: Path, **changes: Any) -> None:
    """Other values in tokenizer_config.json."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def of_file(folder: Path, **roles: str) -> Surface:
    """What the file alone makes of a text."""
    return surface_of(PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **roles), "file")


def require_cut_as_the_file(folder: Path, **roles: str) -> PreTrainedTokenizerFast:
    """The loaded tokenizer, if it cuts all texts as its file, and so does what transformers makes of it saved."""
    loaded: Any = load_tokenizer(folder)
    loaded.save_pretrained(folder / "saved")
    wanted = of_file(folder, **roles).tokenize_all([(text, True) for text in TEXTS])
    for its in (loaded, AutoTokenizer.from_pretrained(folder / "saved")):
        got = surface_of(its, "loaded").tokenize_all([(text, True) for text in TEXTS])
        assert [getattr(t, "input_ids", str(t)[-20:]).__repr__() for t in got] == [
            getattr(t, "input_ids", str(t)[-20:]).__repr__() for t in wanted
        ]
    return loaded


def test_the_file_wins_over_a_class_that_cuts_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Digits one by one in the file; GPT2Tokenizer makes a pre-tokenizer of its own, which joins them."""
    tokenizer = neox()
    digits = pre_tokenizers.Split(Regex(r"[a-f]"), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.save_pretrained(tmp_path)
    edit(tmp_path, tokenizer_class="GPT2Tokenizer")
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert type(plain).__name__ == "GPT2Tokenizer"
    loaded = require_cut_as_the_file(tmp_path, eos_token="<|endoftext|>")
    assert loaded.tokenize("a paragraph") != plain.tokenize("a paragraph")
    said = " ".join(capsys.readouterr().out.split())
    assert f"tokenizer {tmp_path}: GPT2Tokenizer of transformers cuts" in said
    assert "otherwise than tokenizer.json; the file wins" in said


@pytest.mark.parametrize("make", [llama, gemma, neox, unigram, wordpiece])
def test_a_tokenizer_that_cuts_as_its_file_is_taken_without_a_word(
    make: Callable[[], PreTrainedTokenizerFast], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = make()
    tokenizer.save_pretrained(tmp_path)
    roles = {"bos_token": tokenizer.bos_token or tokenizer.eos_token, "eos_token": tokenizer.eos_token}
    require_cut_as_the_file(tmp_path, **roles)
    assert not capsys.readouterr().out


def truncates(backend: Tokenizer) -> None:
    backend.enable_truncation(5)
    backend.enable_padding(length=40, pad_token="<unk>")


def frames(backend: Tokenizer) -> None:
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )


def lowercases(backend: Tokenizer) -> None:
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), backend.normalizer])


def adds_far_ids(backend: Tokenizer) -> None:
    """A token that is text, one that is special, and one whose space before it belongs to it."""
    backend.add_tokens([AddedToken("<table>", normalized=False), AddedToken("textwrap", lstrip=True, normalized=False)])
    backend.add_special_tokens(["<|end|>"])


@pytest.mark.parametrize("odd", [truncates, frames, lowercases, adds_far_ids])
@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True, "add_eos_token": True}, {"add_prefix_space": True}])
def test_odd_files_are_cut_as_they_say(
    odd: Callable[[Tokenizer], None], settings: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = llama()
    odd(tokenizer.backend_tokenizer)
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **roles, **settings})
    )
    loaded = require_cut_as_the_file(tmp_path, **roles)
    assert (loaded.backend_tokenizer.truncation is not None) == (odd is truncates), "left as it was"
    assert (loaded.backend_tokenizer.padding is not None) == (odd is truncates)


@pytest.mark.parametrize("settings", [{}, {"legacy": False}, {"legacy": True}, {"add_prefix_space": False}])
def test_a_llama_of_another_kind_than_its_class_makes(settings: dict[str, Any], tmp_path: Path) -> None:
    """A space before every text in the file; LlamaTokenizer asks `legacy` and `add_prefix_space`."""
    llama().save_pretrained(tmp_path)
    edit(tmp_path, tokenizer_class="LlamaTokenizer", **settings)
    require_cut_as_the_file(tmp_path, bos_token="<s>", eos_token="</s>")


def test_special_tokens_that_the_file_lacks_get_roles_and_cut_no_text(tmp_path: Path) -> None:
    """As a chat model's tokenizer_config.json adds them; one role twice."""
    llama().save_pretrained(tmp_path)
    size = len(llama())
    edit(tmp_path, eos_token="<|im_end|>", pad_token="<|im_end|>", extra_special_tokens=["<|im_start|>", "<|im_end|>"])
    its = surface_of(load_tokenizer(tmp_path), "mine")
    assert its.vocabulary_size == size + 2
    assert its.eos_id in (size, size + 1)
    text = "text <|im_end|> and <|im_start|> stay text"
    assert (
        its.tokenize(text).input_ids[1:-1].tolist()
        == of_file(tmp_path, bos_token="<s>", eos_token="</s>").tokenize(text).input_ids[1:-1].tolist()
    )
    assert its.tokenize(text).input_ids[-1] == its.eos_id


def test_added_tokens_that_cut_text_and_stand_in_one_of_the_two_files_are_refused(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    entry = {
        "content": "paragraph",
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "normalized": False,
        "special": False,
    }
    edit(tmp_path, added_tokens_decoder={str(len(llama())): entry})
    message = r"tokenizer\.json cuts 'a paragraph bparagraph' otherwise than .*: its tokenizer_config\.json has other added tokens"
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_a_bare_file_and_one_in_its_folder(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path / "tokenizer.json").eos_token == "</s>"
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(str(tmp_path / "tokenizer.json")).eos_token is None


@pytest.mark.parametrize(
    ("entry", "got"),
    [
        ({"id": 700, "content": "<gap>"}, 500),
        ({"id": 2, "content": "<again>"}, 500),
        ({"id": 700, "content": "</s>"}, 2),
    ],
)
def test_ids_that_the_library_would_change_are_refused(tmp_path: Path, entry: dict[str, Any], got: int) -> None:
    """Over a gap, of another token's id, and of a token that has another id: each would silently be another row."""
    llama().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    state = json.loads(path.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    state["added_tokens"].append({**entry, **flags, "special": True})
    path.write_text(json.dumps(state))
    message = f"gives its added token '{entry['content']}' the id {entry['id']}, and the tokenizers library makes it {got}: its ids"
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)
