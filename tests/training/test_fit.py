"""A fit that is stopped anywhere and goes on ends as if it had never stopped."""

import json
import os
import random
import re
import shutil
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from experiments_for_tests import PowerCut, data_module, documents, fusion_module, local_llm, readers, trainer
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from tokenizers_for_tests import surface
from transformers import LlamaConfig, LlamaForCausalLM, MptConfig, MptForCausalLM, PreTrainedModel

from knowfuse import progress
from knowfuse.llms.isolation import Packing
from knowfuse.llms.local import LocalLLM
from knowfuse.losses import Headroom, LmWeight
from knowfuse.training.data import FusionDataModule
from knowfuse.training.finished import Fit
from knowfuse.training.fit import fit, load_best, tried
from knowfuse.training.module import FusionModule
from knowfuse.training.resuming import RandomStates, Steps, require_resumable
from knowfuse.training.trainers import require_validations
from knowfuse.types import IGNORE

STEPS = 12
BATCHES = len(data_module().train_blocks) // 3  # of one epoch


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> LocalLLM:
    return local_llm(tmp_path_factory.mktemp("llm") / "target")


def with_dropout(architecture: str) -> PreTrainedModel:
    """A target whose forward pass draws from torch's random state."""
    torch.manual_seed(0)
    size = surface("llama").vocabulary_size
    if architecture == "mpt":
        llm = MptForCausalLM(MptConfig(vocab_size=size, d_model=32, n_layers=2, n_heads=4, max_seq_len=128))
        for block in llm.transformer.blocks:
            block.attn.attn_dropout_p = 0.1
        return llm
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, **shape, attention_dropout=0.1))


class Job:
    """One fit of a target with dropout on fused batches, its lm_weight rising, as often as it takes."""

    def __init__(
        self,
        target: LocalLLM,
        traces: Path,
        num_workers: int = 0,
        architecture: str = "llama",
        packing: Packing = "blocks",
    ) -> None:
        self.target, self.traces, self.packing = target, traces, packing
        self.num_workers, self.build = num_workers, partial(with_dropout, architecture)
        self.rising = LmWeight(0.1, "cosine" if num_workers else "headroom", 0.9)

    def run(
        self,
        folder: Path,
        ckpt_path: Path | None = None,
        stop: L.Callback | None = None,
        loggers: Callable[[], list[Logger]] = list,
        **options: Any,
    ) -> Fit:
        module, data, make = self.made(stop, **options)
        return fit("job", folder, module, data, make, 2e-3, loggers, ckpt_path)

    def made(
        self, stop: L.Callback | None = None, **options: Any
    ) -> tuple[FusionModule, FusionDataModule, Callable[..., L.Trainer]]:
        L.seed_everything(3, verbose=False)
        data = data_module(readers(self.traces, documents(30)), num_workers=self.num_workers, packing=self.packing)
        near = Headroom(oracle=4.7, before=5.1)  # enough that every validation moves the weight
        module = fusion_module(
            self.target, build=self.build, packing=self.packing, lm_weight=self.rising, headroom=near
        )
        return module, data, trainer(STEPS, also=[stop] if stop else [], **options)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the sources of all these fits said, written by the first."""
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def whole(target: LocalLLM, traces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit of the Llama with dropout that ran through."""
    folder = tmp_path_factory.mktemp("whole")
    Job(target, traces).run(folder / "fit")
    return folder / "fit"


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def assert_identical(one: Path, other: Path) -> None:
    """Bit by bit: the last weights, the best ones, the optimizer, and what was reported."""
    for name in ("last.ckpt", "best.ckpt"):
        mine, its = weights(one / name), weights(other / name)
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], its[key]) for key in mine), name
    states = [torch.load(f / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"] for f in (one, other)]
    for key, moments in states[0].items():
        assert all(torch.equal(value, states[1][key][name]) for name, value in moments.items())
    assert json.loads((one / "fit.json").read_text()) == json.loads((other / "fit.json").read_text())


@pytest.mark.parametrize(
    ("architecture", "num_workers", "stop", "error"),
    [
        ("llama", 0, 7, RuntimeError),  # one step past a checkpoint, in the second epoch
        ("llama", 0, 3, KeyboardInterrupt),  # in the first one
        ("mpt", 1, 11, RuntimeError),  # with batches that a worker holds ready
    ],
)
def test_a_stopped_fit_ends_bit_identical(
    target: LocalLLM,
    whole: Path,
    tmp_path: Path,
    traces: Path,
    architecture: str,
    num_workers: int,
    stop: int,
    error: type[BaseException],
) -> None:
    """Stopped between two checkpoints and resumed from the last one, against a fit that ran through."""
    assert stop % 2 == 1, "checkpoints are at even steps: something must be lost"
    assert STEPS > 2 * BATCHES > 2, "the fit sees its data more than twice"
    job = Job(target, traces, num_workers, architecture)
    ran = whole if (architecture, num_workers) == ("llama", 0) else tmp_path / "whole"
    through = Fit.from_json(json.loads((ran / "fit.json").read_text())) if ran == whole else job.run(ran)
    with pytest.raises((error, SystemExit)):
        job.run(tmp_path / "stopped", stop=PowerCut(stop, error))
    assert not (tmp_path / "stopped" / "fit.json").exists()
    last = torch.load(tmp_path / "stopped" / "last.ckpt", weights_only=True)
    assert last["global_step"] == stop - 1
    torch.rand(5), random.random(), np.random.rand()  # whatever happened in between
    resumed = job.run(tmp_path / "stopped", tmp_path / "stopped" / "last.ckpt")
    assert resumed.history == through.history
    assert [tokens for tokens, _ in through.history] == sorted({tokens for tokens, _ in through.history})
    assert len(through.history) == STEPS // 2
    assert_identical(ran, tmp_path / "stopped")


@pytest.mark.parametrize(("before", "then"), [(1, 0), (0, 2)])
def test_a_fit_that_goes_on_with_other_workers_ends_bit_identical(
    target: LocalLLM, whole: Path, tmp_path: Path, traces: Path, before: int, then: int
) -> None:
    """As somebody goes on for whom the system killed one for memory."""
    job = Job(target, traces)
    job.num_workers = before
    with pytest.raises(RuntimeError, match="power"):
        job.run(tmp_path / "stopped", stop=PowerCut(5))
    job.num_workers = then
    job.run(tmp_path / "stopped", tmp_path / "stopped" / "last.ckpt")
    assert_identical(whole, tmp_path / "stopped")


def test_a_stopped_fit_of_a_document_a_row_ends_bit_identical(target: LocalLLM, tmp_path: Path, traces: Path) -> None:
    """In the middle of an epoch, whose batches have rows of several lengths, and other numbers of them."""
    job = Job(target, traces, packing="one_document")
    job.run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power"):
        job.run(tmp_path / "stopped", stop=PowerCut(3))
    job.run(tmp_path / "stopped", tmp_path / "stopped" / "last.ckpt")
    assert_identical(tmp_path / "whole", tmp_path / "stopped")


def test_dropout_matters_here(target: LocalLLM, whole: Path, tmp_path: Path, traces: Path) -> None:
    """Otherwise the test above could not fail: another seed for torch alone ends elsewhere."""
    job = Job(target, traces)

    class Reseed(L.Callback):
        def on_train_start(self, *_: Any) -> None:
            torch.manual_seed(99)

    job.run(tmp_path / "other", stop=Reseed())
    one, other = weights(whole / "last.ckpt"), weights(tmp_path / "other" / "last.ckpt")
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_what_is_only_tried_learns_the_same_and_keeps_nothing(
    target: LocalLLM, whole: Path, tmp_path: Path, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a checkpoint nor a log, wherever Lightning would put them."""
    monkeypatch.chdir(tmp_path)
    history = tried("job", *Job(target, traces).made())
    assert history == Fit.from_json(json.loads((whole / "fit.json").read_text())).history
    assert not list(tmp_path.iterdir())


def test_what_is_tried_must_be_validated(target: LocalLLM, traces: Path) -> None:
    with pytest.raises(ValueError, match=r"job ended without a validation, so nothing is known of it: see trainer\.\*"):
        tried("job", *Job(target, traces).made(limit_val_batches=0))


def test_a_finished_fit_is_not_run_again(target: LocalLLM, whole: Path, traces: Path) -> None:
    """It is returned as it was; not one step is taken, and no file is touched."""
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    again = Job(target, traces).run(whole, stop=PowerCut(1))
    assert asdict(again) == asdict(Fit.from_json(json.loads((whole / "fit.json").read_text())))
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_result_cut_off_is_named(target: LocalLLM, whole: Path, tmp_path: Path, traces: Path) -> None:
    """The remedy is the test below this one."""
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "fit.json").write_text((whole / "fit.json").read_text()[:30])
    with pytest.raises(
        ValueError, match=r"fit\.json' is cut off or damaged .*: remove it and run train\.py with ckpt_path"
    ):
        Job(target, traces).run(tmp_path / "fit")


def test_stopped_after_the_last_step(target: LocalLLM, whole: Path, tmp_path: Path, traces: Path) -> None:
    """All steps are done, the result was not yet written: it is what it would have been."""
    shutil.copytree(whole, tmp_path / "fit")
    (tmp_path / "fit" / "fit.json").unlink()
    Job(target, traces).run(tmp_path / "fit", tmp_path / "fit" / "last.ckpt")
    assert_identical(whole, tmp_path / "fit")


class SeesTheEnd(CSVLogger):
    """Whether a fit counted as finished when its best figure was logged."""

    was_finished = True

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if "best/val_bits_per_byte" in metrics:
            self.was_finished = (Path(self.save_dir) / "fit.json").exists()
        super().log_metrics(metrics, step)


def test_a_fit_is_finished_once_all_is_logged(target: LocalLLM, whole: Path, tmp_path: Path, traces: Path) -> None:
    """A kill between the two would lose the figure that a sweep compares: a finished fit is not run again."""
    shutil.copytree(whole, tmp_path / "fit")
    (tmp_path / "fit" / "fit.json").unlink()
    sees = SeesTheEnd(str(tmp_path / "fit"))
    Job(target, traces).run(tmp_path / "fit", tmp_path / "fit" / "last.ckpt", loggers=lambda: [sees])
    assert not sees.was_finished
    assert (tmp_path / "fit" / "fit.json").exists()


@pytest.mark.parametrize("what", ["another run", "moved"])
def test_a_fit_goes_on_in_another_folder(
    target: LocalLLM, whole: Path, tmp_path: Path, traces: Path, what: str
) -> None:
    """From the checkpoint of another run, or where its folder was moved: the best so far comes along."""
    job = Job(target, traces)
    with pytest.raises(RuntimeError, match="power"):
        job.run(tmp_path / "stopped", stop=PowerCut(11))
    new = tmp_path / "new" / "job"
    if what == "moved":
        new.parent.mkdir()
        shutil.move(tmp_path / "stopped", new)
        job.run(new, new / "last.ckpt")
    else:
        job.run(new, tmp_path / "stopped" / "last.ckpt")
    assert_identical(whole, new)


def test_the_best_checkpoint_may_be_gone(
    target: LocalLLM, tmp_path: Path, traces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Someone kept only last.ckpt: it says so, and keeps the best of what follows."""
    job = Job(target, traces)
    with pytest.raises(RuntimeError, match="power"):
        job.run(tmp_path / "stopped", stop=PowerCut(9))
    (tmp_path / "stopped" / "best.ckpt").unlink()
    result = job.run(tmp_path / "new", tmp_path / "stopped" / "last.ckpt")
    assert "the best checkpoint so far is not there" in capsys.readouterr().out
    assert result.best_bits_per_byte == min(bits for _, bits in result.history[-2:])
    assert (tmp_path / "new" / "best.ckpt").exists()


def test_the_best_checkpoint_is_that_of_the_lowest_validation(target: LocalLLM, tmp_path: Path) -> None:
    """A learning rate that rises until it does harm: the best is the first, and `load_best` gives its weights."""
    data = data_module()
    module = fusion_module(target, is_fused=False, learning_rate=1.0, warmup_steps=6)
    result = fit("harm", tmp_path, module, data, trainer(6), 1.0)
    bits = [bits for _, bits in result.history]
    assert result.best_bits_per_byte == bits[0] == min(bits) < bits[-1]
    best = load_best(fusion_module(target, is_fused=False), tmp_path, result)
    kept = weights(tmp_path / "best.ckpt")
    assert all(torch.equal(value, kept[key]) for key, value in best.state_dict().items())
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 2


def test_a_checkpoint_of_another_target_is_refused(target: LocalLLM, tmp_path: Path) -> None:
    """Equal shapes, other weights: both names and both contents are said, and nothing is trained."""
    data = data_module()
    fit("one", tmp_path / "one", fusion_module(target, is_fused=False), data, trainer(2), 2e-3)
    other = local_llm(tmp_path / "other target", seed=5)
    wanted = (
        rf"of target 'target' \({target.fingerprint[:12]}\), this run's target is 'other target' "
        rf"\({other.fingerprint[:12]}\): set target="
    )
    module = fusion_module(other, is_fused=False)
    with pytest.raises(ValueError, match=wanted):
        fit("two", tmp_path / "two", module, data, trainer(4), 2e-3, ckpt_path=tmp_path / "one" / "last.ckpt")
    assert not (tmp_path / "two" / "fit.json").exists()


def test_a_checkpoint_that_is_not_ours_is_refused(target: LocalLLM, tmp_path: Path) -> None:
    data = data_module()
    fit("one", tmp_path / "one", fusion_module(target, is_fused=False), data, trainer(2), 2e-3)
    foreign = torch.load(tmp_path / "one" / "last.ckpt", weights_only=True)
    del foreign["knowfuse"]
    torch.save(foreign, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match='of target "a run that is not knowfuse\'s"'):
        fit("two", tmp_path / "two", fusion_module(target), data, trainer(4), 2e-3, ckpt_path=tmp_path / "foreign.ckpt")


def test_a_checkpoint_between_two_steps_is_refused(target: LocalLLM, tmp_path: Path) -> None:
    """Validation, and so the checkpoint, in the middle of an accumulation would lose gradients."""
    make = trainer(4, accumulate_grad_batches=4, val_check_interval=6)
    with pytest.raises(ValueError, match=r"val_check_interval=6 batches is no multiple of .*accumulate_grad_batches=4"):
        fit("one", tmp_path, fusion_module(target, is_fused=False), data_module(), make, 2e-3)


@pytest.mark.parametrize(
    ("steps", "every", "accumulated"), [(20, 50, 1), (20, 100, 4), (4, 6, 4), (3, 1, 2), (1, 7, 2)]
)
def test_what_a_fit_that_would_not_validate_is_told_to_set_is_all_it_takes(
    steps: int, every: int, accumulated: int
) -> None:
    """One setting, beside which no other is refused; of several that do, the one that is nearest from below."""
    trainer = {"max_steps": steps, "val_check_interval": every, "accumulate_grad_batches": accumulated}
    with pytest.raises(ValueError, match=r"set trainer\.val_check_interval=\d+") as refused:
        require_validations(trainer)
    told = re.search(r"set trainer\.val_check_interval=(\d+)", str(refused.value))
    assert told is not None
    most = min(every, steps * accumulated)
    assert int(told[1]) == max(accumulated, most - most % accumulated)
    require_validations({**trainer, "val_check_interval": int(told[1])})


def test_a_stopped_fit_with_accumulation_ends_bit_identical(target: LocalLLM, tmp_path: Path, traces: Path) -> None:
    """Two batches a step, checkpoints every two steps."""
    job, options = Job(target, traces), {"accumulate_grad_batches": 2, "val_check_interval": 4}
    job.run(tmp_path / "whole", **options)
    with pytest.raises(RuntimeError, match="power"):
        job.run(tmp_path / "stopped", stop=PowerCut(7), **options)
    job.run(tmp_path / "stopped", tmp_path / "stopped" / "last.ckpt", **options)
    assert_identical(tmp_path / "whole", tmp_path / "stopped")


def test_random_states_come_back_from_a_file(tmp_path: Path) -> None:
    """All three generators, through torch's loader that takes no pickles."""
    L.seed_everything(5, verbose=False)
    torch.save(RandomStates().state_dict(), tmp_path / "states")
    drawn = torch.rand(3), random.random(), np.random.rand(3)
    states = RandomStates()
    states.load_state_dict(torch.load(tmp_path / "states", weights_only=True))
    states.on_train_start(L.Trainer(logger=False, accelerator="cpu"), L.LightningModule())
    again = torch.rand(3), random.random(), np.random.rand(3)
    assert torch.equal(drawn[0], again[0])
    assert drawn[1] == again[1]
    assert np.array_equal(drawn[2], again[2])


def test_random_states_of_ranks_that_are_gone_or_new() -> None:
    """The first of two ranks keeps its state alone; a second that was not there draws another than the first's."""
    states = RandomStates()
    L.seed_everything(5, verbose=False)
    saved = states.state_dict()["ranks"] * 2
    first = torch.rand(3)
    states.load_state_dict({"ranks": saved})
    trainer = L.Trainer(logger=False, accelerator="cpu")
    states.on_train_start(trainer, L.LightningModule())
    assert torch.equal(torch.rand(3), first)
    states.load_state_dict({"ranks": saved[:1]})
    drawn = []
    for rank in (1, 2, 1):
        trainer.strategy.global_rank = rank  # type: ignore[misc]
        states.on_train_start(trainer, L.LightningModule())
        drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], first)


@pytest.mark.parametrize(
    ("saved", "now", "advice"),
    [
        ((2, 2, 1), (1, 2, 1), r"set trainer\.accumulate_grad_batches=2 or batch_blocks=4$"),
        ((1, 2, 1), (2, 2, 1), r"set batch_blocks=1$"),
        ((8, 1, 16), (4, 2, 32), r"set trainer\.accumulate_grad_batches=16 or batch_blocks=1$"),
        ((2, 2, 1), (3, 1, 1), r"use a number of ranks that divides 4$"),
    ],
)
def test_steps_of_other_blocks_are_refused(saved: tuple[int, int, int], now: tuple[int, int, int], advice: str) -> None:
    """With both numbers, what they are made of, and the overrides that would fit."""
    before, here = Steps(*saved), Steps(*now)
    message = rf"have {before.blocks} blocks \({saved[0]} ranks x .*this run's have {here.blocks} \(.*: a fit.*{advice}"
    with pytest.raises(ValueError, match=message):
        here.require_same(before)


def test_a_fit_that_is_refused_before_it_begins_ends_its_wandb_run(
    target: LocalLLM, tmp_path: Path, traces: Path
) -> None:
    """Else the next point of a sweep in this process would log into it."""
    ended: list[int] = []

    class Kept(WandbLogger):
        """That was opened, and notes how it ends; nothing is sent."""

        def __init__(self) -> None:
            Logger.__init__(self)

        @property
        def experiment(self) -> Any:
            return SimpleNamespace(finish=lambda exit_code: ended.append(exit_code))

    start = tmp_path / "gone" / "last.ckpt"
    with pytest.raises((OSError, ValueError)):
        Job(target, traces).run(tmp_path / "fit", start, loggers=lambda: [Kept()])
    assert ended == [1]


def test_all_fits_of_a_run_take_as_many_blocks_a_step(target: LocalLLM, tmp_path: Path, traces: Path) -> None:
    """Also one that starts afresh where a run goes on, which has no checkpoint that could say it; one that never trained binds none."""

    def train(name: str, batch_blocks: int, stop: L.Callback | None = None) -> None:
        data = data_module(readers(traces, documents(30)), batch_blocks=batch_blocks)
        make = trainer(STEPS, also=[stop] if stop else [])
        fit(name, tmp_path / name, fusion_module(target), data, make, 2e-3)

    with pytest.raises(RuntimeError, match="the power is cut"):
        train("clm", 2, PowerCut(1))
    train("clm", 4)
    with pytest.raises(ValueError, match=r"the steps of this run's fits before have 4 blocks .* set .*batch_blocks=4"):
        train("fused", 2)
    train("fused", 4)


def test_a_fit_goes_on_in_batches_of_another_size(target: LocalLLM, tmp_path: Path, traces: Path) -> None:
    """Two batches a step instead of one; stopped once more, and back again: the blocks are those that would have come."""

    class Blocks(L.Callback):
        def __init__(self, stop: int = 0) -> None:
            self.seen: list[list[int]] = [[]]
            self.stop = stop

        def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
            self.seen[-1] += arguments[2].input_ids.sum(1).tolist()
            if len(self.seen[-1]) == 4:
                self.seen.append([])
            if trainer.global_step == self.stop and not self.seen[-1]:
                raise RuntimeError("the power is cut")

    def go_on(
        name: str, batch_blocks: int, stop: int = 0, start: Path | None = None, data: FusionDataModule | None = None
    ) -> list[list[int]]:
        parts = 4 // batch_blocks
        blocks = Blocks(stop)
        make = trainer(STEPS, also=[blocks], accumulate_grad_batches=parts, val_check_interval=2 * parts)
        data = data or data_module(readers(traces, documents(30)), batch_blocks=batch_blocks, num_workers=1)
        with pytest.raises(RuntimeError, match="the power is cut") if stop else nullcontext():
            fit("job", tmp_path / name, fusion_module(target), data, make, 2e-3, ckpt_path=start)
        return [step for step in blocks.seen if step]

    whole = go_on("whole", 4)
    assert len(whole) == STEPS
    last = tmp_path / "stopped" / "last.ckpt"
    assert go_on("stopped", 4, stop=3) == whole[:3]
    assert go_on("stopped", 2, stop=7, start=last) == whole[2:7]
    data = data_module(readers(traces, documents(30)), batch_blocks=4, num_workers=1)
    assert go_on("stopped", 4, start=last, data=data) == whole[6:]
    assert data.blocks_taken > 0
    assert go_on("another", 4, data=data) == whole, "the next fit of the run, which shares it, begins at the beginning"
    tokens = [json.loads((tmp_path / name / "fit.json").read_text())["history"] for name in ("whole", "stopped")]
    assert [t for t, _ in tokens[0]] == [t for t, _ in tokens[1]]


def test_a_fit_leaves_no_unfinished_file(target: LocalLLM, tmp_path: Path) -> None:
    fit("one", tmp_path, fusion_module(target, is_fused=False), data_module(), trainer(2), 2e-3)
    assert sorted(os.listdir(tmp_path)) == ["best.ckpt", "curves.json", "fit.json", "last.ckpt"]


def test_a_checkpoint_that_cannot_be_gone_on_from_is_refused(
    target: LocalLLM, whole: Path, tmp_path: Path, traces: Path
) -> None:
    """Cut short, empty, foreign, or trained for longer than the fit may; nothing is kept of such a fit."""
    job = Job(target, traces)
    broken = tmp_path / "broken.ckpt"
    for content in ((whole / "last.ckpt").read_bytes()[:2000], b"", b"no checkpoint at all"):
        broken.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"broken\.ckpt' is damaged or none of Lightning's .*give another ckpt_path"
        ):
            job.run(tmp_path / "next", ckpt_path=broken)
    with pytest.raises(ValueError, match=rf"has trained for {STEPS} steps, trainer\.max_steps is 2: nothing would be"):
        fit(
            "short",
            tmp_path / "short",
            fusion_module(target),
            data_module(),
            trainer(2),
            2e-3,
            ckpt_path=whole / "last.ckpt",
        )
    assert not list(tmp_path.rglob("fit.json"))


@pytest.mark.parametrize(
    ("every", "begins"), [(2, "goes on from the last validation"), (4, "starts it anew: it was not validated yet")]
)
def test_a_fit_that_is_told_to_stop_fails_and_says_how_to_go_on(
    target: LocalLLM, tmp_path: Path, traces: Path, capsys: pytest.CaptureFixture[str], every: int, begins: str
) -> None:
    """SIGTERM after three steps, as schedulers send it: Lightning would end the process with 0."""

    class Terminated(L.Callback):
        def on_train_batch_end(self, *arguments: Any) -> None:
            if arguments[0].global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        Job(target, traces).run(tmp_path / "fit", stop=Terminated(), val_check_interval=every)
    assert stopped.value.code == 128 + signal.SIGTERM
    said = " ".join(capsys.readouterr().out.split())
    assert f"job: stopped; the same command with ckpt_path=last {begins}" in said
    assert not (tmp_path / "fit" / "fit.json").exists()


def test_a_fit_says_that_it_lives_until_its_first_batch_is_done(
    target: LocalLLM,
    tmp_path: Path,
    traces: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the LLM is loaded and checked, and what is compiled is."""
    monkeypatch.setattr(progress, "PULSE_SECONDS", 0.001)
    Job(target, traces).run(tmp_path / "fit")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("job: ")]
    is_first = [line.startswith("job: its first batch: at work for 0:00:0") for line in said]
    assert is_first[0]
    assert not is_first[-1]
    assert is_first == sorted(is_first, reverse=True)


def test_a_fit_that_goes_on_with_other_settings_takes_them_and_says_so(
    target: LocalLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weight decay and schedule are those of this run, not of the restored optimizer; step by step the rate of 4 more steps."""
    rates: list[float] = []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *arguments: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    before = {"weight_decay": 0.1, "schedule": "cosine", "name": "one", "logger.name": "csv"}
    now = {"weight_decay": 0.5, "schedule": "linear", "name": "two", "logger.name": "wandb"}
    module, make = fusion_module(target, is_fused=False, warmup_steps=0), trainer(6, also=[PowerCut(5)])
    with pytest.raises(RuntimeError, match="power"):
        fit("job", tmp_path / "a", module, data_module(), make, 2e-3, settings=before)
    module = fusion_module(target, is_fused=False, warmup_steps=0, weight_decay=0.5, schedule="linear")
    make = trainer(8, also=[Rates()])
    fit("job", tmp_path / "b", module, data_module(), make, 2e-3, ckpt_path=tmp_path / "a" / "last.ckpt", settings=now)
    assert rates == pytest.approx([2e-3 * (1 - step / 8) for step in range(4, 8)], rel=1e-12)
    groups = module.trainer.optimizers[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "job: goes on with settings that are not the checkpoint's: weight_decay 0.1 -> 0.5, schedule 'cosine' -> 'linear' "
        in said
    )
    assert "job: the learning rate goes on at 0.001, not at the checkpoint's 0.0005: step 4 of a schedule over" in said


@pytest.mark.parametrize(
    ("key", "was", "what"),
    [
        ("corpus.files.mine", ["a.txt"], "its place in the data is none here"),
        ("block_tokens", 64, "its place in the data is none here"),
        ("packing", "one_document", "its place in the data is none here"),
        ("optimizer._target_", "bitsandbytes.optim.AdamW8bit", "its optimizer's state is of another kind"),
    ],
)
def test_a_checkpoint_of_other_data_or_of_another_optimizer_is_refused(
    target: LocalLLM, tmp_path: Path, key: str, was: Any, what: str
) -> None:
    """By its name; nothing is trained."""
    checkpoint = tmp_path / "last.ckpt"
    settings = {"settings": {key: was, "weight_decay": 0.1}}
    torch.save({"global_step": 1, "callbacks": {"KeepsSettings": settings}}, checkpoint)
    runner = trainer(4)(logger=False)
    with pytest.raises(
        ValueError, match=rf"is of a run with {re.escape(key)}=.*{what}; set it as it was, or start from"
    ):
        require_resumable(checkpoint, runner, data_module(), {key: "other", "weight_decay": 0.2})
    require_resumable(checkpoint, runner, data_module(), {key: was, "weight_decay": 0.2})


@pytest.mark.parametrize("packing", ["blocks", "one_document"])
def test_a_step_is_the_same_in_one_batch_and_in_several(
    target: LocalLLM, tmp_path: Path, traces: Path, packing: Packing
) -> None:
    """Four blocks of unequal numbers of labels, at once and one by one: each label weighs the same.

    SGD, whose step is as long as the gradient: Adam's first would hide a factor. float32 sums in another order.
    """
    kept = []
    for batch_blocks, parts in ((4, 1), (1, 4), (2, 2)):
        folder = tmp_path / str(parts)
        data = data_module(readers(traces, documents(30)), batch_blocks=batch_blocks, packing=packing)
        counts = [data.train_blocks.num_labels(index) for index in range(len(data.train_blocks))]
        assert min(counts) < 0.8 * max(counts)
        module = fusion_module(target, packing=packing, warmup_steps=0, weight_decay=0.0)
        module.optimizer = partial(torch.optim.SGD, lr=0.1)
        fit("job", folder, module, data, trainer(3, accumulate_grad_batches=parts, val_check_interval=3 * parts), 0.1)
        kept.append(weights(folder / "last.ckpt"))
    before = target.load().state_dict()
    for other in kept[1:]:
        for name, weight in kept[0].items():
            moved = (weight - before[name.removeprefix("model.")]).abs().max()
            assert (weight - other[name]).abs().max() <= 1e-4 * moved


def test_the_labels_of_a_step_are_those_of_its_batches() -> None:
    """Over epochs, and for blocks of any number."""
    for blocks, batches in ((1, 1), (2, 3), (3, 2)):
        data = data_module(batch_blocks=blocks)
        loader = iter(data.train_dataloader())
        for step in range(9):
            counted = sum(int((next(loader).labels != IGNORE).sum()) for _ in range(batches))
            assert data.labels_of_step(step, batches) == counted
