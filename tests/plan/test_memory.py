"""The plan's memory against the memory that real trainings take."""

import gc
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from architectures_for_tests import tiny
from bitsandbytes.nn import Linear4bit
from experiments_for_tests import documents, fusion_module, readers, trainer
from tokenizers_for_tests import surface
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    MptConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from knowfuse.llms.finetune import qlora
from knowfuse.llms.local import LocalLLM, checkpoint_activations
from knowfuse.plan.memory import Memory, training
from knowfuse.plan.settings import TrainingShape
from knowfuse.text.document import Document
from knowfuse.training.data import FusionDataModule
from knowfuse.types import LLMSpec

VOCABULARY, BLOCK_TOKENS, BATCH_BLOCKS, CHUNK_ROWS = 2048, 256, 2, 128
DOCUMENT_TOKENS = 48  # of the text's pieces of 90 bytes
LAYERS = 2
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=512, **SHAPE),
    "tied": LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=512, tie_word_embeddings=True, **SHAPE),
    "mpt": MptConfig(vocab_size=VOCABULARY, d_model=128, n_layers=LAYERS, n_heads=4, max_seq_len=512),
    "neox": GPTNeoXConfig(vocab_size=VOCABULARY, max_position_embeddings=512, **SHAPE),
}
FULL = TrainingShape(
    devices=1,
    nodes=1,
    spread="one",
    weights=torch.float32,
    trained=torch.float32,
    compute=torch.float32,
    attention=None,
    trust_remote_code=False,
    finetune="full",
    lora_rank=0,
    lora_targets=(),
    optimizer="adamw",
    is_checkpointed=False,
    packing="blocks",
    block_tokens=BLOCK_TOKENS,
    document_tokens=DOCUMENT_TOKENS,
    batch_blocks=BATCH_BLOCKS,
    accumulated=1,
    validated_every=6,
    steps=6,
    fits=1,
    chunk_rows=CHUNK_ROWS,
    num_sources=2,
    top_k=8,
    is_mixture=False,
)
DTYPES = {  # of the weights that are kept, of the products
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "mixed": (torch.float32, torch.bfloat16),
}


class Measured(L.Callback):
    """Bytes of two batches of a fit: what is there before them, and the most that is there at once, by torch's allocator.

    Those after its first step, which makes the optimizer's states.
    """

    def __init__(self, accumulated: int) -> None:
        self.batches = (accumulated, accumulated + 1)
        self.weights = self.gradients = self.optimizer = self.peak = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx != self.batches[0]:
            return
        parameters = list(pl_module.parameters())
        self.weights = sum(p.nbytes for p in parameters)
        states = trainer.optimizers[0].state.values()
        self.optimizer = sum(t.nbytes for state in states for t in state.values() if isinstance(t, torch.Tensor))
        assert all(p.grad is None for p in parameters), "they went with the step before"
        gc.collect()  # what an earlier training left must not go while this one is measured
        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self.profiler.start()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.gradients = sum(p.grad.nbytes for p in pl_module.parameters() if p.grad is not None)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx != self.batches[-1]:
            return
        self.profiler.stop()
        assert self.profiler.profiler is not None
        events = [e for e in self.profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        now = most = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        self.peak = self.weights + self.optimizer + most
        trainer.should_stop = True


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the traces of all these trainings are, by the number of their documents."""
    return tmp_path_factory.mktemp("traces")


def measured(
    config: PretrainedConfig, shape: TrainingShape, traces: Path, texts: Sequence[Document] | None = None
) -> Measured:
    """A real fit of a FusionModule by Lightning's Trainer, on documents with aligned sources, until it is measured."""
    texts = texts or documents(200)
    sources, validation = readers(traces / f"{len(texts)}", texts), documents(8, "validation")
    blocks = {"block_tokens": BLOCK_TOKENS, "batch_blocks": BATCH_BLOCKS, "seed": 1}
    data = FusionDataModule(texts, validation, surface("llama"), sources, **blocks, packing=shape.packing)

    def build() -> PreTrainedModel:
        model = AutoModelForCausalLM.from_config(config, dtype=shape.weights, attn_implementation=shape.attention)
        if shape.is_checkpointed:
            checkpoint_activations(model)
        return model

    module = fusion_module(LocalLLM("target", LLMSpec(path="target"), "target"), build=build, packing=shape.packing)
    module.loss = partial(module.loss, chunk_rows=CHUNK_ROWS)
    module.optimizer = partial(torch.optim.AdamW, lr=1e-4, fused=True)
    found = Measured(shape.accumulated)
    precision = "bf16-mixed" if shape.is_autocast else "32-true"
    options = {"precision": precision, "accumulate_grad_batches": shape.accumulated, "logger": False}
    options |= {"max_steps": shape.steps, "limit_val_batches": 0, "default_root_dir": str(traces)}
    options |= {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer(also=[found], **options)().fit(module, data)
    assert found.peak > 0
    return found


def planned(config: PretrainedConfig, shape: TrainingShape) -> Memory:
    return training(config, shape).memory()


# Two of three are long: every pair of an architecture, or a dtype, with whether it is checkpointed is among the others.
TRAININGS = [
    pytest.param(*case, id="-".join(case), marks=[pytest.mark.long] * ((i + j + k) % 3 > 0))
    for i, architecture in enumerate(CONFIGS)
    for j, dtypes in enumerate(DTYPES)
    for k, kept in enumerate(("kept", "checkpointed"))
    for case in [(architecture, kept, dtypes)]
]


@pytest.mark.parametrize(("architecture", "kept", "dtypes"), TRAININGS)
def test_the_plan_is_what_a_training_takes(architecture: str, kept: str, dtypes: str, traces: Path) -> None:
    """Weights, gradients and optimizer to the byte; all within 15 %, and within 15 % what comes on top of weights and states."""
    weights, compute = DTYPES[dtypes]
    is_checkpointed = kept == "checkpointed"
    shape = replace(FULL, weights=weights, trained=weights, compute=compute, is_checkpointed=is_checkpointed)
    real, plan = measured(CONFIGS[architecture], shape, traces), planned(CONFIGS[architecture], shape)
    print(
        f"\n{architecture} {dtypes} checkpointed={is_checkpointed}: measured {real.peak / 1e6:.2f} MB, planned "
        f"{plan.total / 1e6:.2f} MB ({plan.total / real.peak:.3f}) at {plan.moment}"
    )
    assert plan.parts["weights"] == real.weights
    assert plan.parts["optimizer"] == real.optimizer
    assert training(CONFIGS[architecture], shape).gradients == real.gradients
    assert plan.total == pytest.approx(real.peak, rel=0.15)
    fixed = real.weights + real.optimizer
    assert plan.total - fixed == pytest.approx(real.peak - fixed, rel=0.15)


def test_documents_a_row_are_planned_with_their_padding(traces: Path) -> None:
    """Of near-equal length, as many as fill the blocks; within 15 %, as packed ones are."""
    llama = surface("llama")
    texts = [d for d in documents(800) if 34 <= len(llama.tokenize(d.text, d.is_complete).input_ids) <= 41]
    shape = replace(FULL, packing="one_document", document_tokens=41)
    real, plan = measured(CONFIGS["llama"], shape, traces, texts), planned(CONFIGS["llama"], shape)
    fixed = real.weights + real.optimizer
    assert plan.total - fixed == pytest.approx(real.peak - fixed, rel=0.15)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_adapters_are_planned_as_peft_makes_them(weights: torch.dtype) -> None:
    """Rank times the widths of each matrix of the decoder layers; the frozen LLM has no gradients and no states."""
    shape = replace(FULL, finetune="lora", lora_rank=4, lora_targets="all-linear", weights=weights, compute=weights)
    plan, full = training(CONFIGS["llama"], shape), training(CONFIGS["llama"], replace(FULL, weights=weights))
    widths = 4 * (128 + 128) + 3 * (128 + 384)
    assert plan.size.trained == LAYERS * 4 * widths
    assert plan.gradients == 4 * plan.size.trained
    assert plan.memory().parts["optimizer"] == 8 * plan.size.trained + 4 * plan.size.tensors
    assert plan.size.parameters == full.size.parameters + plan.size.trained
    assert not plan.size.is_head_trained
    quantised = training(CONFIGS["llama"], replace(shape, finetune="qlora"))
    assert quantised.memory().parts["weights"] < plan.memory().parts["weights"]


def test_shards_hold_a_share_and_gather_the_rest() -> None:
    """FSDP2 on N GPUs: 1 / N of weights, gradients and states on each, beside what is whole for a moment."""
    shape = replace(FULL, compute=torch.bfloat16, spread="fsdp", devices=4)
    one, four = training(CONFIGS["llama"], FULL), training(CONFIGS["llama"], shape)
    parts = four.memory().parts
    assert parts["weights"] * 4 == pytest.approx(one.memory().parts["weights"], abs=4)
    assert four.gradients * 4 == pytest.approx(one.gradients, abs=4)
    assert parts["gathered weights"] >= one.size.root * 2
    assert replace(four, shape=replace(shape, devices=8)).memory().total < four.memory().total


def test_gradients_that_wait_for_a_step_are_planned(traces: Path) -> None:
    """The batch that is measured is the second of a step."""
    shape = replace(FULL, accumulated=2)
    real, plan = measured(CONFIGS["llama"], shape, traces), planned(CONFIGS["llama"], shape)
    print(f"\naccumulated: measured {real.peak / 1e6:.2f} MB, planned {plan.total / 1e6:.2f} MB")
    assert plan.parts["gradients"] == real.gradients
    assert plan.total == pytest.approx(real.peak, rel=0.15)


def test_the_scores_of_eager_attention_are_planned(traces: Path) -> None:
    """Those of each document, [heads, T, T] in every layer, which fused kernels do not keep: a tenth of all and more.

    The plan takes all documents for as long as they may be.
    """
    long = replace(FULL, document_tokens=BLOCK_TOKENS, attention="eager")
    deep = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=512, **{**SHAPE, "num_hidden_layers": 4})
    real = measured(deep, long, traces, documents(24, max_bytes=700)).peak
    eager, fused, flash = (
        planned(deep, replace(long, attention=kernel)).total for kernel in ("eager", "sdpa", "flash_attention_2")
    )
    print(f"\neager: measured {real / 1e6:.2f} MB, planned {eager / 1e6:.2f} MB, without scores {fused / 1e6:.2f} MB")
    assert eager == pytest.approx(real, rel=0.05)
    assert fused < 0.9 * real
    assert flash == fused


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_next", "llama"])
def test_what_is_quantised_is_planned(tmp_path: Path, architecture: str) -> None:
    """Against an LLM as qlora makes it: linear layers in 4 bits, a scale for each 64 begun; experts and routers whole."""
    tiny(architecture, VOCABULARY).save_pretrained(tmp_path)
    llm = LocalLLM("target", LLMSpec(path=str(tmp_path)), "target")
    model = qlora(llm, rank=4, alpha=8.0, dropout=0.0, target_modules="all-linear")
    states = [m.weight.quant_state for m in model.modules() if isinstance(m, Linear4bit)]
    real = sum(p.nbytes for p in model.parameters()) + sum(state.absmax.nbytes for state in states)
    shape = replace(FULL, finetune="qlora", lora_rank=4, lora_targets="all-linear", block_tokens=32, document_tokens=32)
    plan = training(llm.config(), shape)
    assert plan.memory().parts["weights"] == pytest.approx(real, abs=4 * len(states))
    assert plan.size.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert plan.size.linear == sum(state.shape.numel() for state in states)


def test_a_mixture_of_experts_is_planned(traces: Path) -> None:
    """Each token meets two of four experts, in one product of all; the plan's rows are as many."""
    config = MixtralConfig(
        vocab_size=VOCABULARY, max_position_embeddings=512, num_local_experts=4, num_key_value_heads=4, **SHAPE
    )
    real, plan = measured(config, FULL, traces), training(config, FULL)
    print(f"\nmixture: measured {real.peak / 1e6:.2f} MB, planned {plan.memory().total / 1e6:.2f} MB")
    assert plan.memory().parts["weights"] == real.weights
    assert plan.memory().total == pytest.approx(real.peak, rel=0.15)
    rows, experts = BATCH_BLOCKS * BLOCK_TOKENS * 2, LAYERS * 3 * 128 * 384
    assert plan.used.forward_flops > 2 * rows * experts
