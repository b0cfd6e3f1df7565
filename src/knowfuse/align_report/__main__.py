"""What does each alignment keep of what the sources said? `alignment.html`, `alignment.png` and `alignment.json`.

python -m knowfuse.align_report
python -m knowfuse.align_report sources=mine target=mine num_documents=1000
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.table import Table

from knowfuse.align_report.example import example_of
from knowfuse.align_report.page import alignment_page
from knowfuse.align_report.picture import picture
from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.slots import require_slots
from knowfuse.commands.command import command
from knowfuse.evaluation import AlignmentQuality, SeenDocument, tried, with_own_tokenizer
from knowfuse.files import write_whole
from knowfuse.pages import write_png
from knowfuse.progress import at_work
from knowfuse.runs.prepared import Prepared, prepare, require_here
from knowfuse.runs.refusals import require_own
from knowfuse.runs.where import register_resolvers
from knowfuse.screen import quiet_libraries, say, show_table
from knowfuse.surface import UnspellableDocument
from knowfuse.surface.conversations import in_tokens
from knowfuse.types import Aligner

register_resolvers()


def seen_documents(prepared: Prepared, name: str, most: int) -> list[SeenDocument]:
    """What this source said of the first documents that it and the target can read; and the target, if it is a source."""
    store, surface = prepared.sources[name].store, prepared.target_surface
    own = prepared.target_store()
    seen = []
    for document in prepared.corpus.split("fusion"):
        if len(seen) == most or document.id in store.set_aside:
            continue
        (tokens,) = in_tokens(surface, [document])
        if isinstance(tokens, UnspellableDocument):
            continue
        if own is not None and document.id not in own.set_aside:
            tokens = replace(tokens, own=own.read(document.id).topk)
        seen.append(SeenDocument(store.read(document.id), tokens, document.text.encode()))
    if not seen:
        raise ValueError(f"source {name!r} and the target can both read none of the documents: nothing to report")
    return seen


def show(qualities: Mapping[str, Mapping[str, AlignmentQuality]]) -> None:
    """The figures on the screen."""
    table = Table(title="What each alignment keeps of what the sources said")
    for column in ("source", "method", "loss, bits/byte", "own tokenizer", "coverage", "top-1 fidelity"):
        table.add_column(column, justify="left" if column in ("source", "method") else "right")
    for source, methods in qualities.items():
        for method, q in methods.items():
            figures = (f"{q.loss_bits_per_byte:.4f}", f"{q.identity_bits_per_byte:.4f}", f"{q.coverage:.3f}")
            table.add_row(source, method, *figures, f"{q.top1_fidelity:.3f}")
    show_table(table)


@command("align_report", Path.cwd() / "conf")
def main(cfg: DictConfig) -> None:
    """Reads what is missing as `python -m knowfuse.prepare` does; trains nothing."""
    quiet_libraries()
    settings = hydra.utils.instantiate(cfg, _convert_="all")
    for name, least in {"num_documents": 1, "example": 0}.items():
        if type(settings[name]) is not int or settings[name] < least:
            raise ValueError(f"{name} is {settings[name]!r}: it must be a whole number of at least {least}")
    if settings["traces"] != "topk":
        raise ValueError(
            f"traces={settings['traces']}: what an alignment keeps is told from the most probable tokens, of which a loss can be "
            "taken; set traces=topk"
        )
    for method in settings["methods"].values():
        require_slots(method, settings["top_k"])
        require_own(method, settings["target"], settings["sources"])
    cache = Path(settings["cache"]).expanduser()
    corpus = settings["corpus"](cache=str(cache))
    require_here(settings["target"])
    prepared = prepare(corpus, settings["target"], settings["sources"], settings["top_k"], cache, settings["tracing"])
    methods: dict[str, Callable[[TokenizerPair], Aligner]] = settings["methods"]
    qualities, examples = {}, []
    for name, source in prepared.sources.items():
        documents = seen_documents(prepared, name, settings["num_documents"])
        pair = prepared.pair(name)
        found = {}
        for method, make in methods.items():
            with at_work(f"{method} of {name}"):
                found[method] = tried(make, pair, documents)
        qualities[name] = {
            "identity": with_own_tokenizer(byte_exact, pair, documents),
            **{m: q for m, (_, q) in found.items()},
        }
        chosen = documents[min(settings["example"], len(documents) - 1)]
        for align, quality in found.values():
            if quality.budget is not None:  # its rows can be shown in the colours of their mass
                examples.append(example_of(align, chosen, source.surface, prepared.target_surface))
    show(qualities)
    folder = Path(HydraConfig.get().runtime.output_dir)
    figures = {name: {method: asdict(q) for method, q in by.items()} for name, by in qualities.items()}
    write_whole(folder / "alignment.json", json.dumps(figures, indent=1).encode())
    write_whole(folder / "alignment.html", alignment_page(qualities, examples).encode())
    write_png(folder / "alignment.png", picture(qualities, examples))
    say(f"{folder}: alignment.html, alignment.png, alignment.json")


if __name__ == "__main__":
    main()
