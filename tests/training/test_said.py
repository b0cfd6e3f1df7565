"""What each source taught, by domain and from validation to validation: logged, kept over a stop, summed up."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from experiments_for_tests import PowerCut, documents, fusion_module, local_llm, readers, trainer
from lightning.pytorch.loggers import CSVLogger
from tokenizers_for_tests import surface

from knowfuse.fusion.min_ce import min_ce
from knowfuse.training.data import FusionDataModule
from knowfuse.training.finished import Fit
from knowfuse.training.fit import fit
from knowfuse.types import IGNORE, MASS_CLASSES, ROW_CLASSES, FusionBatch

NAMES = ("neox", "unigram")


def data(traces: Path) -> FusionDataModule:
    """Training documents of two domains; each block may hold both."""
    code = [replace(d, domain="code" if n % 3 else "tests") for n, d in enumerate(documents(30))]
    return FusionDataModule(
        code,
        documents(8, "validation"),
        surface("llama"),
        readers(traces, code),
        block_tokens=96,
        batch_blocks=3,
        seed=1,
    )


def run(folder: Path, name: str, steps: int = 4, stop: int | None = None, is_fused: bool = True) -> Fit:
    module = fusion_module(local_llm(folder / "target"), is_fused=is_fused)
    make = trainer(steps, also=[PowerCut(stop)] if stop else [])
    ckpt_path = folder / name / "last.ckpt"
    return fit(
        "job",
        folder / name,
        module,
        data(folder / "traces"),
        make,
        2e-3,
        lambda: [CSVLogger(folder / name, name="csv")],
        ckpt_path if ckpt_path.exists() else None,
    )


def counted(batches: list[FusionBatch], domains: list[str]) -> dict[str, dict[str, float]]:
    """Row by row: what share of the rows of each domain MinCE gives to each source."""
    won: dict[str, dict[str, list[float]]] = {name: {"code": [], "tests": []} for name in NAMES}
    for batch in batches:
        assert batch.sources is not None
        fused = min_ce(batch.sources, batch.document_ids, batch.label_bytes)
        for b, t in torch.nonzero(batch.labels != IGNORE).tolist():
            for s, name in enumerate(NAMES):
                won[name][domains[int(batch.domains[b, t])]].append(float(fused.weights[b, s, t]))
    return {name: {domain: sum(its) / len(its) for domain, its in of.items() if its} for name, of in won.items()}


def test_shares_of_a_fit_are_those_of_its_batches(tmp_path: Path) -> None:
    """Between two validations, and in all; the metrics file has the same; a stop changes nothing."""
    whole = run(tmp_path, "whole")
    said = whole.sources
    assert said is not None
    module = data(tmp_path / "traces")
    assert sorted(module.domains) == ["code", "tests"]
    loader = iter(module.train_dataloader())
    batches = [next(loader) for _ in range(4)]
    assert [point["tokens"] for point in said["over_training"]] == [tokens for tokens, _ in whole.history]
    for point, seen in zip(said["over_training"], (batches[:2], batches[2:]), strict=True):
        want = counted(seen, module.domains)
        for name in NAMES:
            assert point["share"][name] == pytest.approx(want[name], abs=1e-12)
    want = counted(batches, module.domains)
    assert sum(said["labelled"].values()) == whole.history[-1][0]
    for name in NAMES:
        assert said["share"][name] == pytest.approx(want[name], abs=1e-12)
        assert list(said["mass"][name]) == list(MASS_CLASSES)
        assert sum(said["mass"][name].values()) == pytest.approx(1.0, abs=1e-12)
        assert list(said["rows"][name]) == list(ROW_CLASSES)
    with next((tmp_path / "whole" / "csv").glob("*/metrics.csv")).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/bits_per_byte"]]
    for row, point in zip(rows, said["over_training"], strict=True):
        for name in NAMES:
            for domain, share in point["share"][name].items():
                assert float(row[f"share/{name}/{domain}"]) == pytest.approx(share, rel=1e-6)
                assert float(row[f"coverage/{name}/{domain}"]) == pytest.approx(point["coverage"][name][domain])
    with pytest.raises(RuntimeError, match="power"):
        run(tmp_path, "stopped", stop=3)
    assert run(tmp_path, "stopped").sources == said


def test_plain_clm_has_no_sources(tmp_path: Path) -> None:
    assert run(tmp_path, "clm", 2, is_fused=False).sources is None
