"""Which few tokens stand for a whole distribution without bias? Drawn ones, as often as they are probable.

The K most probable of a distribution say nothing of the rest, whatever is made of its mass. Drawn tokens do: on the mean over
draws they say of every token what the source said, and so teach the mean of what the whole distribution would.

The true next token is not drawn: the trace holds what it costs, so it stands beside the draws with its own probability, and
N draws are made of what it leaves. A token that was drawn n times counts as `n / N` of that, and a row sums to 1: it has no tail.

Source: random sampling knowledge distillation, arXiv 2503.16870, with the source's distribution itself as the proposal. Differs:
there the N tokens are drawn one by one, here at even distances `(j + u) / N` along the cumulative distribution, the most probable
first, from one random number u a row (systematic sampling, Madow 1949). The mean is the same; a token's count is never one off
it, where independent ones spread by its root; and since how many tokens can be met is known beforehand, N is as large as K slots
allow, K to 255, from the distribution alone.
"""

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor
from torch.nn.functional import pad

from knowfuse.traces.largest import GROUP, largest
from knowfuse.types import EMPTY, SourceTrace, TokenizedDocument, TopK

MOST_DRAWS = 255  # of a row: a count has 8 bits, as the share of a kept token has
BELOW = 1.0 - 1e-12  # what keeps a rounded sum on its side of a bound


def uniforms(document_id: str, rows: int) -> Float64[np.ndarray, " U"]:
    """The random numbers in [0, 1) of a document's rows: of its content (its id in hex) and the place of the row, no more.

    They are the same on every machine, in every batch, for every source. SplitMix64, Steele et al. 2014.
    """
    with np.errstate(over="ignore"):
        x = np.uint64(int(document_id[:16], 16)) + np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_(
    probs: Float[Tensor, "N V"], gold: Int[Tensor, " N"], uniform: Float64[Tensor, " N"], k: int
) -> tuple[Int[Tensor, "N K"], Int[Tensor, "N K"]]:
    """At most `k` ids of each row beside its gold token, and how often each was drawn: 0 in a slot without one.

    Each count's mean over `uniform` is its token's share of all but the gold token, times the draws of the row.
    `probs` are overwritten. On another device, or in another batch, sums are rounded otherwise: a draw that falls on the edge of
    two tokens may then meet the other.
    """
    probs.scatter_(1, gold[:, None], 0.0)
    head_ids, head = largest(probs, k)
    rest = probs.scatter_(1, head_ids, 0.0)
    rest = pad(rest, (0, -rest.shape[1] % GROUP)).unflatten(1, (-1, GROUP))  # [N, groups, GROUP]
    groups = rest.sum(-1).double()
    head_ends, group_ends = head.double().cumsum(1), groups.cumsum(1)
    mass = head_ends[:, -1:] + group_ends[:, -1:]
    number = _number_of_draws(head_ends, mass, k)

    def points_below(place: Float64[Tensor, "N P"]) -> Float64[Tensor, "N P"]:
        share = (place / mass).nan_to_num(0.0)  # no mass, no draw
        return torch.minimum((share * number - uniform[:, None]).ceil().clamp(min=0.0), number)

    in_head = points_below(head_ends)
    counts = in_head.diff(dim=1, prepend=torch.zeros_like(in_head[:, :1]))
    nth = in_head[:, -1:] + torch.arange(k, device=mass.device)
    place = (nth + uniform[:, None]) / number.clamp(min=1.0) * mass - head_ends[:, -1:]
    ids, times = _met(place, nth < number, rest, groups, group_ends)
    return _packed(torch.cat([head_ids, ids], 1), torch.cat([counts.long(), times], 1), k)


def _number_of_draws(head_ends: Float64[Tensor, "N K"], mass: Float64[Tensor, "N 1"], k: int) -> Float64[Tensor, "N 1"]:
    """The most draws, `MOST_DRAWS` at most, that meet no more than `k` tokens whatever the random number is.

    Points at even distances meet each of the first m tokens perhaps, and of what follows no more tokens than points: the
    `N` times its share that lie there, rounded up.
    """
    slots = k - torch.arange(k, device=mass.device)
    share = 1.0 - pad(head_ends, (1, -1)) / mass
    most = (slots * BELOW / share.clamp(min=1e-300)).amax(1, keepdim=True).floor()
    return most.clamp(min=k, max=MOST_DRAWS).masked_fill(mass <= 0.0, 0.0)


def _met(
    place: Float64[Tensor, "N K"],
    is_point: Tensor,
    rest: Float[Tensor, "N groups size"],
    groups: Float64[Tensor, "N groups"],
    ends: Float64[Tensor, "N groups"],
) -> tuple[Int[Tensor, "N K"], Int[Tensor, "N K"]]:
    """The ids at these places along the cumulative sum of `rest`, which rise, and how many of the points each has."""
    place = torch.minimum(place.clamp(min=0.0), BELOW * ends[:, -1:])
    group = torch.searchsorted(ends, place, right=True).clamp(max=ends.shape[1] - 1)
    inside = rest.gather(1, group[..., None].expand(-1, -1, rest.shape[2])).double().cumsum(-1)
    place = (place - (ends - groups).gather(1, group)).clamp(min=0.0)
    place = torch.minimum(place, BELOW * inside[..., -1])[..., None]
    ids = group * rest.shape[2] + torch.searchsorted(inside, place, right=True)[..., 0]
    is_new = is_point.clone()
    is_new[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    run = (is_new.long().cumsum(1) - 1).clamp(min=0)
    times = torch.zeros_like(ids).scatter_add_(1, run, is_point.long())
    return torch.zeros_like(ids).scatter_reduce_(1, run, ids.masked_fill(~is_point, 0), "amax"), times


def _packed(
    ids: Int[Tensor, "N C"], times: Int[Tensor, "N C"], k: int
) -> tuple[Int[Tensor, "N K"], Int[Tensor, "N K"]]:
    """The `k` slots that have a count, or some without behind them."""
    order = (times == 0).sort(dim=1, stable=True).indices[:, :k]
    times = times.gather(1, order)
    return ids.gather(1, order).masked_fill(times == 0, 0), times


def drawn_trace(
    tokens: TokenizedDocument,
    ids: Int[np.ndarray, "U K"],
    draws: Int[np.ndarray, "U K"],
    nll: Float32[np.ndarray, " U"],
    log_rest: Float64[np.ndarray, " U"] | None = None,
) -> SourceTrace:
    """The trace of a document: of each row the true next token and what was drawn beside it, K + 1 slots; of the last none.

    `log_rest` is the log-probability of all tokens but the true next one, where it is known better than from `nll`.
    """
    draws, ids, nll = draws.copy(), ids.copy(), nll.copy()
    draws[-1], ids[-1], nll[-1] = 0, 0, 0.0
    with np.errstate(divide="ignore"):
        if log_rest is None:
            log_rest = np.log(-np.expm1(-nll.astype(np.float64)))
        shares = np.log(draws) - np.log(np.maximum(draws.sum(-1, keepdims=True), 1))
    log_probs = np.concatenate([-nll[:, None], np.where(draws > 0, shares + log_rest[:, None], EMPTY)], -1)
    log_probs[-1] = EMPTY
    gold = np.append(tokens.input_ids[1:], 0)
    topk = TopK(np.concatenate([gold[:, None], ids], -1), log_probs.astype(np.float32))
    return SourceTrace(tokens.input_ids, tokens.ends, topk, nll, draws)
