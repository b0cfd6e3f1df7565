"""A target LLM learns from batches: what is minimised, logged, clipped and refused."""

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from experiments_for_tests import data_module, documents, fusion_module, local_llm, readers, trace_store, trainer
from jaxtyping import TypeCheckError
from lightning.pytorch.loggers import CSVLogger
from losses_for_tests import oracle as dense_loss
from losses_for_tests import target as fused_target
from models_for_tests import ARCHITECTURES, tiny_llm
from tokenizers_for_tests import llama, surface
from transformers import LlamaForCausalLM

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.exact_match import exact_match
from knowfuse.alignment.hybrid import hybrid
from knowfuse.alignment.mapping_statistics import mapping_statistics
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.rank_matched import rank_matched
from knowfuse.evaluation import score_documents
from knowfuse.fusion.avg_ce import avg_ce
from knowfuse.fusion.min_ce import min_ce
from knowfuse.fusion.mixture import disagreement
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.llms.packed import packed_logits
from knowfuse.losses import FusedLoss, Headroom, LinearHead, LmWeight, fused_linear_loss
from knowfuse.text.documents import Documents
from knowfuse.training.blocks import PackedBlocks, SourceReader, collate
from knowfuse.training.data import FusionDataModule
from knowfuse.training.module import FusionModule
from knowfuse.types import EMPTY, IGNORE, MASS_CLASSES, ROW_CLASSES, Aligner, FusionBatch, LLMSpec


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> LocalLLM:
    return local_llm(tmp_path_factory.mktemp("llm") / "target")


class Watch(L.Callback):
    """Keeps what is logged after each step, and the weights before the first."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.batches: list[FusionBatch] = []
        self.start: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.batches.append(arguments[2])


def learn(module: FusionModule, data: L.LightningDataModule, max_steps: int = 4, **options: Any) -> Watch:
    watch = Watch()
    options = {
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        **options,
    }
    trainer(max_steps, also=[watch], enable_progress_bar=False, enable_model_summary=False, **options)().fit(
        module, data
    )
    return watch


@pytest.mark.parametrize("is_fused", [True, False])
def test_one_batch_is_learned_by_heart(target: LocalLLM, tmp_path: Path, is_fused: bool) -> None:
    """The same few documents again and again: CLM, and for the fused target the KL too, fall to a part of before."""
    texts = documents(6)
    data = data_module(readers(tmp_path, texts) if is_fused else (), number=6)
    assert len(data.train_blocks) <= 3, "one batch"
    module = fusion_module(target, is_fused=is_fused, learning_rate=2e-2, schedule="constant_with_warmup")
    watch = learn(module, data, 40, val_check_interval=40)
    first, last = watch.logged[0], watch.logged[-1]
    assert last["train/loss_nats"] < 0.3 * first["train/loss_nats"]
    assert last["train/clm_nats"] < 0.3 * first["train/clm_nats"]
    assert (last["train/kl_nats"] < 0.3 * first["train/kl_nats"]) if is_fused else last["train/kl_nats"] == 0


def test_the_llm_is_built_by_configure_model_alone(target: LocalLLM) -> None:
    """In training mode, once."""
    module = fusion_module(target)
    assert list(module.parameters()) == []
    module.configure_model()
    network = module.network
    assert network.training
    module.configure_model()
    assert module.network is network


def test_what_is_logged(target: LocalLLM, tmp_path: Path) -> None:
    """Names, and shares and coverage against a count over the batch itself."""
    sources = readers(tmp_path, documents(30))
    module = fusion_module(target)
    module.fusion = avg_ce
    watch = learn(module, data_module(sources), 2)
    batch, logged = watch.batches[0], watch.logged[0]
    for name in ("loss_nats", "clm_nats", "kl_nats", "fused_share", "tokens", "disagreement_nats", "gradient_norm"):
        assert math.isfinite(logged[f"train/{name}"])
    assert batch.sources is not None
    rows = [(b, t) for b in range(3) for t in range(96) if batch.labels[b, t] != IGNORE]
    fused = avg_ce(batch.sources, batch.document_ids, batch.label_bytes)
    for s, name in enumerate(("neox", "unigram")):
        share = sum(float(fused.weights[b, s, t]) for b, t in rows) / len(rows)
        coverage = sum(bool(batch.sources.is_aligned[b, s, t]) for b, t in rows) / len(rows)
        assert logged[f"share/{name}"] == pytest.approx(share, rel=1e-5)
        assert logged[f"coverage/{name}"] == pytest.approx(coverage, rel=1e-6)
        assert 0 < share < 1
        assert 0.5 < coverage <= 1
        assert batch.sources.budget is not None
        masses = [logged[f"mass/{name}/{kind}"] for kind in MASS_CLASSES]
        assert sum(masses) == pytest.approx(1.0, abs=1e-5)
        counts = batch.sources.row_classes
        assert counts is not None
        assert int(counts[:, s].sum()) == int(batch.sources.is_aligned[:, s].sum())
        shares = [logged[f"rows/{name}/{kind}"] for kind in ROW_CLASSES]
        assert shares == pytest.approx((counts[:, s].sum(0) / counts[:, s].sum()).tolist(), rel=1e-6)
        assert masses == pytest.approx(
            (batch.sources.budget[:, s].sum(0) / batch.sources.is_aligned[:, s].sum()).tolist(), rel=1e-5
        )
    nats = disagreement(batch.sources)
    assert logged["train/disagreement_nats"] == pytest.approx(
        sum(float(nats[b, t]) for b, t in rows) / len(rows), rel=1e-5
    )
    assert logged["train/tokens"] == len(rows)
    assert watch.logged[1]["train/tokens"] == len(rows) + int((watch.batches[1].labels != IGNORE).sum())
    loss, clm, kl = (logged[f"train/{name}_nats"] for name in ("loss", "clm", "kl"))
    assert loss == pytest.approx(0.3 * clm + 0.7 * kl, rel=1e-6)


def test_ranks_are_those_of_the_target_as_it_is_now(target: LocalLLM, tmp_path: Path) -> None:
    """Whatever the sources' ids, the KL is to the target's own sorted tokens: it can be computed from its logits alone."""
    sources = readers(tmp_path, documents(30))
    for source, family in zip(sources, ("neox", "unigram"), strict=True):
        source.align = rank_matched(TokenizerPair(surface(family), surface("llama")))
    module = fusion_module(target)
    watch = learn(module, data_module(sources), 1)
    batch, logged = watch.batches[0], watch.logged[0]
    assert batch.sources is not None
    assert batch.sources.is_by_rank
    fused = min_ce(batch.sources, batch.document_ids, batch.label_bytes)
    before = fusion_module(target)
    before.configure_model()
    logits = packed_logits(before.network, batch.input_ids, batch.position_ids, batch.document_ids).detach().double()
    total, count = 0.0, int((batch.labels != IGNORE).sum())
    for b, t in ((b, t) for b in range(3) for t in range(96) if batch.labels[b, t] != IGNORE):
        if not fused.has_target[b, t]:
            continue
        q = logits[b, t].log_softmax(-1).sort(descending=True).values
        p = fused.topk.log_probs[b, t].double()
        k = int((p > EMPTY).sum())
        tail = fused.tail[b, t].double()
        total += float((p[:k].exp() * (p[:k] - q[fused.topk.ids[b, t, :k]])).sum())
        others = torch.ones_like(q, dtype=torch.bool)
        others[fused.topk.ids[b, t, :k]] = False
        total += float(tail * (tail.log() - q[others].logsumexp(0)))
    assert logged["train/kl_nats"] == pytest.approx(total / count, rel=1e-4)


def test_the_weights_and_rates_of_each_step_are_logged_as_used(target: LocalLLM, tmp_path: Path) -> None:
    """A line from .2 to .8 over four steps, and its loss; the rate that the optimizer was given for that step."""
    module = fusion_module(target, lm_weight=LmWeight(0.2, "linear", 0.8), learning_rate=1e-3, schedule="linear")
    logged = learn(module, data_module(readers(tmp_path, documents(30))), 4).logged
    assert [step["train/lm_weight"] for step in logged] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    for step in logged:
        loss, clm, kl, share = (step[f"train/{name}"] for name in ("loss_nats", "clm_nats", "kl_nats", "lm_weight"))
        assert loss == pytest.approx(share * clm + (1 - share) * kl, rel=1e-6)
    assert [step["train/learning_rate"] for step in logged] == pytest.approx([0.0, 5e-4, 1e-3, 5e-4])


def test_the_weight_goes_by_the_last_validation(target: LocalLLM, tmp_path: Path) -> None:
    """By what the target pays before training until there is one; the room left is that of the figure that was logged."""
    data, weight = data_module(readers(tmp_path, documents(30))), LmWeight(0.2, "headroom", 0.8)

    def learnt(headroom: Headroom) -> list[dict[str, float]]:
        module = fusion_module(target, lm_weight=weight, headroom=headroom)
        return learn(module, data, 4, val_check_interval=2).logged

    far = learnt(Headroom(oracle=1.0, before=9.0))
    assert [step["train/lm_weight"] for step in far] == pytest.approx([0.2] * 4)
    near = learnt(Headroom(oracle=far[2]["val/bits_per_byte"] / 1.05, before=9.0))
    assert [step["train/lm_weight"] for step in near] == pytest.approx([0.2, 0.2, 0.5, 0.5])
    there = learnt(Headroom(oracle=9.0, before=9.0))
    assert [step["train/lm_weight"] for step in there] == pytest.approx([0.8] * 4)
    with pytest.raises(ValueError, match="goes by the oracle over the sources, and none was given: give headroom="):
        fusion_module(target, lm_weight=weight)


def test_plain_clm_logs_no_source(target: LocalLLM) -> None:
    logged = learn(fusion_module(target, is_fused=False), data_module(), 2).logged[0]
    assert not [name for name in logged if name.startswith(("share/", "coverage/", "mass/"))]
    assert logged["train/loss_nats"] == logged["train/clm_nats"]


def test_the_metrics_reach_the_logger(target: LocalLLM, tmp_path: Path) -> None:
    """Read back from the CSV file, with the fit's name before them; of steps that no logger takes nothing is said of sources."""
    logger = CSVLogger(tmp_path, prefix="fit")
    module, sources = fusion_module(target), readers(tmp_path / "traces", documents(30))
    watch = learn(module, data_module(sources), 4, logger=logger, log_every_n_steps=2)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["fit-train/loss_nats"]]
    assert [int(row["step"]) for row in rows] == [1, 3]
    for name in ("train/loss_nats", "share/neox", "coverage/unigram", "train/disagreement_nats", "mass/neox/exact"):
        assert [float(row[f"fit-{name}"]) for row in rows] == [watch.logged[n][name] for n in (1, 3)]
    assert "fit-val/bits_per_byte" in rows[0]
    assert "train/loss_nats" in watch.logged[0]
    assert "share/neox" not in watch.logged[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_optimizer_step(target: LocalLLM, value: float) -> None:
    """The third batch gives NaN or infinity: its number is said, and the weights are those that two steps made."""

    def spoiled(*arguments: Any, **options: Any) -> Any:
        loss = fused_linear_loss(*arguments, **options)
        calls.append(loss)
        if len(calls) == 3:
            loss.total = loss.total * value
        return loss

    calls: list[Any] = []
    reference, module = (fusion_module(target, is_fused=False, schedule="constant") for _ in range(2))
    learn(reference, data_module(), max_steps=2, val_check_interval=100)
    module.loss = spoiled
    message = rf"the loss of batch 2 \(step 2\) is {value} \(CLM .*nothing was updated; lower the learning rate"
    with pytest.raises(ValueError, match=message):
        learn(module, data_module(), max_steps=4, val_check_interval=100)
    kept = reference.state_dict()
    assert all(torch.equal(weight, kept[name]) for name, weight in module.state_dict().items())


@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_gradients_are_clipped_by_their_global_norm(target: LocalLLM, clip: float) -> None:
    """Plain SGD with rate 1 moves the weights by the clipped gradient: its norm is the clip value, or what is logged."""
    module = fusion_module(target, is_fused=False, weight_decay=0.0, warmup_steps=0, schedule="constant")
    module.optimizer = partial(torch.optim.SGD, lr=1.0)
    watch = learn(module, data_module(), max_steps=1, gradient_clip_val=clip)
    moved = torch.cat([(p.detach() - watch.start[name]).flatten() for name, p in module.named_parameters()])
    norm = watch.logged[0]["train/gradient_norm"]
    assert 0.01 < norm < 1e6
    assert float(moved.norm()) == pytest.approx(min(norm, clip), rel=1e-4)  # a float32 difference of weights


@pytest.mark.parametrize("off", [0, 0.0, None])
def test_zero_or_none_clips_nothing(target: LocalLLM, off: int | float | None) -> None:
    """The weights after three steps are those of a clip value that no gradient reaches, bit for bit."""
    off_module, high_module = (fusion_module(target, is_fused=False, schedule="constant") for _ in range(2))
    watch = learn(off_module, data_module(), 3, gradient_clip_val=off)
    learn(high_module, data_module(), 3, gradient_clip_val=1e6)
    assert "train/gradient_norm" not in watch.logged[-1]
    want = high_module.state_dict()
    for name, weight in off_module.state_dict().items():
        assert torch.equal(weight, want[name]), name
    assert any(not torch.equal(weight, watch.start[name]) for name, weight in off_module.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gradient_clip_val": -1.0},
            r"trainer\.gradient_clip_val is -1\.0: it must be the largest norm .* or 0 for no",
        ),
        ({"gradient_clip_val": float("nan")}, r"trainer\.gradient_clip_val is nan: it must be"),
        (
            {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
            r"trainer\.gradient_clip_algorithm is 'value', but gradients are clipped by their global norm alone: set it to",
        ),
    ],
)
def test_clipping_that_we_cannot_do_is_refused(target: LocalLLM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learn(fusion_module(target, is_fused=False), data_module(), 1, **options)


def test_tokens_that_the_target_does_not_embed_are_refused_when_the_fit_starts(tmp_path: Path) -> None:
    """By name, before a batch is read; a tokenizer that merely has more tokens, none of which occurs, is fine."""
    llm, data = local_llm(tmp_path / "short"), data_module(number=3)
    sides = [
        max(int(blocks[n].input_ids.max()) for n in range(len(blocks)))
        for blocks in (data.train_blocks, data.validation_blocks)
    ]
    assert [data.train_blocks.largest_token_id, data.validation_blocks.largest_token_id] == sides
    largest = data.largest_token_id
    assert largest == max(sides) < surface("llama").vocabulary_size - 1
    tiny_llm("llama", largest).save_pretrained(tmp_path / "short")
    watch = Watch()
    message = (
        f"^LLM 'short': its tokenizer gives token id {largest}, but its model embeds only the ids below {largest}: set"
    )
    with pytest.raises(ValueError, match=message):
        trainer(1, also=[watch], logger=False, enable_checkpointing=False)().fit(
            fusion_module(llm, is_fused=False), data
        )
    assert not watch.batches
    tiny_llm("llama", largest + 1).save_pretrained(tmp_path / "short")
    assert learn(fusion_module(llm, is_fused=False), data, 1).logged


def test_a_target_with_nan_weights_is_told_so_by_name(tmp_path: Path) -> None:
    """When it is built; and when the fit starts, for weights that a checkpoint or a build brought later."""
    llm = local_llm(tmp_path / "broken")
    module = fusion_module(llm, is_fused=False)
    module.configure_model()
    module.network.get_input_embeddings().weight.data[:] = float("nan")
    message = r"^LLM 'broken': the logits of LlamaForCausalLM are NaN or infinite: check its weights and dtype$"
    with pytest.raises(ValueError, match=message):
        learn(module, data_module(), 1)
    module.network.save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match=message):
        learn(fusion_module(llm, is_fused=False), data_module(), 1)


ALIGNMENTS = (byte_exact, exact_match, min_edit_distance, mapping_statistics, rank_matched, hybrid)
# Each method between two tokenizers, and one of them within one; the others are long.
OF_FEWER_ROWS = [
    pytest.param(family, method, marks=[pytest.mark.long] * (family == "llama" and method is not byte_exact))
    for family in ("llama", "unigram")
    for method in ALIGNMENTS
]


@pytest.mark.parametrize(("family", "method"), OF_FEWER_ROWS)
def test_a_target_of_fewer_rows_than_its_tokenizer_has_tokens_learns(
    tmp_path: Path, family: str, method: Callable[[TokenizerPair], Aligner]
) -> None:
    """A source, of the target's own tokenizer too, that names tokens which the target has no row for; by every method."""
    whole, rows = surface("llama"), 470
    short = [d for d in documents(200, max_bytes=24) if whole.tokenize(d.text, d.is_complete).input_ids.max() < rows]
    texts, validation = short[:24], [replace(d, split="validation") for d in short[24:30]]
    assert len(validation) == 6
    pair = TokenizerPair(surface(family), replace(whole, rows=rows), Documents.of(texts))
    store = trace_store(tmp_path / "traces", family, texts, peak=0.0)
    if family == "llama":
        assert max(store.read(d.id).topk.ids.max() for d in texts) >= rows
    tiny_llm("llama", rows).save_pretrained(tmp_path / "few")
    llama().save_pretrained(tmp_path / "few")
    module = fusion_module(localize("few", LLMSpec(path=str(tmp_path / "few"))), vocabulary_size=pair.target.usable)
    module.source_names = [family]
    sources = [SourceReader(store, method(pair))]
    data = FusionDataModule(texts, validation, pair.target, sources, block_tokens=96, batch_blocks=3)
    watch = learn(module, data, 2)
    assert math.isfinite(watch.logged[-1]["train/kl_nats"])
    assert watch.logged[-1]["train/fused_share"] > 0.2


def test_validation_is_what_evaluation_measures(target: LocalLLM) -> None:
    """Packed blocks against one document at a time: two ways to count the same bits per byte of text, and nats an EOS.

    float32: 1e-5.
    """
    watch = learn(fusion_module(target, is_fused=False, learning_rate=0.0), data_module(), 3)
    texts = documents(8, "validation")
    llm = target.load()
    scores = score_documents(llm, surface("llama"), texts, 96, 1000)
    assert not scores.set_aside
    over_bytes = sum(scores.nats.values()) / (math.log(2) * sum(d.num_bytes for d in texts))
    assert watch.logged[-1]["val/bits_per_byte"] == pytest.approx(over_bytes, rel=1e-5)
    assert 0 < len(scores.eos_nats) < len(texts)
    mean = sum(scores.eos_nats.values()) / len(scores.eos_nats)
    assert watch.logged[-1]["val/eos_nats"] == pytest.approx(mean, rel=1e-5)


def test_validation_is_by_domain_too(target: LocalLLM) -> None:
    """Whose codes are others in training, which has one domain more."""
    texts = {name: documents(6, "validation", size, name) for name, size in (("prose", 90), ("code", 60))}
    training = [
        *documents(10, domain="own"),
        *documents(10, domain="code", max_bytes=60),
        *documents(10, domain="prose"),
    ]
    both = [document for its in texts.values() for document in its]
    data = FusionDataModule(training, both, surface("llama"), block_tokens=96, batch_blocks=3)
    assert data.domains != data.validation_domains
    watch = learn(fusion_module(target, is_fused=False, learning_rate=0.0), data, 3)
    for name, its in texts.items():
        scores = score_documents(target.load(), surface("llama"), its, 96, 1000)
        over_bytes = sum(scores.nats.values()) / (math.log(2) * sum(d.num_bytes for d in its))
        assert watch.logged[-1][f"val/bits_per_byte/{name}"] == pytest.approx(over_bytes, rel=1e-5)
    assert "val/bits_per_byte/own" not in watch.logged[-1]


def test_a_packed_batch_gives_the_loss_of_its_documents_one_by_one(target: LocalLLM, tmp_path: Path) -> None:
    """Loss and gradient of a batch of three blocks against one block per document, weighted by labels; float32: 1e-4."""
    texts = documents(12)
    sources = readers(tmp_path, texts)
    module = fusion_module(target)
    module.configure_model()
    module.network.eval()
    together = PackedBlocks(texts, surface("llama"), 96, sources)
    alone = [PackedBlocks([text], surface("llama"), 96, sources) for text in texts]
    loss = loss_of(module, collate([together[n] for n in range(len(together))]))
    loss.backward()
    packed = gradients(module)
    rows = [int((blocks[0].labels != IGNORE).sum()) for blocks in alone]
    total = sum(
        (loss_of(module, blocks[0]) * n / sum(rows) for blocks, n in zip(alone, rows, strict=True)), torch.zeros(())
    )
    module.zero_grad()
    total.backward()
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed, gradients(module), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_fused", [True, False])
def test_a_fit_loses_what_it_would_on_all_logits_at_once(target: LocalLLM, tmp_path: Path, is_fused: bool) -> None:
    """Five steps by autograd on the logits of all rows, in float32; what differs is the order of sums, enlarged by Adam."""

    def on_all_logits(hidden: Any, head: LinearHead, labels: Any, fused: Any, **_: Any) -> FusedLoss:
        logits = hidden @ head.weight.t()
        if fused is not None:
            rows = (fused.topk.ids, fused.topk.log_probs, fused.tail, fused.has_target)
            fused = fused_target(*(x.flatten(0, 1) for x in rows))
        total = dense_loss(logits, labels, fused, lm_weight, "tail", "none")
        clm = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE)
        return FusedLoss(total, clm, clm, clm)

    lm_weight = 0.3 if is_fused else 1.0
    sources = readers(tmp_path, documents(30)) if is_fused else ()
    chunked, dense = (fusion_module(target, is_fused=is_fused, schedule="constant") for _ in range(2))
    dense.loss = on_all_logits
    mine, its = (learn(module, data_module(sources), 5).logged for module in (chunked, dense))
    for name in ("train/loss_nats", "train/clm_nats"):
        assert [step[name] for step in mine] == pytest.approx([step[name] for step in its], rel=1e-5)
    assert mine[-1]["val/bits_per_byte"] == pytest.approx(its[-1]["val/bits_per_byte"], rel=1e-5)


def loss_of(module: FusionModule, batch: FusionBatch) -> torch.Tensor:
    """What `training_step` minimises, outside a Trainer."""
    assert module.fusion is not None
    assert batch.sources is not None
    fused = module.fusion(batch.sources, batch.document_ids, batch.label_bytes)
    return module.loss(*module.hidden_states(batch), batch.labels.flatten(), fused, lm_weight=0.3).total


def gradients(module: FusionModule) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def test_weight_decay_is_on_matrices_alone(target: LocalLLM) -> None:
    """Read from the optimizer itself: every parameter is in one of its two groups."""
    module = fusion_module(target, is_fused=False, schedule="constant", weight_decay=0.5)
    module.optimizer = partial(torch.optim.AdamW, lr=1e-9)
    learn(module, data_module(), 1)
    groups = module.optimizers().param_groups  # type: ignore[union-attr]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert all(p.ndim >= 2 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    assert len(groups[0]["params"]) + len(groups[1]["params"]) == len(list(module.parameters()))


def test_the_schedule_is_over_all_steps(target: LocalLLM) -> None:
    """Cosine with two steps of warm-up over six steps, by hand; a schedule without an end is refused."""

    class Rates(L.Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
            self.seen.append(optimizer.param_groups[0]["lr"])

    rates = Rates()
    make = trainer(6, also=[rates], logger=False, enable_checkpointing=False, enable_progress_bar=False)
    make().fit(fusion_module(target, is_fused=False, learning_rate=1e-3), data_module())
    wanted = [0.0, 0.5] + [0.5 * (1 + math.cos(math.pi * n / 4)) for n in range(4)]
    assert rates.seen == pytest.approx([1e-3 * w for w in wanted])
    with pytest.raises(ValueError, match=r"schedule is over trainer\.max_steps, which is not set: set it"):
        trainer(-1, max_epochs=1, logger=False, enable_checkpointing=False)().fit(
            fusion_module(target, is_fused=False), data_module()
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activation_checkpointing_keeps_less_and_learns_the_same(
    architecture: str, target: LocalLLM, tmp_path: Path
) -> None:
    """Loss and gradients bit by bit; the bytes that autograd keeps fall, by more than half on blocks as long as these."""
    texts = documents(12)
    blocks = PackedBlocks(texts, surface("llama"), 256, readers(tmp_path, texts))
    batch = collate([blocks[n] for n in range(len(blocks))])
    losses, grads, kept = [], [], []
    for checkpointing in (False, True):
        build = partial(tiny_llm, architecture, surface("llama").vocabulary_size)
        module = fusion_module(target, build=build, activation_checkpointing=checkpointing)
        module.configure_model()
        saved: list[int] = []

        def keep(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden, head = module.hidden_states(batch)
        kept.append(sum(saved))
        assert module.fusion is not None
        assert batch.sources is not None
        fused = module.fusion(batch.sources, batch.document_ids, batch.label_bytes)
        loss = module.loss(hidden, head, batch.labels.flatten(), fused, lm_weight=0.3).total
        loss.backward()
        losses.append(loss)
        grads.append(gradients(module))
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(grads[0], grads[1])
    assert kept[1] < 0.5 * kept[0]


def test_activation_checkpointing_that_a_model_does_not_know_is_refused(target: LocalLLM) -> None:
    class Plain(LlamaForCausalLM):
        supports_gradient_checkpointing = False

    module = fusion_module(target, build=lambda: Plain(target.load().config), activation_checkpointing=True)
    with pytest.raises(ValueError, match=r"LLM 'target': Plain does not support .* Set activation_checkpointing=false"):
        module.configure_model()


def test_a_fused_target_in_half_precision_is_refused(target: LocalLLM, tmp_path: Path) -> None:
    """`bf16-true` casts the batch; `bf16-mixed` does not, and trains."""
    data = data_module(readers(tmp_path, documents(30)))
    # Without the tests' type checks it reaches the loss: "the fused target must stay float32, got torch.bfloat16".
    with pytest.raises(
        (ValueError, TypeCheckError), match=r"float32.*got torch\.bfloat16|has dtype bfloat16, not float32"
    ):
        learn(fusion_module(target), data, 1, precision="bf16-true")


def test_under_autocast_products_are_in_bfloat16_and_the_rest_in_float32(target: LocalLLM, tmp_path: Path) -> None:
    """Weights, fused target and loss; the embeddings and what adds up over the layers too. It stays near float32:
    bfloat16 keeps 8 bits, some 1e-3 of the loss."""
    module, its = fusion_module(target), readers(tmp_path, documents(30))
    its_loss, seen, products = module.loss, [], set()
    module.configure_model()
    for layer in module.network.modules():
        if isinstance(layer, torch.nn.Linear) and layer is not module.network.get_output_embeddings():
            layer.register_forward_hook(
                lambda *called: products.add(called[-1].dtype) if torch.is_grad_enabled() else None
            )

    def watched(hidden: torch.Tensor, head: LinearHead, labels: Any, fused: Any, **more: Any) -> FusedLoss:
        loss = its_loss(hidden, head, labels, fused, **more)
        parts = (loss.total, loss.clm, loss.kl, fused.topk.log_probs, fused.tail, head.weight)
        seen.append({part.dtype for part in (hidden, *parts)})
        return loss

    module.loss = watched
    logged = learn(module, data_module(its), 3, precision="bf16-mixed").logged
    assert products == {torch.bfloat16}
    assert seen == 3 * [{torch.float32}]
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    exact = learn(fusion_module(target), data_module(its), 3).logged
    assert [step["train/loss_nats"] for step in logged] == pytest.approx(
        [s["train/loss_nats"] for s in exact], rel=5e-3
    )
    assert logged[-1]["val/bits_per_byte"] == pytest.approx(exact[-1]["val/bits_per_byte"], rel=5e-3)
    assert logged != exact, "it was in bfloat16"


def test_training_bfloat16_weights_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once, however many fits there are, by name and as a line of our own; float32 weights are not."""
    data = data_module(number=3)
    for dtype, times in (("bfloat16", 1), ("float32", 0)):
        llm = local_llm(tmp_path / dtype, dtype=dtype)
        for _ in range(2):
            learn(fusion_module(llm, is_fused=False), data, 1)
        lines = capsys.readouterr().out.splitlines()
        line = f"WARNING: the weights of LLM '{dtype}' are trained in bfloat16, which drops steps smaller than 1/256 of a weight: set its "
        assert sum(said.startswith(line) for said in lines) == times
