"""Data sets of the `datasets` package, from local folders in the hub's layout: splits, columns, configurations, limits."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from knowfuse.text.document import Split, side_of
from knowfuse.text.findings import Findings
from knowfuse.text.hub_dataset import HubDataset
from knowfuse.text.hub_texts import HubTexts
from knowfuse.text.mixture import hub_dataset

SHARES: dict[Split, float] = {"validation": 0.2, "test": 0.2, "fusion": 0.6}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets"


def folder_of(path: Path, **splits: Any) -> str:
    """Each split with a column `text`, or with these columns."""
    path.mkdir(parents=True)
    for split, column in splits.items():
        table = pa.table(column if isinstance(column, dict) else {"text": column})
        pq.write_table(table, path / f"{split}-00000-of-00001.parquet")
    return str(path)


def sides_of(path: str, seed: str | None = None, **settings: Any) -> tuple[dict[str | None, list[str]], Findings]:
    texts, findings = HubTexts("one", HubDataset(path, **settings), SHARES), Findings()
    sides: dict[str | None, list[str]] = {}
    for raw in [*texts.held_out(findings), *texts.training(findings, seed)]:
        sides.setdefault(raw.split, []).append(raw.text)
    return sides, findings


def numbered(word: str, count: int) -> list[str]:
    return [f"{word} {n}" for n in range(count)]


@pytest.mark.parametrize("streaming", [False, True])
def test_its_own_splits_are_kept(tmp_path: Path, streaming: bool) -> None:
    data = folder_of(tmp_path / "a", train=["a", None, ""], validation=["v"], test=["t"])
    sides, findings = sides_of(data, streaming=streaming)
    assert sides == {"fusion": ["a"], "validation": ["v"], "test": ["t"]}
    assert findings.skipped == {"null": 1, "empty": 1}
    assert findings.first["null"] == f"data set {data!r}, split 'train', row 1"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["train", "test"])
def test_one_split_is_split_by_hash(tmp_path: Path, name: str, streaming: bool) -> None:
    texts = numbered("text", 50)
    sides, _ = sides_of(folder_of(tmp_path / "a", **{name: texts}), streaming=streaming)
    assert sides == {side: [t for t in texts if side_of(t, SHARES) == side] for side in SHARES}


def test_a_side_without_a_split_of_its_own_is_a_share_of_the_training_split(tmp_path: Path) -> None:
    texts = numbered("text", 50)
    data = folder_of(tmp_path / "a", train=texts, test=["t"])
    sides, _ = sides_of(data, validation_split=None)
    shares: dict[Split, float] = {"validation": 0.2, "fusion": 0.8}
    assert sides == {"test": ["t"]} | {side: [t for t in texts if side_of(t, shares) == side] for side in shares}
    assert sides_of(data, validation_split="test", test_split=None)[0]["validation"] == ["t"]
    part = sides_of(data, validation_split="test", train_split="train[10%:20%]")[0]
    assert part == {"test": ["t"], "validation": ["t"], "fusion": texts[5:10]}
    parts = sides_of(data, validation_split="test", train_split="train[:10%]+train[-10%:]")[0]
    assert parts["fusion"] == texts[:5] + texts[-5:]


def test_a_folder_is_what_its_files_hold_whenever_they_were_changed(tmp_path: Path) -> None:
    """As an archive unpacks them that gives all files one time."""
    data = folder_of(tmp_path / "a", train=["before"], validation=["v"], test=["t"])
    file = next(Path(data).glob("train*"))
    changed = file.stat().st_mtime_ns
    assert sides_of(data)[0]["fusion"] == ["before"]
    pq.write_table(pa.table({"text": ["after!"]}), file)
    os.utime(file, ns=(changed, changed))
    assert sides_of(data)[0]["fusion"] == ["after!"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            r"has no split 'validation', it has 'train', 'test': set its validation_split to one of them, or to null for corpus",
        ),
        ({"validation_split": "dev"}, r"has no split 'dev', it has 'train', 'test': set its validation_split"),
        (
            {"validation_split": None, "train_split": "all"},
            r"has no split 'all', it has .*: set its train_split to one of them",
        ),
        (
            {"validation_split": None, "text_field": "body"},
            r"split 'test' has no field 'body', it has 'text', 'ids', 'none', 'some': set",
        ),
        (
            {"validation_split": None, "text_field": "ids"},
            r"split 'test', row 0 has no text in field 'ids', but \[1, 2\]",
        ),
        ({"validation_split": None, "text_field": "none"}, r"split 'test' has nothing but nulls in field 'none'"),
        (
            {"name": "main", "validation_split": None},
            r"cannot be read \(ValueError: BuilderConfig 'main' not found.*check its path, name",
        ),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_data_set_lacks_is_named(
    tmp_path: Path, streaming: bool, settings: dict[str, Any], message: str
) -> None:
    columns = {"text": ["a", "b"], "ids": [[1, 2], [3]], "none": pa.nulls(2), "some": pa.array([None, "x"])}
    data = folder_of(tmp_path / "a", train=columns, test=columns)
    with pytest.raises(ValueError, match=message) as caught:
        sides_of(data, streaming=streaming, **settings)
    assert repr(data) in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_and_limits(tmp_path: Path, streaming: bool) -> None:
    """Limits are of texts that are read; with a seed they are drawn, and the same is drawn again."""
    columns = {"q": [None, *numbered("why", 30)], "a": [None, *numbered("so", 30)]}
    data = folder_of(tmp_path / "a", train=columns, validation=columns, test=columns)
    settings = {"text_field": ["q", "a"], "num_held_out": 2, "streaming": streaming}
    texts = [f"why {n}\nso {n}" for n in range(30)]
    sides, _ = sides_of(data, num_documents=3, **settings)
    assert sides == {"test": texts[:2], "validation": texts[:2], "fusion": texts[:3]}
    assert sides_of(data, num_bytes=len(texts[0]) + 1, **settings)[0]["fusion"] == texts[:2]
    drawn = [sides_of(data, seed, num_documents=10, **settings)[0]["fusion"] for seed in ("0 one", "0 one", "1 one")]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert set(drawn[0]) < set(texts)
    assert drawn[0] != texts[:10]


def test_configurations_and_folders_in_a_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for name in ("main", "other"):
        folder_of(folder / name, train=numbered(name, 9))
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("main", "other")]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    texts = [text for side in sides_of(str(folder), name="other")[0].values() for text in side]
    assert sorted(texts) == numbered("other", 9)
    with pytest.raises(ValueError, match=r"cannot be read \(ValueError: Config name is missing(.|\n)*main.*other"):
        sides_of(str(folder))


@pytest.mark.parametrize("name", ["data [1]", "a*b?", "100% #1", "\u00fcn\u00ef, {c}"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_is_a_name_and_never_a_pattern(tmp_path: Path, streaming: bool, name: str) -> None:
    data = folder_of(tmp_path / name / "inner", train=["a"], validation=["v"], test=["t"])
    assert sides_of(data, streaming=streaming)[0] == {"fusion": ["a"], "validation": ["v"], "test": ["t"]}


def test_the_state_of_a_folder_is_its_content(tmp_path: Path) -> None:
    """Not its name, and not whether it was streamed."""
    one = folder_of(tmp_path / "a", train=["a"], test=["t"])
    same = folder_of(tmp_path / "b" / "[c]", train=["a"], test=["t"])
    other = folder_of(tmp_path / "d", train=["a"], test=["u"])
    states = [json.dumps(HubTexts("one", HubDataset(path), SHARES).state(None)) for path in (one, same, other)]
    assert states[0] == states[1]
    assert states[0] != states[2]
    assert json.dumps(HubTexts("one", HubDataset(one, num_documents=3), SHARES).state(None)) != states[0]


def test_without_network_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError,
        match=r"data set 'nobody/nothing', that is neither a folder here nor to be had from the hub, cannot be read "
        r"\(ConnectionError: .*check its path, name, revision and the network, or download it and give the folder",
    ):
        hub_dataset("nobody/nothing", 1000, cache="unused")


def test_without_network_it_is_found_where_datasets_keeps_it(
    tmp_path: Path, cache_of_datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is that of what is kept; another one is refused, which `datasets` itself would not do."""
    import datasets

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    builder = datasets.load_dataset_builder(folder_of(tmp_path / "kept", train=numbered("text", 9)))
    builder.download_and_prepare(str(cache_of_datasets / "nobody___kept" / "default" / "0.0.0" / COMMIT))
    for revision in (None, COMMIT):
        texts = HubTexts("one", HubDataset("nobody/kept", revision=revision), SHARES)
        assert texts.rows.commit == COMMIT
        assert sorted(raw.text for raw in texts.training(Findings(), None)) == numbered("text", 9)
    other = HubTexts("one", HubDataset("nobody/kept", revision=COMMIT[::-1]), SHARES)
    with pytest.raises(
        ValueError, match=f"revision {COMMIT[::-1]} is not in the cache of datasets, which has {COMMIT}"
    ):
        list(other.training(Findings(), None))


def test_the_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder_of(tmp_path / "a", train=["a"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"read with the datasets package, which is not installed: pip install 'knowfuse\[hub\]'"
    ):
        hub_dataset(data, 1000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "openai/gsm8k",
            r"corpus\.datasets\.math is 'openai/gsm8k': it must map path, and what it needs of name, revision",
        ),
        ({"name": "main"}, r"corpus\.datasets\.math is \{'name': 'main'\}: it must map path"),
        ({"path": "a", "split": "train"}, r"it must map path, and what it needs of .*train_split, validation_split"),
        ({"path": 3}, r"path of data set 3 is 3: it must be a text"),
        ({"path": "a", "train_split": None}, r"train_split of data set 'a' is None: it must be a text$"),
        ({"path": "a", "name": 3}, r"name of data set 'a' is 3: it must be a text or null"),
        ({"path": "a", "streaming": "yes"}, r"streaming of data set 'a' is 'yes': it must be true or false"),
        (
            {"path": "a", "num_documents": 0},
            r"num_documents of data set 'a' is 0: it must be a whole number above 0, or null",
        ),
        ({"path": "a", "num_bytes": 1.5}, r"num_bytes of data set 'a' is 1\.5: it must be a whole number"),
        ({"path": "a", "text_field": []}, r"text_field of data set 'a' is \[\]: it must be the name of a field"),
    ],
)
def test_settings_that_cannot_be(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HubDataset.of(settings, "math")
