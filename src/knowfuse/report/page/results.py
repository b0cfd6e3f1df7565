"""What came out of a run, with which certainty, and what there was to gain before anyone trained?"""

from html import escape
from typing import Any

from knowfuse.evaluation import Compared, Completed, Interval, baseline_of
from knowfuse.pages import Dot, Section, dots, figure, grid, paragraph, table
from knowfuse.report.left import HEADROOM, Left
from knowfuse.report.page.rows import ORACLE, POINT, best_source, colours_of, compared, sources_of
from knowfuse.report.results import times_sooner
from knowfuse.report.tables import capital


def lead(left: Left) -> str:
    """The first lines of the page: what to take away."""
    if left.results is None:
        return paragraph("This run is not finished: what there is of it so far is below.", "worse")
    rows = left.results["rows"]
    table = compared(left)
    tiles = [_tile(f"{rows[POINT]['mean']:.3f}", f"{left.results['unit']}, fused target, mean of the domains")]
    baseline = next(name for name in ("target clm", "target before") if name in rows)
    more = table[POINT].more_than_baseline["mean"] if table else None
    tiles.append(_difference(rows, baseline, more))
    if (source := best_source(left, rows)) is not None:
        tiles.append(_difference(rows, source, None, "the best source"))
    if (sooner := left.results.get("tokens_to_clm_final")) is not None:
        times, which = times_sooner(sooner)
        tiles.append(_tile(times, f"{which} training tokens to plain CLM's best validation figure"))
    return f"<div class=tiles>{''.join(tiles)}</div>"


def _difference(rows: dict[str, Any], other: str, interval: Interval | None, what: str = "") -> str:
    more = rows[POINT]["mean"] - rows[other]["mean"]
    is_sure = interval is None or interval.side != 0
    kind = "" if not is_sure else "better" if more < 0 else "worse" if more > 0 else ""
    said = f"against {other}" + (f", {what}" if what else "")
    if interval is not None:
        said += f" (95 %: {interval.low:+.3f} to {interval.high:+.3f}{'' if is_sure else _why_unsure(interval)})"
    return _tile(f"{more:+.3f}", said, kind)


def _why_unsure(interval: Interval) -> str:
    return ", which holds 0" if interval.is_sure else ", with a domain of one document, which tells nothing of others"


def _tile(value: str, said: str, kind: str = "") -> str:
    return f"<div class=tile><b class='{kind}'>{escape(value)}</b><span>{escape(said)}</span></div>"


def results(left: Left) -> Section:
    """Every LLM on the test split, by domain, with intervals where there are figures by document."""
    if left.results is None:
        return Section("results", "Results", left_out=left.why["results.json"])
    rows, with_intervals = left.results["rows"], compared(left)
    domains = [name for name in next(iter(rows.values())) if name != "mean"]
    charts = [
        figure("mean of the domains" if d == "mean" else d, dots(_dots(left, rows, with_intervals, d), "bits per byte"))
        for d in (["mean", *domains] if len(domains) > 1 else domains)
    ]
    body = paragraph(f"{capital(left.results['unit'])}: lower is better; each axis begins where the figures differ.")
    body += grid(charts) + _table(left, domains, with_intervals) + paragraph(_certainty(left), "soft")
    reason = left.why.get("documents.csv", "")
    return Section("results", "Results", body, f"intervals (documents.csv: {reason})" if reason else "")


def _dots(left: Left, rows: dict[str, Any], table: dict[str, Compared] | None, domain: str) -> list[Dot]:
    colours = colours_of(left, rows)
    found = []
    for name, bits in rows.items():
        of = table[name].bits_per_byte[domain] if table else None
        ends = (of.low, of.high) if of else (None, None)
        found.append(Dot(name, colours[name], bits[domain], *ends, is_point=name == POINT))
    return found


def _table(left: Left, domains: list[str], with_intervals: dict[str, Compared] | None) -> str:
    assert left.results is not None
    rows, heading = left.results["rows"], ["bits per byte", *domains, "mean"]
    baseline = None
    if with_intervals is not None and left.documents is not None:
        baseline = baseline_of(left.documents)
        heading.append(f"more than {baseline}")
    apart = _apart(left.results)
    lines, best = [], {}
    for r, (name, bits) in enumerate(rows.items()):
        line = [name, *(f"{bits[d]:.3f}" for d in [*domains, "mean"])]
        for c, d in enumerate([*domains, "mean"], 1):
            if bits[d] == min(other[d] for other in rows.values()):
                best[r, c] = "best"
        if baseline is not None and with_intervals is not None:
            line.append("" if name == baseline else _more(with_intervals[name].more_than_baseline["mean"]))
        lines.append(line + [values.get(name, "") for values in apart.values()])
    return table([*heading, *apart], lines, best, [n for n, name in enumerate(rows) if name == POINT])


def _apart(results: dict[str, Any]) -> dict[str, dict[str, str]]:
    """By heading and LLM, what is not among the bits per byte of the text and is there."""
    by_class = results.get("by_class_of_bytes", {})
    kinds = next(iter(by_class.values()), {})
    apart = {f"{kind}, bits per byte": {name: f"{bits[kind]:.3f}" for name, bits in by_class.items()} for kind in kinds}
    completed = {name: Completed(**its) for name, its in results.get("completions", {}).items()}
    for prompts in {its.prompts for its in completed.values()}:
        heading = f"completions that are Python, of {prompts:,}"
        apart[heading] = {name: f"{its.share:.2f} ± {its.error:.2f}" for name, its in completed.items()}
    for heading, key in (("EOS, nats", "eos_nats"), ("first token, nats", "first_token_nats")):
        if results.get(key):
            apart[heading] = {name: f"{nats:.2f}" for name, nats in results[key].items()}
    return apart


def _more(interval: Interval) -> str:
    return f"{interval.value:+.3f}\n{interval.low:+.3f} to {interval.high:+.3f}"


def _certainty(left: Left) -> str:
    assert left.results is not None
    out = left.results.get("documents_left_out", 0)
    said = f"{out:,} documents that some LLM cannot read are left out for all. " if out else ""
    if left.documents is None:
        return said
    shared = left.documents.shared()
    if shared.alone:
        said += (
            f"One document is all there is of {', '.join(shared.alone)}: of others like it the intervals say nothing. "
        )
    return said + (
        f"95 % intervals: the {len(shared.ids):,} documents drawn anew within their domains, paired, 2,000 times. They are of this one "
        "seed; python evaluate.py 'compare=[<run>,<run>]' puts runs of several seeds into one table."
    )


def headroom(left: Left) -> Section:
    """What there was to gain on validation, before anyone trained."""
    if left.headroom is None:
        return Section("headroom", "Headroom", left_out=left.why[HEADROOM])
    rows = left.headroom["rows"]
    domains = list(next(iter(rows.values())))
    sources = {name: rows[name]["mean"] for name in sources_of(left) if name in rows}
    oracle = rows[ORACLE]["mean"] if ORACLE in rows else None
    colours = colours_of(left, rows)
    chart = dots(
        [
            Dot(name.partition(" over ")[0], colours[name], bits["mean"], is_point=name == ORACLE)
            for name, bits in rows.items()
        ],
        "bits per byte",
    )
    body = paragraph(f"{capital(left.headroom['unit'])}, before anyone trains.")
    if oracle is not None and sources:
        best = min(sources, key=lambda name: sources[name])
        body += paragraph(
            f"An LLM that were on every document as good as the best source there would pay {oracle:.3f}, which is "
            f"{sources[best] - oracle:.3f} less than {best}, the best source on the mean, and "
            f"{rows['target before']['mean'] - oracle:.3f} less than the target before: that much there is to gain from the sources."
        )
    lines = [[name, *(f"{bits[d]:.3f}" for d in domains)] for name, bits in rows.items()]
    return Section(
        "headroom",
        "Headroom",
        body + grid([figure("mean of the domains", chart), table(["bits per byte", *domains], lines)]),
    )
