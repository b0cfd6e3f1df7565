"""What does a composed configuration say of the size of a training?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from knowfuse.llm_spec import Attention
from knowfuse.llms.isolation import Packing
from knowfuse.types import LLMSpec

Finetune = Literal["full", "lora", "qlora"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "sgd"]
OPTIMIZERS: dict[str, Optimizer] = {
    "torch.optim.AdamW": "adamw",
    "torch.optim.Adam": "adamw",
    "bitsandbytes.optim.AdamW8bit": "adamw_8bit",
    "bitsandbytes.optim.PagedAdamW8bit": "paged_adamw_8bit",
    "torch.optim.SGD": "sgd",
}
DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32, "64": torch.float64}


@dataclass(frozen=True)
class TrainingShape:
    """What decides how large a training is, beside the LLM."""

    devices: int  # GPUs of a node
    nodes: int
    spread: Literal["one", "ddp", "fsdp"]
    weights: torch.dtype  # of the weights that are kept
    trained: torch.dtype  # of those that are trained, their gradients and the optimizer's states
    compute: torch.dtype  # of the products: autocast's, or of the weights that FSDP2 gathers
    attention: Attention | None  # the kernel; None: what transformers chooses
    trust_remote_code: bool  # the LLM is its own code
    finetune: Finetune
    lora_rank: int
    lora_targets: str | tuple[str, ...]  # names of modules, or peft's `all-linear`
    optimizer: Optimizer
    is_checkpointed: bool  # decoder layers run twice and keep no activations
    packing: Packing
    block_tokens: int  # T
    document_tokens: int  # the longest documents, in the target's tokens
    batch_blocks: int  # B, per GPU
    accumulated: int  # batches a step
    validated_every: int  # batches
    steps: int
    fits: int  # trainings of the same size: learning rates, pairs of sources, and plain CLM beside them
    chunk_rows: int
    num_sources: int  # S
    top_k: int  # K
    is_mixture: bool  # the fused target has the slots of all sources

    @property
    def gpus(self) -> int:
        return self.devices * self.nodes

    @property
    def shards(self) -> int:
        return self.gpus if self.spread == "fsdp" else 1

    @property
    def is_autocast(self) -> bool:
        return self.spread != "fsdp" and self.compute != self.weights

    @property
    def tokens(self) -> int:
        """Of one fit, on all GPUs."""
        return self.steps * self.accumulated * self.batch_blocks * self.block_tokens * self.gpus


def training_shape(cfg: DictConfig) -> TrainingShape:
    """Of the configuration of train.py; ValueError for a setting that this plan knows nothing of."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    trainer = settings["trainer"]
    target: LLMSpec = hydra.utils.instantiate(cfg.target, _convert_="all")
    strategy = trainer.get("strategy") or "auto"
    weights, compute = _dtypes(trainer, strategy, target.dtype)
    finetune, rank, targets = _finetune(settings)
    devices, nodes = _devices(trainer), int(trainer.get("num_nodes", 1))
    rates = settings["learning_rates"]
    spread, optimizer = _spread(strategy, devices * nodes), _optimizer(settings["optimizer"])
    if spread == "fsdp" and (optimizer in ("adamw_8bit", "paged_adamw_8bit") or finetune == "qlora"):
        raise ValueError(
            f"optimizer={optimizer} with finetune={finetune} does not go with shards: use optimizer=adamw and finetune=full or "
            "lora, or trainer=ddp or trainer=gpu"
        )
    is_pairwise, sources = settings.get("pairwise") is not None, len(settings["sources"])
    fused = sources - 1 + settings["compare_with_direct"] if is_pairwise else 1
    fits = fused * len(rates) + settings["compare_with_clm"] * len(settings["clm_learning_rates"] or rates)
    return TrainingShape(
        devices=devices,
        nodes=nodes,
        spread=spread,
        weights=weights,
        trained=weights
        if finetune == "full" or str(trainer.get("precision")) in ("bf16-true", "16-true")
        else torch.float32,
        compute=compute,
        attention=target.attention,
        trust_remote_code=target.trust_remote_code,
        finetune=finetune,
        lora_rank=rank,
        lora_targets=targets,
        optimizer=optimizer,
        is_checkpointed=bool(settings.get("activation_checkpointing", False)),
        packing=settings["packing"],
        block_tokens=settings["block_tokens"],
        document_tokens=_document_tokens(settings),
        batch_blocks=settings["batch_blocks"],
        accumulated=trainer.get("accumulate_grad_batches", 1),
        validated_every=trainer.get("val_check_interval", 1),
        steps=trainer["max_steps"],
        fits=fits,
        chunk_rows=settings["loss"]["chunk_rows"],
        num_sources=2 if is_pairwise and not settings["compare_with_direct"] else sources,
        top_k=settings["top_k"],
        is_mixture=not str(settings["fusion"]["_target_"]).endswith("min_ce"),
    )


def _document_tokens(settings: Mapping[str, Any]) -> int:
    """Of the longest document; a conversation, which is not cut, fills a block at most."""
    longest = settings["corpus"].get("max_document_bytes")
    return settings["block_tokens"] if longest is None else max(1, round(longest / settings["bytes_per_token"]))


def _devices(trainer: Mapping[str, Any]) -> int:
    devices = trainer.get("devices", 1)
    if devices in (-1, "-1", "auto"):
        if (found := torch.cuda.device_count()) > 0:
            return found
        raise ValueError(
            f"trainer.devices is {devices}, all GPUs of the machine, and this one has none: say how many the run will "
            "have, such as trainer.devices=8"
        )
    if isinstance(devices, list):
        return len(devices)
    if type(devices) is not int or devices < 1:
        raise ValueError(f"trainer.devices is {devices!r}: it must be a whole number of at least 1, or -1")
    return devices


def _spread(strategy: Any, gpus: int) -> Literal["one", "ddp", "fsdp"]:
    name = str(strategy["_target_"] if isinstance(strategy, Mapping) else strategy).lower()
    if "fsdp" in name or "modelparallel" in name:
        return "fsdp"
    if gpus == 1:
        return "one"
    if "ddp" in name or name == "auto":
        return "ddp"
    raise ValueError(
        f"trainer.strategy is {name!r}, of which this plan does not know what it keeps where: use trainer=fsdp, ddp or gpu"
    )


def _dtypes(trainer: Mapping[str, Any], strategy: Any, spec: str) -> tuple[torch.dtype, torch.dtype]:
    """Of the weights that are kept, and of the products."""
    if isinstance(strategy, Mapping) and "compute_dtype" in strategy:
        return torch.float32, getattr(torch, strategy["compute_dtype"])
    bits, _, kind = str(trainer.get("precision") or "32-true").partition("-")
    if bits not in DTYPES or kind not in ("", "true", "mixed"):
        raise ValueError(
            f"trainer.precision is {trainer.get('precision')!r}: this plan knows 32-true, bf16-true, 16-true, bf16-mixed "
            "and 16-mixed"
        )
    kind = kind or ("true" if bits == "32" else "mixed")  # as Lightning takes 32, 16 and bf16
    kept = getattr(torch, spec)
    if kind == "mixed":
        return kept, DTYPES[bits]
    return (kept, kept) if bits == "32" else (DTYPES[bits], DTYPES[bits])


def _optimizer(chosen: Any) -> Optimizer:
    target = chosen["_target_"] if isinstance(chosen, Mapping) else chosen
    if target not in OPTIMIZERS:
        raise ValueError(
            f"optimizer is {target!r}, of which this plan does not know what it keeps: it knows {', '.join(OPTIMIZERS)}"
        )
    return OPTIMIZERS[target]


def _finetune(settings: Mapping[str, Any]) -> tuple[Finetune, int, str | tuple[str, ...]]:
    chosen: Mapping[str, Any] = settings.get("finetune") or {"_target_": "full"}
    name = chosen["_target_"].rpartition(".")[2]
    if name == "full":
        return "full", 0, ()
    if name not in ("lora", "qlora"):
        raise ValueError(f"finetune is {chosen['_target_']!r}: this plan knows full, lora and qlora")
    targets = chosen.get("target_modules") or "all-linear"
    return name, chosen["rank"], targets if isinstance(targets, str) else tuple(targets)
