"""How are the LLMs of a run told apart on its page, and how do they compare on the documents it was measured on?"""

from collections.abc import Iterable

from knowfuse.evaluation import Compared, compare_run
from knowfuse.pages import SERIES
from knowfuse.report.left import Left

TARGETS = {"target before": "var(--before)", "target clm": "var(--clm)", "target fused": "var(--fused)"}
POINT = "target fused"
ORACLE = "oracle over the sources"  # a row of the headroom


def sources_of(left: Left) -> list[str]:
    """Their names, in the order of the run's settings; of an evaluation or a run without them, of its results."""
    if left.settings is not None:
        return list(left.settings["sources"])
    rows = (left.results or left.headroom or {"rows": {}})["rows"]
    return [name for name in rows if name not in (*TARGETS, ORACLE)]


def colours_of(left: Left, names: Iterable[str]) -> dict[str, str]:
    """The same for the same LLM all over the page."""
    sources = sources_of(left)
    its = {name: SERIES[n % len(SERIES)] for n, name in enumerate(sources)} | TARGETS
    return {name: its.get(name, "var(--soft)") for name in names}


def compared(left: Left) -> dict[str, Compared] | None:
    """Every LLM with its intervals, over the documents that all can read; None where there are no figures by document."""
    return None if left.documents is None else compare_run(left.documents)


def best_source(left: Left, rows: Iterable[str]) -> str | None:
    """The one with the lowest mean among these rows of the results."""
    assert left.results is not None
    figures = left.results["rows"]
    its = [name for name in rows if name in sources_of(left)]
    return min(its, key=lambda name: figures[name]["mean"], default=None)
