"""What does the fused linear loss cost, in time and memory, against what it replaces?

    python benchmarks/loss.py

Forward and backward of hidden states [2048, 576] and a head of 49,152 tokens in float32, four sequences, three sources with
K = 10. `ours`: MinCE and `fused_linear_loss`. `ce`: cross-entropy on full logits. `floor`: the three matrix products
alone, chunked as ours. `dense`: the published form of MinCE, one dense bfloat16 [N, V] target per source, the best chosen
per sequence, cross-entropy on full logits with the text and with the target.
`dense` multiplies the same matrices: `matmul_floor_vs_dense` is the least that `time_vs_dense` could be.

Each option of the loss has a row, in time and memory over `ours` with the defaults.

Times are medians of rounds that run all in turn, of options those of the ratio to the default in the same round. Memory is the peak of torch's allocator over what was there
before, without the gradients; of `dense` it includes the dense targets.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from knowfuse.fusion.min_ce import min_ce
from knowfuse.losses import Completions, LinearHead, fused_linear_loss
from knowfuse.losses.chunked_head import CHUNK_ROWS
from knowfuse.types import AlignedSources, TopK

SEQUENCES, SOURCES, TOP_K, LM_WEIGHT = 4, 3, 10, 0.9
Case = tuple[Tensor, Tensor, Tensor, AlignedSources]
OPTIONS: dict[str, dict[str, Any]] = {
    "form=renormalised": {"form": "renormalised"},
    "gate=better": {"gate": "better"},
    "divergence=reverse_kl": {"divergence": "reverse_kl"},
    "divergence=jensen_shannon": {"divergence": "jensen_shannon"},
    "temperature=2": {"temperature": 2.0},
    "balance=match_clm": {"balance": "match_clm"},
    "completion=set": {"completion": "set"},
}


def make_case(rows: int, width: int, vocabulary: int) -> Case:
    """Hidden states [N, H], weight [V, H], labels [N] and sources that each keep the label and other tokens."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator).requires_grad_()
    weight = (torch.randn(vocabulary, width, generator=generator) / width**0.5).requires_grad_()
    shape = SEQUENCES, SOURCES, rows // SEQUENCES
    labels = torch.randint(0, vocabulary, (shape[0], shape[2]), generator=generator)
    # Ids of a row are distinct: equal steps from the label on.
    steps = torch.randint(1, vocabulary // TOP_K, shape, generator=generator)
    ids = (labels[:, None, :, None] + steps[..., None] * torch.arange(TOP_K)) % vocabulary
    probs = 0.9 * torch.randn(*shape, TOP_K, generator=generator).mul(2).softmax(-1)
    sources = AlignedSources(
        topk=TopK(ids, probs.log()),
        tail=1 - probs.sum(-1),
        nll=-probs[..., 0].log(),
        source_tokens=torch.ones(shape),
        is_aligned=torch.ones(shape, dtype=torch.bool),
    )
    return hidden, weight, labels.flatten(), sources


def made_up_sets(vocabulary: int) -> Completions:
    """As many tokens that complete a label as SmolLM2 has in English text: one percent of its tokens in the mean, mostly few."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(vocabulary, generator=generator)
    place = torch.empty_like(order)
    place[order] = torch.arange(vocabulary)
    sizes = (vocabulary / 800 / torch.rand(vocabulary, generator=generator)).long().clamp(1)
    return Completions(order, place, place, (place + sizes).clamp(max=vocabulary))


def ours(case: Case, **options: Any) -> None:
    hidden, weight, labels, sources = case
    documents = torch.ones(SEQUENCES, len(labels) // SEQUENCES, dtype=torch.int64)
    fused = min_ce(sources, documents, documents)
    fused_linear_loss(hidden, LinearHead(weight), labels, fused, lm_weight=LM_WEIGHT, **options).total.backward()


def cross_entropy(case: Case) -> None:
    hidden, weight, labels, _ = case
    F.cross_entropy(hidden @ weight.t(), labels).backward()


def floor(case: Case) -> None:
    hidden, weight, _, _ = (x.detach() if isinstance(x, Tensor) else x for x in case)
    grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
    logits = torch.empty(CHUNK_ROWS, len(weight))
    for rows in range(0, len(hidden), CHUNK_ROWS):
        chunk = hidden[rows : rows + CHUNK_ROWS]
        grad = torch.mm(chunk, weight.t(), out=logits[: len(chunk)])
        torch.mm(grad, weight, out=grad_hidden[rows : rows + CHUNK_ROWS])
        grad_weight.addmm_(grad.t(), chunk)


def dense(case: Case) -> None:
    """As published: the targets side by side along a last axis, the best by `argmax` of the rewards at every cell, CE.

    The targets are filled at once; there, by a loop over tokens.
    """
    hidden, weight, labels, sources = case
    shape = SEQUENCES, len(labels) // SEQUENCES, len(weight)
    probs = sources.topk.log_probs.softmax(-1).bfloat16()
    targets = [
        torch.zeros(shape, dtype=torch.bfloat16).scatter_(-1, sources.topk.ids[:, s], probs[:, s])
        for s in range(SOURCES)
    ]
    rewards = torch.exp(-sources.nll.mean(-1)).bfloat16()  # [B, S]
    at_every_cell = torch.stack([rewards[:, s, None, None].expand(shape) for s in range(SOURCES)], -1)
    best = at_every_cell.argmax(-1, keepdim=True)
    target = torch.stack(targets, -1).gather(-1, best).view(len(labels), -1)
    logits = hidden @ weight.t()
    clm, fused = F.cross_entropy(logits, labels), F.cross_entropy(logits, target)
    (LM_WEIGHT * clm + (1 - LM_WEIGHT) * fused).backward()


def without_gradients(case: Case) -> Case:
    case[0].grad = case[1].grad = None
    return case


def peak_bytes(run: Callable[[Case], None], case: Case) -> int:
    """The most that was allocated at once by the run, without what it leaves in `.grad`."""
    without_gradients(case)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run(case)
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak - sum(x.grad.nbytes for x in case[:2] if x.grad is not None)


def seconds(runs: Mapping[str, Callable[[Case], None]], case: Case, rounds: int) -> dict[str, list[float]]:
    """The times of each, over rounds that run all in turn."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            without_gradients(case)
            began = time.perf_counter()
            run(case)
            spent[name].append(time.perf_counter() - began)
    return spent


def options_over_default(case: Case, rounds: int) -> dict[str, dict[str, float]]:
    """Time and peak memory of our loss with each option over those of it without."""
    sets = made_up_sets(len(case[1]))
    runs = {"default": ours, **{name: partial(ours, **options, sets=sets) for name, options in OPTIONS.items()}}
    spent, least = seconds(runs, case, rounds), peak_bytes(ours, case)
    return {
        name: {
            "time": round(statistics.median(a / b for a, b in zip(spent[name], spent["default"], strict=True)), 3),
            "memory": round(peak_bytes(runs[name], case) / least, 3),
        }
        for name in OPTIONS
    }


def peaks_over(rows: list[int], vocabularies: list[int], width: int) -> dict[str, dict[str, float]]:
    """Peak MB of ours and of cross-entropy over N at the first vocabulary, and over V at the first N."""
    shapes = [(n, vocabularies[0]) for n in rows] + [(rows[0], v) for v in vocabularies[1:]]
    found = {}
    for n, v in shapes:
        case = make_case(n, width, v)
        found[f"{n} x {v}"] = {run.__name__: round(peak_bytes(run, case) / 1e6, 1) for run in (ours, cross_entropy)}
    return found


def gradient_error(case: Case) -> float:
    """The largest difference of a float32 gradient from the float64 one, over the largest of that one."""
    ours(without_gradients(case))
    single = [x.grad for x in case[:2] if x.grad is not None]
    exact: Case = (case[0].detach().double().requires_grad_(), case[1].detach().double().requires_grad_(), *case[2:])
    ours(exact)
    double = [x.grad for x in exact[:2] if x.grad is not None]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(single, double, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    runs = {"ours": ours, "ce": cross_entropy, "floor": floor, "dense": dense}

    case = make_case(arguments.rows, arguments.width, arguments.vocabulary)
    times = {name: statistics.median(spent) for name, spent in seconds(runs, case, arguments.rounds).items()}
    peaks = {name: peak_bytes(run, case) for name, run in runs.items() if name != "floor"}
    table = Table("", "seconds", "peak, MB", title=f"N = {arguments.rows}, V = {arguments.vocabulary}")
    for name in runs:
        table.add_row(name, f"{times[name]:.2f}", f"{peaks[name] / 1e6:.0f}" if name in peaks else "")
    by_shape = peaks_over([512, 1024, 2048, 4096], [arguments.vocabulary // 4, arguments.vocabulary // 2], 64)
    shapes = Table("N x V, H = 64", "ours, MB", "ce, MB", title="peak memory")
    for shape, peak in by_shape.items():
        shapes.add_row(shape, *(f"{megabytes:.0f}" for megabytes in peak.values()))
    by_option = options_over_default(case, arguments.rounds)
    options = Table("", "time", "peak memory", title="our loss with an option, over its default")
    for name, ratios in by_option.items():
        options.add_row(name, *(f"{ratio:.2f}" for ratio in ratios.values()))
    console = Console()
    console.print(table)
    console.print(options)
    console.print(shapes)

    print(
        json.dumps(
            {
                "time_vs_ce": round(times["ours"] / times["ce"], 3),
                "peak_memory_vs_ce": round(peaks["ours"] / peaks["ce"], 3),
                "time_vs_matmul_floor": round(times["ours"] / times["floor"], 3),
                "time_vs_dense": round(times["ours"] / times["dense"], 3),
                "peak_memory_vs_dense": round(peaks["ours"] / peaks["dense"], 3),
                "max_relative_gradient_error": gradient_error(case),
                "matmul_floor_vs_dense": round(times["floor"] / times["dense"], 3),
                "peak_megabytes": by_shape,
                "options_vs_default": by_option,
            }
        )
    )


if __name__ == "__main__":
    main()
