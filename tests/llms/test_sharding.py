"""A target on two processes (FSDP2 and DDP on the CPU, gloo) learns as one process does, is stopped, killed, and goes on."""

import json
import os
import shutil
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import pytest
import torch
from commands_for_tests import ended, run_ranks
from experiments_for_tests import data_module, documents, fusion_module, local_llm, readers, trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from models_for_tests import ARCHITECTURES, tiny_llm
from tokenizers_for_tests import surface
from torch import nn
from torch.distributed.tensor import DTensor

from knowfuse.evaluation import score_documents, score_trained
from knowfuse.files import restored, swap
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.llms.parts import decoder_layers
from knowfuse.llms.sharding import FSDP2
from knowfuse.screen import console
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.traces.reading import length_buckets
from knowfuse.training.finished import Fit
from knowfuse.training.fit import fit, load_best
from knowfuse.training.module import FusionModule
from knowfuse.types import LLMSpec

STEPS = 6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_decoder_layers_are_found(architecture: str) -> None:
    """The two layers of the tiny LLMs, whatever their list is called."""
    layers = decoder_layers(tiny_llm(architecture, 64))
    assert len(layers) == 2
    assert all(type(layer).__name__.endswith(("Layer", "Block")) for layer in layers)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Linear has no list of decoder layers to shard: use trainer=gpu or trainer=cpu"
    ):
        decoder_layers(nn.Linear(2, 2))


class PowerCut(L.Callback):
    """Training stops on all ranks after five steps, one past a checkpoint; or one rank is killed then, without a word."""

    def __init__(self, killed_rank: int | None = None) -> None:
        self.killed_rank = killed_rank

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 5:
            if self.killed_rank is None:
                raise RuntimeError("the power is cut")
            if trainer.global_rank == self.killed_rank:
                os.kill(os.getpid(), signal.SIGKILL)


class Norms(L.Callback):
    """Keeps the logged gradient norm of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.seen.append(float(trainer.callback_metrics.get("train/gradient_norm", "nan")))


def llm(folder: Path, name: str = "target") -> LocalLLM:
    return localize("target", LLMSpec(path=str(folder / name)))


def learn(
    folder: Path,
    name: str,
    strategy: Any = None,
    ranks: int = 2,
    ckpt_path: Path | None = None,
    stop: PowerCut | None = None,
    module: FusionModule | None = None,
    batch_blocks: int | None = None,
    **options: Any,
) -> FusionModule:
    """A fused fit on `ranks` processes; a step has four blocks on all of them together."""
    # A Unigram tokenizer would not do: its training gives each process another one.
    data = data_module(readers(folder / "traces", documents(30), ["neox"]), batch_blocks=batch_blocks or 4 // ranks)
    options |= {"gradient_clip_val": 0.5}
    norms = Norms()
    also = [norms, stop] if stop else [norms]
    if strategy is not None:
        options |= {"strategy": strategy, "devices": ranks}
    module = module or fusion_module(llm(folder), source_names=["neox"])
    with pytest.raises(RuntimeError, match="the power is cut") if stop else nullcontext():
        fit(name, folder / name, module, data, trainer(STEPS, also=also, **options), 2e-3, ckpt_path=ckpt_path)
    (folder / f"{name}.json").write_text(json.dumps(norms.seen))
    return module


def require_shards(module: FusionModule) -> None:
    """Every parameter is a float32 DTensor of which this rank has half."""
    for name, p in module.named_parameters():
        assert isinstance(p, DTensor), name
        assert p.dtype == p.to_local().dtype == torch.float32, name
        assert abs(2 * p.to_local().numel() - p.numel()) <= p.numel() // len(p), name


class Whole(L.Callback):
    """Keeps the names of the parameters that are whole while a decoder layer runs, by the layer's number."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, set[str]]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, FusionModule)

        def look(number: int) -> None:
            whole = {name for name, p in pl_module.named_parameters() if not isinstance(p, DTensor)}
            self.seen.append((number, whole))

        for number, layer in enumerate(decoder_layers(pl_module.network)):
            layer.self_attn.register_forward_hook(lambda *_, number=number: look(number))


def scored(folder: Path, name: str, strategy: Any, kept_as: str = "") -> None:
    """The best checkpoint of a fit, on both ranks; in shards at most one layer is whole beside what lies around the layers."""
    checkpoint, whole = folder / name / "best.ckpt", Whole()
    make = trainer(STEPS, also=[whole], strategy=strategy, devices=2)
    module = fusion_module(llm(folder), source_names=["neox"])
    if name == "bfloat16":
        module = fusion_module(llm(folder, "half"), source_names=["neox"])
    texts = documents(9, "validation")
    found = score_trained(make, module, checkpoint, surface("llama"), texts, 96, 60)
    assert whole.seen
    for number, names in whole.seen:
        layers = {int(n.split(".layers.")[1].split(".")[0]) for n in names if ".layers." in n}
        assert layers == ({number} if isinstance(strategy, FSDP2) else {0, 1})
    if isinstance(strategy, FSDP2):
        module.network.reshard()
        require_shards(module)
    mine = {"nats": found.nats, "read": len(whole.seen) // 2, "compute": str(module.network.dtype)}
    (folder / f"scores {kept_as or name} {module.global_rank}.json").write_text(json.dumps(mine))


def on_each_rank(folder: Path) -> None:
    """What the command below runs, on two ranks."""
    module = learn(folder, "whole", FSDP2())
    require_shards(module)
    scored(folder, "whole", FSDP2())
    last = folder / "stopped" / "last.ckpt"
    learn(folder, "stopped", FSDP2(), stop=PowerCut())
    if module.global_rank == 0:
        shutil.copytree(folder / "stopped", folder / "halted")
    learn(folder, "stopped", FSDP2(), ckpt_path=last)
    learn(folder, "ddp", DDPStrategy())
    scored(folder, "ddp", DDPStrategy())
    refused(folder)


def further(folder: Path) -> None:
    """What it runs on two ranks for the long tests, beside the fits of `on_each_rank`."""
    for stop in (PowerCut(), None):
        learn(
            folder,
            "file",
            FSDP2(save_distributed_checkpoint=False),
            stop=stop,
            ckpt_path=None if stop else folder / "file" / "last.ckpt",
        )
    learn(folder, "grown", FSDP2(), ckpt_path=folder / "one halted" / "last.ckpt")

    scored(folder, "file", FSDP2())  # whose checkpoint is in one file

    scored(folder, "whole", DDPStrategy(), "whole by ddp")
    for stop in (PowerCut(), None):
        learn(
            folder,
            "ddp stopped",
            DDPStrategy(),
            stop=stop,
            ckpt_path=None if stop else folder / "ddp stopped" / "last.ckpt",
        )

    module = fusion_module(llm(folder), source_names=["neox"], activation_checkpointing=True)
    learn(folder, "checkpointed", FSDP2(), module=module)
    module = fusion_module(llm(folder, "tied"), source_names=["neox"])
    learn(folder, "tied", FSDP2(), module=module)
    require_shards(module)
    network = module.network
    assert network.get_input_embeddings().weight is network.get_output_embeddings().weight

    seen: set[tuple[torch.dtype, ...]] = set()
    half = localize("target", LLMSpec(path=str(folder / "half"), dtype="bfloat16"))
    module = fusion_module(half, source_names=["neox"])
    its_loss = module.loss

    def watched(hidden: Any, head: Any, labels: Any, fused: Any, **more: Any) -> Any:
        seen.add((hidden.dtype, head.weight.dtype, fused.topk.log_probs.dtype, fused.tail.dtype))
        return its_loss(hidden, head, labels, fused, **more)

    module.loss = watched
    with console.capture() as said:
        learn(folder, "bfloat16", FSDP2("bfloat16"), module=module)
    assert "trained in bfloat16" not in said.get(), "the shards are in float32"
    require_shards(module)
    scored(folder, "bfloat16", FSDP2("bfloat16"))
    assert seen == {(torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)}
    states = module.optimizers().optimizer.state.values()  # type: ignore[union-attr]
    assert {s[key].dtype for s in states for key in ("exp_avg", "exp_avg_sq")} == {torch.float32}


def refused(folder: Path) -> None:
    """What FSDP2 says no to, on both ranks."""
    wrong = [
        ({"strategy": ModelParallelStrategy()}, {}, "use knowfuse.llms.sharding.FSDP2, as trainer=fsdp does"),
        ({"strategy": FSDP2(), "precision": "bf16-true"}, {}, "leave it at 32-true"),
        (
            {"strategy": FSDP2(), "batch_blocks": 3},
            {"ckpt_path": folder / "whole" / "last.ckpt"},
            "steps have 4 blocks (2 ranks x batch_blocks 2 x accumulate_grad_batches 1), this run's have 6",
        ),
        ({"strategy": DDPStrategy()}, {"ckpt_path": folder / "whole" / "last.ckpt"}, "only trainer=fsdp goes on from"),
    ]
    for options, more, message in wrong:
        with pytest.raises(ValueError) as error:  # noqa: PT011  (the message is looked for as it stands)
            learn(folder, "refused", **options, **more)
        assert message in str(error.value)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets and traces, and a fit on one process, whole and stopped."""
    folder = tmp_path_factory.mktemp("sharded")
    made = local_llm(folder / "target")
    for name in ("tied", "half"):
        shutil.copytree(folder / "target", folder / name)
        model = made.load()
        if name == "tied":
            model.config.tie_word_embeddings = True
            model.tie_weights()
        else:
            model = model.to(torch.bfloat16)
        model.save_pretrained(folder / name)
    readers(folder / "traces", documents(30), ["neox"])
    learn(folder, "one", ranks=1)
    learn(folder, "one halted", ranks=1, stop=PowerCut())
    return folder


@pytest.fixture(scope="module")
def two_ranks(start: Path) -> Path:
    """The folder of the fits on two ranks."""
    run_ranks(__file__, str(start), cache=start)
    return start


@pytest.fixture(scope="module")
def all_fits(two_ranks: Path) -> Path:
    run_ranks(__file__, str(two_ranks), "further", cache=two_ranks)
    return two_ranks


@pytest.fixture
def sharded(request: pytest.FixtureRequest, two_ranks: Path) -> Path:
    """The folder of the fits on two ranks; for a long test with those of `further`."""
    is_long = request.node.get_closest_marker("long") is not None
    return request.getfixturevalue("all_fits") if is_long else two_ranks


def kept(folder: Path, name: str, target: str = "target") -> tuple[Fit, FusionModule]:
    """A finished fit and the target with its best weights."""
    found = Fit.from_json(json.loads((folder / name / "fit.json").read_text()))
    return found, load_best(fusion_module(llm(folder, target)), folder / name, found)


def norms(folder: Path, name: str) -> list[float]:
    return json.loads((folder / f"{name}.json").read_text())


def assert_learned_alike(folder: Path, name: str, reference: str, rel: float = 1e-4, target: str = "target") -> None:
    """Equal token counts; validation, gradient norms and weights equal but for the order of float32 sums, which Adam's
    first steps, nearly signs, enlarge where a gradient is all but zero."""
    (two, its), (one, mine) = kept(folder, name, target), kept(folder, reference, target)
    assert [tokens for tokens, _ in two.history] == [tokens for tokens, _ in one.history]
    assert [bits for _, bits in two.history] == pytest.approx([bits for _, bits in one.history], rel=rel)
    assert one.history[-1][1] < 0.99 * one.history[0][1], "and it learns"
    torch.testing.assert_close(its.state_dict(), mine.state_dict(), rtol=1e-2, atol=1e-4)


def assert_identical(folder: Path, name: str, reference: str) -> None:
    (whole, its), (resumed, mine) = kept(folder, reference), kept(folder, name)
    assert resumed.history == whole.history
    assert all(torch.equal(value, mine.state_dict()[key]) for key, value in its.state_dict().items())


@pytest.mark.parametrize("name", ["whole", "ddp"])
def test_two_ranks_learn_as_one(sharded: Path, name: str) -> None:
    assert_learned_alike(sharded, name, "one")
    assert norms(sharded, name) == pytest.approx(norms(sharded, "one"), rel=1e-3)
    assert min(norms(sharded, "one")) > 0.5, "each was clipped, to that"


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("stopped", "whole"),
        pytest.param("file", "whole", marks=pytest.mark.long),
        pytest.param("ddp stopped", "ddp", marks=pytest.mark.long),
        pytest.param("checkpointed", "whole", marks=pytest.mark.long),
    ],
)
def test_it_ends_bit_identical(sharded: Path, name: str, reference: str) -> None:
    """Stopped on two ranks and resumed, from a checkpoint in shards or in one file; or with activations made twice."""
    assert_identical(sharded, name, reference)
    in_shards = reference == "whole" and name != "file"
    assert (sharded / name / "best.ckpt").is_dir() == in_shards
    assert sorted(p.name for p in (sharded / name).iterdir()) == ["best.ckpt", "curves.json", "fit.json", "last.ckpt"]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("whole", "whole"),
        ("ddp", "ddp"),
        pytest.param("file", "whole", marks=pytest.mark.long),
        pytest.param("whole by ddp", "whole", marks=pytest.mark.long),
        pytest.param("bfloat16", "bfloat16", marks=pytest.mark.long),
    ],
)
def test_two_ranks_score_as_one(sharded: Path, name: str, reference: str) -> None:
    """Its best checkpoint, the documents shared: the scores of one process on the whole model, on both ranks. In float32 1e-6, a
    document has the same companions; in bfloat16, against float32, its 8 bits: some 1e-3."""
    one, other = (json.loads((sharded / f"scores {name} {rank}.json").read_text()) for rank in range(2))
    assert one["nats"] == other["nats"]
    texts = documents(9, "validation")
    _, module = kept(sharded, reference, "half" if name == "bfloat16" else "target")
    want = score_documents(module.network.float(), surface("llama"), texts, 96, 60).nats
    assert one["nats"] == pytest.approx(want, rel=5e-3 if name == "bfloat16" else 1e-6)
    assert (one["nats"] != want) == (name == "bfloat16")
    lengths = tokenize_documents(surface("llama"), texts, 96).lengths
    batches = len(list(length_buckets(lengths, 60)))
    assert batches % 2 == 1, "one rank has a batch of nothing"
    assert one["read"] == other["read"] == (batches + 1) // 2


@pytest.mark.long
def test_tied_weights_stay_tied_and_learn_as_on_one_process(sharded: Path) -> None:
    learn(sharded, "tied one", ranks=1, module=fusion_module(llm(sharded, "tied"), source_names=["neox"]))
    assert_learned_alike(sharded, "tied", "tied one", target="tied")


@pytest.mark.long
def test_bfloat16_on_two_ranks_stays_near_float32_on_one(sharded: Path) -> None:
    """From the same weights; bfloat16 keeps 8 bits, so activations are off by some 1e-3."""
    learn(
        sharded,
        "half one",
        ranks=1,
        module=fusion_module(
            llm(sharded, "half"), source_names=["neox"], build=lambda: llm(sharded, "half").load().float()
        ),
    )
    two, one = (kept(sharded, name, "half")[0].history for name in ("bfloat16", "half one"))
    assert [tokens for tokens, _ in two] == [tokens for tokens, _ in one]
    assert [bits for _, bits in two] == pytest.approx([bits for _, bits in one], rel=2e-3)
    assert two != one


@pytest.mark.long
def test_a_fit_goes_on_with_other_ranks(sharded: Path) -> None:
    """One to two; two to one, in shards; and from one file, with accumulation for the rank that is gone."""
    assert_learned_alike(sharded, "grown", "one")
    with patch.dict(os.environ):  # Lightning leaves its rank there
        learn(sharded, "shrunk", FSDP2(), ranks=1, ckpt_path=sharded / "halted" / "last.ckpt")
        torch.distributed.destroy_process_group()
    assert_learned_alike(sharded, "shrunk", "one")
    accumulated = {"batch_blocks": 2, "accumulate_grad_batches": 2, "val_check_interval": 4}
    learn(sharded, "accumulated", ranks=1, ckpt_path=sharded / "one halted" / "last.ckpt", **accumulated)
    mine, its = kept(sharded, "accumulated")[0].history, kept(sharded, "one")[0].history
    assert [tokens for tokens, _ in mine] == [tokens for tokens, _ in its]
    # The two batches of a step weigh alike, though their labels differ by up to a tenth.
    assert [bits for _, bits in mine] == pytest.approx([bits for _, bits in its], rel=1e-3)


def killed(start: Path, name: str, rank: int, launcher: tuple[str, ...] = ()) -> None:
    """A fit on two ranks, started by torchrun or by Lightning, one of which is killed in the sixth step: the job fails,
    within a minute of what was saved before."""
    job = ended(*launcher, __file__, str(start), name, str(rank), cache=start)
    assert job.returncode != 0, job.stderr
    assert not (start / name / "fit.json").exists()
    saved = start / name / "last.ckpt" / "meta.pt"
    assert saved.exists(), job.stderr
    assert time.time() - saved.stat().st_mtime < 60, "it does not wait for the process group's 30 minutes"
    assert torch.load(saved, weights_only=True)["global_step"] == 4


@pytest.fixture(scope="module")
def gone_on(two_ranks: Path) -> Path:
    """Each of three killed fits went on from its last checkpoint."""
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--shutdown-timeout", "5")
    names = ("killed by torchrun", "killed child", "killed while saving")
    killed(two_ranks, names[0], 1, torchrun)
    killed(two_ranks, names[1], 1)
    killed(two_ranks, names[2], 0)
    run_ranks(__file__, str(two_ranks), *names, cache=two_ranks)
    return two_ranks


@pytest.mark.long
@pytest.mark.parametrize("name", ["killed by torchrun", "killed child", "killed while saving"])
def test_a_fit_with_a_killed_rank_goes_on_bit_identical(gone_on: Path, name: str) -> None:
    """Killed by whoever started it; the last dies when all shards of the sixth step's best checkpoint are written, but not
    what says so."""
    assert_identical(gone_on, name, "whole")
    assert sorted(p.name for p in (gone_on / name).iterdir()) == ["best.ckpt", "curves.json", "fit.json", "last.ckpt"]


def test_a_swap_that_was_killed(tmp_path: Path) -> None:
    """Between its two moves the new folder is not there yet: the old one comes back; otherwise the new one is there."""
    for name in ("new", "last.ckpt.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert restored(tmp_path / "last.ckpt").is_dir()
    assert [p.name for p in (tmp_path / "last.ckpt").iterdir()] == ["last.ckpt.old"]
    swap(tmp_path / "new", tmp_path / "last.ckpt")
    assert [p.name for p in restored(tmp_path / "last.ckpt").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def die_while_saving() -> None:
    """Kill this process where it would write what says that the shards are whole, at the third pair of checkpoints."""
    save, left = torch.save, 5

    def dying(*arguments: Any, **options: Any) -> None:
        nonlocal left
        left -= Path(str(arguments[1])).name == "meta.pt"
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        save(*arguments, **options)

    torch.save = dying


def killed_rank(folder: Path, name: str, rank: int) -> None:
    """What `killed` runs."""
    if name == "killed while saving":
        die_while_saving()
        learn(folder, name, FSDP2())
    else:
        learn(folder, name, FSDP2(), stop=PowerCut(rank))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        on_each_rank(Path(sys.argv[1]))
    elif sys.argv[2] == "further":
        further(Path(sys.argv[1]))
    elif sys.argv[3].isdigit():
        killed_rank(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    else:
        for name in sys.argv[2:]:
            learn(Path(sys.argv[1]), name, FSDP2(), ckpt_path=Path(sys.argv[1]) / name / "last.ckpt")
