"""How much memory do GPUs have, and how fast are they at most?"""

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """A GPU by its datasheet."""

    name: str
    memory: int  # GB, 1e9 bytes
    flops: float  # dense bfloat16 FLOP a second, accumulated in float32


# Source: NVIDIA's datasheets, the figures without sparsity; of the A10G, which has none, AWS's page on G5 instances.
GPUS = {
    "a100_40gb": GPU("A100 40 GB", 40, 312e12),
    "a100_80gb": GPU("A100 80 GB", 80, 312e12),
    "h100_80gb": GPU("H100 SXM 80 GB", 80, 989.4e12),
    "h200_141gb": GPU("H200 SXM 141 GB", 141, 989.4e12),
    "l40s_48gb": GPU("L40S 48 GB", 48, 362e12),
    "a10g_24gb": GPU("A10G 24 GB", 24, 70e12),
    "rtx4090_24gb": GPU("RTX 4090 24 GB", 24, 165.2e12),
}


def gpu_named(name: str) -> GPU:
    """ValueError for one we do not know, with those we do."""
    if name not in GPUS:
        raise ValueError(f"gpu is {name!r}: choose one of {', '.join(GPUS)}")
    return GPUS[name]
