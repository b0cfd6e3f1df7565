"""How much is there to gain, before anyone trains?"""

from knowfuse.evaluation import ScoreTable, oracle, score_table
from knowfuse.losses import Headroom
from knowfuse.runs.prepared import Prepared
from knowfuse.screen import say
from knowfuse.surface import Surface
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
            say(dear_eos(source.surface, paid, is_made(source.llm, prepared.cache)))
    return table


def validation_headroom(prepared: Prepared) -> Headroom:
    """What the oracle over the sources pays on validation, and the target before training, over the bytes of all domains."""
    documents = prepared.corpus.split("validation")
    best = {"oracle": oracle(prepared.source_scores(documents)), "before": prepared.target_scores(documents)}
    shared = score_table(best, documents).by_document.shared()
    return Headroom(shared.over_all_bytes("oracle"), shared.over_all_bytes("before"))


def dear_eos(surface: Surface, paid: float, is_small: bool) -> str:
    """What an EOS costs that a source hardly expects, what that may come of, and what may be done about each; `is_small`: made here."""
    assert surface.eos_id is not None
    eos = f"source {surface.name}: its EOS {surface.token_strings[surface.eos_id]!r} costs {paid:.1f} nats"
    if surface.chat is not None:
        return (
            f"{eos} where an answer ends, more than {DEAR_EOS:g}: it would rather go on there. Either your answers end otherwise than those "
            "that it learnt from, which no setting mends (bits per byte leave the EOS out); or it learnt another chat template: then set "
            f"++sources.{surface.name}.chat_template=<file of Jinja>. python -m knowfuse.surface with --chat shows how it reads a conversation"
        )
    if is_small:
        return f"{eos} a document: a small LLM, made here in minutes, knows little of where texts end; it counts apart"
    return (
        f"{eos} a document, more than {DEAR_EOS:g}: it would rather go on there. Either your documents end otherwise than those that it "
        "learnt from, which no setting mends (bits per byte leave the EOS out); or its texts ended with another token: then set "
        f"++sources.{surface.name}.eos=<token>, or null for none. python -m knowfuse.surface shows its special tokens"
    )
