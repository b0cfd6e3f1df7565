"""What makes logits of hidden states, and how, a chunk of rows at a time?"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from knowfuse.losses.sparse_kl import token_nll

CHUNK_ROWS = 512  # rows whose logits are alive at a time


@dataclass
class LinearHead:
    """What makes logits of hidden states: `soft_cap * tanh(scale * (hidden @ weight.T + bias) / soft_cap)`.

    Rows from `vocabulary_size` on are padding; None: there is none. Without `soft_cap` nothing is capped.
    """

    weight: Float[Tensor, "V H"]
    bias: Float[Tensor, " V"] | None = None
    soft_cap: float | None = None
    scale: float = 1.0
    vocabulary_size: int | None = None


class ChunkedHead:
    """The matrix products of a head with chunks of hidden states, and the memory for one chunk's logits."""

    def __init__(self, head: LinearHead, hidden: Float[Tensor, "N H"], chunk_rows: int) -> None:
        device = hidden.device.type
        self.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
        self.precise = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.head, self.device = head, device
        rows = min(chunk_rows, len(hidden))
        self.chunks = [slice(n, min(n + rows, len(hidden))) for n in range(0, len(hidden), max(rows, 1))]
        self.buffers = _memory(rows, head, self.precise, hidden.device)
        self.hidden, self.weight = hidden.to(self.dtype), head.weight.to(self.dtype)
        self.bias = None if head.bias is None else head.bias.to(self.dtype)

    def logits(self, rows: slice) -> Float[Tensor, "n V"]:
        """In the memory of the chunk before."""
        hidden, scale, cap = self.hidden[rows], self.head.scale, self.head.soft_cap
        out = self.buffers[0, : len(hidden)]
        with torch.autocast(self.device, enabled=False):
            if self.dtype != self.precise:
                out.copy_(nn.functional.linear(hidden, self.weight, self.bias)).mul_(scale)
            elif self.bias is None:
                out.addmm_(hidden, self.weight.t(), beta=0, alpha=scale)
            else:
                torch.addmm(self.bias, hidden, self.weight.t(), beta=scale, alpha=scale, out=out)
        if cap is not None:
            out.div_(cap).tanh_()
            torch.mul(out, out, out=self.buffers[1, : len(hidden)])
            out.mul_(cap)
        return out

    def backward_(
        self,
        grad: Float[Tensor, "n V"],
        rows: slice,
        grad_hidden: Float[Tensor, "N H"] | None,
        grad_weight: Float[Tensor, "V H"] | None,
        grad_bias: Float[Tensor, " V"] | None,
    ) -> None:
        """Write to the rows of `grad_hidden`, add to the others, of those that are wanted; `grad` is used up."""
        scale = self.head.scale
        with torch.autocast(self.device, enabled=False):
            if self.head.soft_cap is not None:
                grad.addcmul_(grad, self.buffers[1, : len(grad)], value=-1.0)  # the slope of tanh is 1 - tanh^2
            if grad_hidden is not None:
                grad_hidden[rows].addmm_(grad.to(self.dtype), self.weight, beta=0, alpha=scale)
            if grad_weight is not None:
                grad_weight.addmm_(grad.t(), self.hidden[rows].to(self.precise), alpha=scale)
            if grad_bias is not None:
                grad_bias.add_(grad.sum(0), alpha=scale)


def linear_token_nll(
    hidden: Float[Tensor, "N H"], head: LinearHead, labels: Int[Tensor, " N"], chunk_rows: int = CHUNK_ROWS
) -> Float32[Tensor, " N"]:
    """Nats of each label, without gradient; 0 on rows without one."""
    with torch.no_grad():
        chunked = ChunkedHead(head, hidden, chunk_rows)
        nats = [token_nll(chunked.logits(rows), labels[rows]) for rows in chunked.chunks]
        return torch.cat(nats) if nats else hidden.new_zeros(0, dtype=torch.float32)


def head_logits(hidden: Float[Tensor, "N H"], head: LinearHead) -> Float[Tensor, "N V"]:
    """The logits of all rows, float32 (float64 stays), without gradient."""
    with torch.no_grad():
        return ChunkedHead(head, hidden, len(hidden)).logits(slice(None))


def _memory(rows: int, head: LinearHead, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "buffers n V"]:
    """Room for the logits of a chunk, and for what the gradient of a soft cap needs; ValueError says what would fit."""
    shape = [1 if head.soft_cap is None else 2, rows, head.weight.shape[0]]
    try:
        return torch.empty(shape, dtype=dtype, device=device)
    except RuntimeError as error:  # torch.OutOfMemoryError is one, the CPU's allocator raises no other
        fits = rows // 2
        while fits and not _has_room([shape[0], fits, shape[2]], dtype, device):
            fits //= 2
        wanted = f"the logits of {rows} rows take {math.prod(shape) * dtype.itemsize / 2**30:.1f} GiB on {device}"
        advice = f"set chunk_rows to {fits}, which fits" if fits else "not even one row fits: free memory first"
        raise ValueError(f"{wanted}, more than there is: {advice}") from error


def _has_room(shape: list[int], dtype: torch.dtype, device: torch.device) -> bool:
    try:
        torch.empty(shape, dtype=dtype, device=device)
    except RuntimeError:
        return False
    return True
