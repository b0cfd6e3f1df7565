"""How many bytes does a training take on each GPU, and at which moment most?"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from knowfuse.llm_spec import Attention
from knowfuse.llms.finetune import adapted_layers
from knowfuse.llms.isolation import Packing
from knowfuse.llms.shapes import build, shapes_only
from knowfuse.plan.settings import TrainingShape
from knowfuse.plan.simulate import PassUse, Size, size_of, training_pass

NF4 = 0.5 + 4 / 64  # bytes a parameter: 4 bits, and a float32 scale for each 64. Source: QLoRA, arXiv 2305.14314
EIGHT_BIT = 2 * (
    1 + 4 / 256
)  # bytes a parameter: two states of 8 bits, a float32 scale for each 256. Source: 2110.02861
GATHERED_LAYERS = 2  # FSDP2 gathers the next decoder layer while one is computed


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU, by what they are for, at the moment when they are most; `moment` says which that is."""

    moment: str
    parts: dict[str, int]
    moments: dict[str, int]  # the total at each moment that was looked at

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Training:
    """An LLM and how it is trained, seen from one GPU."""

    shape: TrainingShape
    size: Size
    used: PassUse  # by one batch

    def memory(self) -> Memory:
        """From the second step on, when the optimizer's states are there; gradients go once a step is done."""
        kept = {"weights": self._weights(), "optimizer": self._optimizer(), "batch and sources": self._batch()}
        gradients, used = self.gradients, self.used
        whole, whole_gradients = self._gathered()
        forward, backward, head = self._loss()
        stays = keeps_gradients(self.shape)
        buckets = {"DDP's buckets": gradients} if self.shape.spread == "ddp" else {}
        layers, layer_gradients = self._gathered_layers()
        moments: dict[str, dict[str, int]] = {
            "loss, forward": {
                "gradients": gradients if self.shape.accumulated > 1 else 0,
                "activations": used.at_loss,
                "loss": forward,
                "gathered weights": whole,
            },
            "loss, backward": {
                "gradients": gradients if stays else head,
                "activations": used.at_backward,
                "loss": backward,
                "gathered weights": whole,
                "gathered gradients": head if whole_gradients else 0,
            },
            "decoder layers, backward": {
                "gradients": gradients if stays else used.peak_gradients,
                "activations": used.peak,
                "gathered weights": whole + layers,
                "gathered gradients": whole_gradients + layer_gradients,
            },
            "optimizer": {"gradients": gradients},
        }
        totals = {name: sum(parts.values()) for name, parts in moments.items()}
        most = max(totals, key=lambda name: totals[name])
        persistent = sum(kept.values()) + sum(buckets.values())
        parts = {name: n for name, n in (kept | buckets | moments[most]).items() if n}
        order = ["weights", "gradients", "optimizer"]
        parts = {name: parts[name] for name in [*order, *(n for n in parts if n not in order)] if name in parts}
        return Memory(most, parts, {name: total + persistent for name, total in totals.items()})

    def _weights(self) -> int:
        size, shape = self.size, self.shape
        if shape.finetune == "qlora":
            rest = size.parameters - size.linear
            return -(-int(size.linear * NF4 + rest * shape.weights.itemsize) // shape.shards)
        return -(-size.parameters * shape.weights.itemsize // shape.shards)

    @property
    def gradients(self) -> int:
        return -(-self.size.trained * self.shape.trained.itemsize // self.shape.shards)

    def _optimizer(self) -> int:
        """Adam keeps two values a parameter, and a float32 count for each tensor."""
        trained, width = self.size.trained, self.shape.trained.itemsize
        count = 4 * self.size.tensors
        by_name = {
            "adamw": 2 * width * trained // self.shape.shards + count,
            "adamw_8bit": int(EIGHT_BIT * trained) // self.shape.shards,
            "paged_adamw_8bit": 0,  # in the memory of the CPU, when the GPU has no room
            "sgd": 0,
        }
        return by_name[self.shape.optimizer]

    def _batch(self) -> int:
        """Five int64 a row; of each source K ids and log-probabilities, four figures; of the fused target the same once."""
        s = self.shape
        rows, slots = s.batch_blocks * s.block_tokens, s.top_k * (s.num_sources if s.is_mixture else 1)
        return rows * (5 * 8 + s.num_sources * (12 * s.top_k + 13) + 12 * slots + 4 * s.num_sources + 5)

    def _gathered(self) -> tuple[int, int]:
        """Under FSDP2, what is outside the decoder layers: gathered until its own backward pass, with its gradients."""
        if self.shape.spread != "fsdp":
            return 0, 0
        return self.size.root * self.shape.compute.itemsize, self.size.trained_root * self.shape.compute.itemsize

    def _gathered_layers(self) -> tuple[int, int]:
        """Under FSDP2, decoder layers that are whole for a moment, and their gradients on the way to their shards.

        Without FSDP2, of a quantised LLM the one matrix that is made whole.
        """
        width = self.shape.compute.itemsize
        if self.shape.spread != "fsdp":
            return (self.size.matrix * width if self.shape.finetune == "qlora" else 0), 0
        layer = GATHERED_LAYERS * self.size.layer * width
        return layer, layer if self.shape.finetune == "full" else 0

    def _loss(self) -> tuple[int, int, int]:
        """Of `losses.linear`: at most in its forward pass, in its backward pass, and the head's gradient that it leaves.

        Forward: one chunk of float32 logits (twice under a soft cap), the same in the products' dtype where that is
        another, the gradients of all hidden states and, in float32, of the head, and under autocast copies of both.
        Backward: those gradients, the head's scaled in place and cast to its dtype.
        """
        shape, size = self.shape, self.size
        rows = shape.batch_blocks * shape.block_tokens
        chunk = min(shape.chunk_rows, rows)
        width, kept = shape.compute.itemsize, shape.weights.itemsize if shape.shards == 1 else shape.compute.itemsize
        precise = max(4, width)
        logits = chunk * size.vocabulary * (precise * (1 + size.has_soft_cap) + (width if width < precise else 0))
        hidden = rows * size.hidden * width
        head = size.vocabulary * size.hidden
        summed = precise * head if size.is_head_trained else 0
        copies = head * width if shape.is_autocast else 0
        cast = head * kept if size.is_head_trained and kept < precise else 0
        copied_rows = chunk * size.hidden * precise if width < precise and size.is_head_trained else 0
        return logits + hidden + summed + copies + copied_rows, 2 * hidden + summed + cast, cast or summed


def keeps_gradients(shape: TrainingShape) -> bool:
    """Gradients of an earlier batch are there in the backward pass."""
    return shape.accumulated > 1 or shape.spread != "one"


def training(config: PretrainedConfig, shape: TrainingShape) -> Training:
    """The LLM of this configuration under this training, simulated."""
    autocast = shape.compute if shape.is_autocast else None
    dtype = shape.compute if shape.spread == "fsdp" else shape.weights
    trained = shape.compute if shape.spread == "fsdp" else shape.trained
    adapters = None if shape.finetune == "full" else (shape.lora_rank, shape.lora_targets, trained)
    size, used = _simulated(
        config.to_json_string(),
        _Config(config),
        dtype,
        shape.attention,
        shape.trust_remote_code,
        autocast,
        adapters,
        shape.packing,
        shape.batch_blocks,
        shape.block_tokens,
        min(shape.document_tokens, shape.block_tokens),
        shape.is_checkpointed,
        keeps_gradients(shape),
    )
    return Training(shape, size, used)


class _Config:
    """A configuration that the cache of simulations takes for equal to any other: its JSON stands beside it."""

    def __init__(self, config: PretrainedConfig) -> None:
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Config)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=64)
def _simulated(
    key: str,
    config: _Config,
    dtype: torch.dtype,
    attention: Attention | None,
    trust_remote_code: bool,
    autocast: torch.dtype | None,
    adapters: tuple[int, str | tuple[str, ...], torch.dtype] | None,
    packing: Packing,
    blocks: int,
    tokens: int,
    document_tokens: int,
    is_checkpointed: bool,
    keeps: bool,
) -> tuple[Size, PassUse]:
    with shapes_only():
        model = build(config.config, dtype, attention, trust_remote_code)
        if adapters is not None:
            adapt(model, *adapters)
        options = {"autocast": autocast, "is_checkpointed": is_checkpointed, "keeps_gradients": keeps}
        used = training_pass(model, packing, blocks, tokens, document_tokens, **options)
        return size_of(model), used


class _Adapted(nn.Module):
    """A linear layer with a low-rank adapter beside it, computed in the order and the dtypes that peft does."""

    def __init__(self, base: nn.Linear | Conv1D, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.base = base
        ends = (base.in_features, base.out_features) if isinstance(base, nn.Linear) else base.weight.shape
        self.down = nn.Linear(ends[0], rank, bias=False, dtype=dtype)
        self.up = nn.Linear(rank, ends[1], bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        result = self.base(x)
        return (result + self.up(self.down(x.to(self.down.weight.dtype))) * 2.0).to(result.dtype)


def adapt(model: PreTrainedModel, rank: int, targets: str | tuple[str, ...], dtype: torch.dtype) -> None:
    """Freeze a model, and put adapters of this rank and dtype on the layers that have one in training."""
    model.requires_grad_(False)
    for path in adapted_layers(model, "target", targets):
        parent, _, name = path.rpartition(".")
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Linear | Conv1D)
        setattr(model.get_submodule(parent), name, _Adapted(layer, rank, dtype))
