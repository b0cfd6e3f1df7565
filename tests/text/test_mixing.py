"""Files and data sets become one corpus; the same checks, whichever it is."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from knowfuse.text.document import side_of
from knowfuse.text.mixture import hub_dataset, mixture, text_files

SHARES: dict[str, Any] = {"validation_share": 0.2, "test_share": 0.2}


def texts_of(word: str, count: int = 60, words: int = 5) -> list[str]:
    return [f"{word} {n} " + "and so on " * words for n in range(count)]


def folder_of(path: Path, **splits: list[Any]) -> str:
    path.mkdir(parents=True)
    for split, texts in splits.items():
        pq.write_table(pa.table({"text": texts}), path / f"{split}-00000-of-00001.parquet")
    return str(path)


def txt(path: Path, texts: list[str]) -> str:
    path.write_text("\n\n".join(texts))
    return str(path)


@pytest.fixture(autouse=True)
def cache_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def test_crlf_and_brackets_and_nulls_the_three_faults_there_were(tmp_path: Path) -> None:
    texts = [f"line one of {n}\r\nline two of {n}" for n in range(40)]
    (tmp_path / "a.txt").write_bytes("\r\n\r\n".join(texts).encode())
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    for name in ("a.txt", "a.jsonl"):
        corpus = text_files({"w": [f"{tmp_path}/{name}"]}, 1000, **SHARES)
        assert sorted(d.text for d in corpus.documents) == sorted(texts)
    sides = {side: [f"a {side}", None, f"b {side}"] for side in ("train", "validation", "test")}
    corpus = hub_dataset(folder_of(tmp_path / "data [1] *", **sides), 1000)
    assert len(corpus.documents) == 6
    assert corpus.skipped == {"null": 3}


def test_several_are_one_corpus_whose_own_splits_are_kept(tmp_path: Path) -> None:
    """What one data set tests on is trained on nowhere, whichever comes first."""
    shared = "this text is in the test split of one and the training split of another"
    one = folder_of(tmp_path / "one", train=[*texts_of("one"), shared])
    two = folder_of(tmp_path / "two", train=texts_of("two"), validation=["two v"], test=["two t", shared])
    files = {"mine": [txt(tmp_path / "a.txt", texts_of("mine"))]}
    corpus = mixture(1000, {"one": {"path": one}, "two": {"path": two}}, files, **SHARES)
    assert corpus.domains == ["mine", "one", "two"]
    assert [d.text for d in corpus.split("test", domain="two")] == ["two t", shared]
    assert [d.text for d in corpus.split("validation", domain="two")] == ["two v"]
    assert shared not in {d.text for d in corpus.split("fusion")}
    shares = {"validation": 0.2, "test": 0.2, "fusion": 0.6}
    for d in [*corpus.split("fusion", "validation", "test", domain="one"), *corpus.split("fusion", domain="mine")]:
        assert d.split == side_of(d.text, shares)  # type: ignore[arg-type]


@pytest.mark.parametrize("weigh_by", ["bytes", "documents"])
def test_what_is_trained_on_is_as_the_weights(
    tmp_path: Path, weigh_by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within one text, as far as the scarcest reaches; other sides have what came along."""
    paths = {name: txt(tmp_path / f"{name}.txt", texts_of(name, 400, words)) for name, words in (("a", 2), ("b", 9))}
    files = {name: [path] for name, path in paths.items()}
    corpora = [
        text_files(files, 1000, **SHARES, weights={"a": 3, "b": 1}, weigh_by=weigh_by, seed=seed)
        for seed in (0, 0, 1, None)
    ]
    for corpus in corpora:
        fusion = {name: corpus.split("fusion", domain=name) for name in files}
        size = {n: sum(d.num_bytes for d in ds) if weigh_by == "bytes" else len(ds) for n, ds in fusion.items()}
        assert abs(size["a"] / 3 - size["b"]) <= (110 if weigh_by == "bytes" else 1)
        assert corpus.count("validation", "a") > 0
    everything = text_files(files, 1000, **SHARES)
    assert corpora[0].count("fusion", "a") == everything.count("fusion", "a"), "the scarcest is all there"
    kept = [{d.text for d in corpus.documents} for corpus in corpora]
    assert kept[0] == kept[1]
    assert kept[0] != kept[2]
    first = [d.text for d in corpora[3].split("fusion", domain="b")]
    assert first == [d.text for d in everything.split("fusion", domain="b")][: len(first)]
    assert "taken by their weights, until one domain has no more: a " in capsys.readouterr().out


def test_a_start_finds_the_corpus_while_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is not asked again; what was left out is still known."""
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": t}) for t in [*texts_of("a"), None, "half \ud83d"]))
    cache = str(tmp_path / "cache")
    first = text_files({"one": [str(path)]}, 1000, **SHARES, cache=cache)
    moved = path.rename(tmp_path / "moved.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr("knowfuse.text.text_files.texts_in", None)
        second = text_files({"one": [str(moved)]}, 1000, **SHARES, cache=cache)
    assert second.skipped == {"null": 1, "half a surrogate pair": 1}
    assert [d.text for d in second.documents] == [d.text for d in first.documents]
    moved.write_text("\n".join(json.dumps({"text": t}) for t in texts_of("b")))
    assert {d.text for d in text_files({"one": [str(moved)]}, 1000, **SHARES, cache=cache).documents} == set(
        texts_of("b")
    )


def test_what_is_left_out_is_said_with_its_first_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": t}) for t in [*texts_of("a"), None, "half \ud83d", "half \ud83d"]))
    text_files({"one": [str(path)]}, 1000, **SHARES)
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: 2 half a surrogate pair, the first at corpus file" in said
    assert "line 62" in said


def test_bad_lines_of_all_files_are_told_in_one_start(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join([json.dumps({"text": f"{name} {n}"}) for n in range(9)] + ["{"] * 4)
        )
    files = {name: [f"{tmp_path}/{name}.jsonl"] for name in ("a", "b")}
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match="the text has 8 places that cannot be read") as caught:
        text_files(files, 1000, cache=str(cache))
    assert str(caught.value).count("is not JSON") == 8
    assert not [path for path in (cache / "corpora").iterdir() if path.is_dir()], "nothing is kept that is not whole"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_share": 0.0}, r"corpus\.validation_share is 0\.0: it must be a number between 0 and 1"),
        ({"test_share": 1.5}, r"corpus\.test_share is 1\.5: it must be a number"),
        ({"test_share": "x"}, r"corpus\.test_share is 'x': it must be a number"),
        ({"test_share": True}, r"corpus\.test_share is True: it must be a number"),
        ({"validation_share": 0.5, "test_share": 0.5}, r"leave nothing to train on: their sum must be less than 1"),
        (
            {"weights": {"one": 1}},
            r"corpus\.weights is of one, the domains are one, two: give each .*weights=\{one: 1, two: 1\}'",
        ),
        (
            {"weights": {"one": 1, "two": 1, "three": 1}},
            r"corpus\.weights is of one, two, three, the domains are one, two",
        ),
        ({"weights": [1, 2]}, r"corpus\.weights is of \[1, 2\], the domains are"),
        ({"weights": {"one": -1, "two": 1}}, r"corpus\.weights\.one is -1: it must be a positive number"),
        ({"weights": {"one": 0, "two": 1}}, r"corpus\.weights\.one is 0: it must be a positive number"),
        ({"weights": {"one": "a lot", "two": 1}}, r"corpus\.weights\.one is 'a lot': it must be a positive number"),
        ({"weights": {"one": float("nan"), "two": 1}}, r"corpus\.weights\.one is nan: it must be a positive number"),
        ({"weights": {"one": float("inf"), "two": 1}}, r"corpus\.weights\.one is inf: it must be a positive number"),
        ({"weights": {"one": True, "two": 1}}, r"corpus\.weights\.one is True: it must be a positive number"),
        ({"weigh_by": "tokens"}, r"corpus\.weigh_by is 'tokens': it must be 'bytes' or 'documents'"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    """Whether the domains are files or data sets."""
    path = txt(tmp_path / "a.txt", texts_of("a"))
    data = folder_of(tmp_path / "data", train=texts_of("b"))
    with pytest.raises(ValueError, match=message):
        text_files({"one": [path], "two": [path]}, 1000, **settings)
    with pytest.raises(ValueError, match=message):
        mixture(1000, {"one": {"path": data}, "two": {"path": data}}, **settings)


def test_domains_are_checked_whichever_they_are(tmp_path: Path) -> None:
    path, data = txt(tmp_path / "a.txt", texts_of("a")), folder_of(tmp_path / "data", train=texts_of("b"))
    with pytest.raises(ValueError, match=r"corpus\.datasets has a domain 'mean', and domains name columns and files"):
        hub_dataset(data, 1000, domain="mean")
    with pytest.raises(ValueError, match=r"corpus\.files has a domain 'mean', and domains name columns and files"):
        mixture(1000, None, {"mean": [path]})
    with pytest.raises(ValueError, match=r"domain 'one' is in corpus\.datasets and in corpus\.files"):
        mixture(1000, {"one": {"path": data}}, {"one": [path]})
    with pytest.raises(ValueError, match=r"the mixture has neither corpus\.datasets nor corpus\.files: give it some"):
        mixture(1000)
    with pytest.raises(ValueError, match=r"domain 'one' has no document on its '\w+' side, 1 in all"):
        hub_dataset(folder_of(tmp_path / "few", train=["only one"]), 1000, domain="one")
