"""How much is there to gain, before anyone trains?"""

from pathlib import Path

from knowfuse.evaluation import ScoreTable, oracle, score_table
from knowfuse.losses import Headroom
from knowfuse.progress import say
from knowfuse.runs.prepared import Prepared, Source
from knowfuse.training.materialise import is_made

DEAR_EOS = 6.0  # nats a document


def headroom(prepared: Prepared) -> ScoreTable:
    """Validation bits per byte of every source, of the target before training, and of the oracle over the sources.

    A line names each source that does not expect its EOS where a document ends.
    """
    documents = prepared.corpus.split("validation")
    sources = prepared.source_scores(documents)
    before = {"target before": prepared.target_scores(documents)}
    table = score_table(sources | before | {"oracle over the sources": oracle(sources)}, documents)
    for name, source in prepared.sources.items():
        if source.surface.eos_id is not None and (paid := table.eos_nats.get(name, 0.0)) > DEAR_EOS:
            _say_dear_eos(name, source, paid, prepared.cache)
    return table


def validation_headroom(prepared: Prepared) -> Headroom:
    """What the oracle over the sources pays on validation, and the target before training, over the bytes of all domains."""
    documents = prepared.corpus.split("validation")
    best = {"oracle": oracle(prepared.source_scores(documents)), "before": prepared.target_scores(documents)}
    shared = score_table(best, documents).by_document.shared()
    return Headroom(shared.over_all_bytes("oracle"), shared.over_all_bytes("before"))


def _say_dear_eos(name: str, source: Source, paid: float, cache: Path) -> None:
    """What an EOS costs that a source hardly expects where a document ends, and what may be done about it."""
    assert source.surface.eos_id is not None
    costs = f"its EOS {source.surface.token_strings[source.surface.eos_id]!r} costs {paid:.1f} nats a document"
    if source.surface.chat is not None:
        say(
            f"source {name}: {costs}, more than {DEAR_EOS:g}, to end its answers: it hardly expects it there. Where it learnt another "
            f"template, say so: ++sources.{name}.chat_template=<file of Jinja>; it counts apart"
        )
        return
    if is_made(source.llm, cache):
        say(
            f"source {name}: {costs}: a small LLM, made here in minutes, knows little of where texts end; it counts apart"
        )
        return
    say(
        f"source {name}: {costs}, more than {DEAR_EOS:g}: it hardly expects it there. Where its texts ended otherwise in training, "
        f"say so: ++sources.{name}.eos=<token>, or null for none; python -m knowfuse.surface shows its special tokens"
    )
