"""`python -m knowfuse.probe`: what it finds, says and writes, and what it refuses."""

import json
import math
from pathlib import Path

import hydra
import numpy as np
import pytest
from commands_for_tests import ended, run_python
from experiments_for_tests import TINY_TRAINING, composed

from knowfuse.evaluation import oracle

PROBED = [*TINY_TRAINING, "trainer.max_steps=128", "trainer.val_check_interval=100"]


def listing(cache: Path) -> set[Path]:
    return {path for path in (cache / "traces").rglob("*") if path.is_file()}


def test_it_says_whether_fusing_will_pay(tiny_cache: Path, tmp_path: Path) -> None:
    """Its figures are those of the LLMs on the documents that it names; every part is the run in small; no source reads the text.

    A rate at which nothing is learnt is tried once, on the smallest part. Sources that hardly learnt know less than CLM learns.
    """
    read, rates = listing(tiny_cache), "clm_learning_rates=[1e-9,2e-3]"
    asked = [*PROBED, rates, "documents=12", f"hydra.run.dir={tmp_path}"]
    said = " ".join(run_python("-m", "knowfuse.probe", *asked, cache=tiny_cache).split())
    found = json.loads((tmp_path / "probe.json").read_text())
    assert listing(tiny_cache) == read
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["probe.json"], "no checkpoint is kept"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = ended("-m", "knowfuse.probe", *asked, "minutes=1", cache=tiny_cache)
    assert "holds probe.json of a run, an evaluation or a probe, and nothing is overwritten" in " ".join(
        again.stderr.split()
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    parts = found["parts"]
    assert [(part["share"], part["steps"]) for part in parts] == [(1 / 8, 16), (1 / 4, 32), (1 / 2, 64)]
    assert {part["learning_rate"] for part in parts} == {2e-3}
    assert [part["passes"] for part in parts] == pytest.approx([parts[-1]["passes"]] * 3, rel=0.2), "the run's"
    cfg = composed("train", *PROBED, f"cache={tiny_cache}")
    prepared = hydra.utils.instantiate(cfg, _convert_="all").prepare()
    fusion, validation = prepared.corpus.split("fusion"), prepared.corpus.split("validation")
    assert [part["num_bytes"] for part in parts] == [fusion[n - 1 :: n].num_bytes.sum() for n in (8, 4, 2)]
    assert found["num_bytes"] == fusion.num_bytes.sum()
    chosen = validation.take(np.linspace(0, len(validation) - 1, 12).round().astype(int))
    bits, scores = math.log(2) * chosen.num_bytes.sum(), prepared.source_scores(chosen)
    want = {name: sum(its.nats[i] for i in chosen.names) / bits for name, its in scores.items()}
    assert found["sources"] == pytest.approx(want, abs=1e-9)
    assert found["oracle"]["value"] == pytest.approx(sum(oracle(scores).nats.values()) / bits, abs=1e-9)
    assert found["before"] == pytest.approx(want["llama2"], abs=1e-9), "the target is a copy of it"

    clm, gain = found["clm"], found["payoff"]["gain"]
    assert clm["value"] < parts[-1]["bits_per_byte"] < found["oracle"]["value"]
    assert f"{found['oracle']['value']:.3f}" in said
    assert f"{clm['value']:.3f} ± {clm['error']:.3f}" in said
    assert "fusing has little to give: plain CLM on this text ends below all that the sources know of it" in said
    assert (
        f"expected gain over plain CLM {gain['value']:.3f} ± {gain['error']:.3f} bits per byte after {parts[-1]['passes']:.1f} passes"
        in said
    )


@pytest.mark.long
def test_two_processes_probe_together(tiny_cache: Path, tmp_path: Path) -> None:
    """Each fit has a strategy of its own, and the first rank's clock counts: the fits are those of one process, but for the order of sums."""
    asked = [*PROBED, "documents=12", "clm_learning_rates=[2e-3]", "batch_blocks=2"]
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "batch_blocks=1"]
    found = []
    for name, how in {"one": [], "two": two}.items():
        run_python("-m", "knowfuse.probe", *asked, *how, f"hydra.run.dir={tmp_path / name}", cache=tiny_cache)
        found.append(json.loads((tmp_path / name / "probe.json").read_text()))
    one, both = ([part["bits_per_byte"] for part in its["parts"]] for its in found)
    assert both == pytest.approx(one, rel=1e-3)
    assert len(one) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["documents=0"], "documents is 0: it must be a whole number above 0"),
        (["minutes=-1"], "minutes is -1: it must be a number above 0"),
        (["trainer.max_steps=100"], "too little to probe: corpus 'quickstart' has"),
        (["fusion_share=0.02"], "too little to probe: corpus 'quickstart' has"),
        (["fusion_share=0"], "fusion_share is 0: it is a share, above 0 and at most 1"),
    ],
)
def test_what_it_refuses(tiny_cache: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    done = ended("-m", "knowfuse.probe", *PROBED, *overrides, f"hydra.run.dir={tmp_path}", cache=tiny_cache)
    assert done.returncode != 0
    assert message in done.stderr
