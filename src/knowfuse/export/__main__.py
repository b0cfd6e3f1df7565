"""What a run made, as a folder to keep, load and share, with a card that says what it is and how it was made.

python -m knowfuse.export run=outputs/quickstart/2026-01-31_12-00-00 folder=fused
python -m knowfuse.export run=outputs/quickstart/2026-01-31_12-00-00 gguf=q8_0 push_to_hub=mine
python -m knowfuse.export traces=outputs/quickstart/2026-01-31_12-00-00 folder=traces
"""

import hashlib
from functools import partial
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

from knowfuse.commands.command import command
from knowfuse.export.converting import convert, require_converter
from knowfuse.export.finished import checksums, is_finished, may_be_finished, say_finished, write_note
from knowfuse.export.folder import export, folder_of, require_dtype
from knowfuse.export.model_card import model_card
from knowfuse.export.pushing import Kind, push, require_pushable
from knowfuse.export.trace_card import trace_card
from knowfuse.files import sha256_of, whole_folder
from knowfuse.llms.files import CARD
from knowfuse.llms.finetune import adapters
from knowfuse.progress import at_work
from knowfuse.report.left import left_by
from knowfuse.runs.folder import load_run
from knowfuse.runs.trained import trained_of
from knowfuse.screen import quiet_libraries, say
from knowfuse.text.documents import Documents
from knowfuse.traces.copied import copy_documents


@command("export", Path.cwd() / "conf")
def main(cfg: DictConfig) -> None:
    """The best checkpoint of one method of a run, or what its sources said."""
    quiet_libraries()
    if (cfg.run is None) == (cfg.traces is None):
        what = "run is not set, nor is traces" if cfg.run is None else "run and traces are both set"
        raise ValueError(
            f"{what}: give one of them the folder of a finished run, such as run=outputs/<name>/<date_time>"
        )
    target(cfg) if cfg.traces is None else traces(cfg)


def target(cfg: DictConfig) -> None:
    """A folder of transformers with a model card."""
    trained = trained_of(cfg.run, cfg.method)
    run, kept = trained.run, trained.fit
    require_dtype(cfg.dtype)
    if not cfg.merge and (odd := next((key for key in ("dtype", "gguf") if cfg[key] is not None), None)):
        raise ValueError(f"{odd} is of whole weights, and merge=false exports adapters alone: leave one of the two out")
    folder = run / cfg.method if cfg.folder is None else folder_of(cfg.folder)
    may_be_finished(folder)
    name = None if cfg.push_to_hub is None else require_pushable(cfg.push_to_hub, "model")
    converter = None if cfg.gguf is None else require_converter(cfg.gguf, cfg.converter)
    target, sources = trained.experiment.target, trained.experiment.sources
    card = model_card(left_by(run), cfg.method, target, sources, name or folder.name, not cfg.merge)
    made_of = {
        **{key: cfg[key] for key in ("method", "dtype", "merge", "gguf")},
        "run": sha256_of(run / "config.yaml"),
        "weights": checksums(trained.checkpoint),
        "card": hashlib.sha256(card.encode()).hexdigest(),
    }
    if is_finished(folder, made_of):
        say_finished(folder)
        _push(folder, name, "model")
        return
    with at_work(f"weights of {run}"):
        model = trained.load(cfg.merge)
    if not cfg.merge and not adapters(model):
        raise ValueError(
            f"merge is false, and run {str(run)!r} trained its target whole: it has no adapters, leave merge out"
        )
    model = model if cfg.dtype is None else model.to(getattr(torch, cfg.dtype))
    beside = [partial(_write_card, card)]
    if converter is not None:
        beside.append(partial(convert, converter, kind=str(cfg.gguf), name=folder.name))
    beside.append(partial(write_note, made_of))
    is_chat = trained.prepared.corpus.is_chat
    with at_work(f"export to {folder}"):
        export(model, trained.base, folder, *beside, base=target.path, is_chat=is_chat)
    say(f"{cfg.method} of {run}: {kept.best_bits_per_byte:.3f} bits/byte on validation, in {folder}")
    _push(folder, name, "model")


def traces(cfg: DictConfig) -> None:
    """What each source said of the text that the run was trained on, as a store that others can read, with a card."""
    run, settings, _ = load_run(cfg.traces)
    if odd := next((key for key in ("dtype", "gguf", "converter") if cfg[key] is not None), None):
        raise ValueError(f"{odd} is of weights, and traces= exports none: leave it out")
    folder = run / "traces" if cfg.folder is None else folder_of(cfg.folder)
    may_be_finished(folder)
    name = None if cfg.push_to_hub is None else require_pushable(cfg.push_to_hub, "dataset")
    experiment = hydra.utils.instantiate(settings, _convert_="all")
    prepared = experiment.prepare()
    documents = Documents.of(prepared.corpus.split("fusion")).names
    made_of = {
        "run": sha256_of(run / "config.yaml"),
        "traces": {source: its.store.key.folder_name for source, its in prepared.sources.items()},
        "documents": hashlib.sha256("".join(documents).encode()).hexdigest(),
    }
    if is_finished(folder, made_of):
        say_finished(folder)
        _push(folder, name, "dataset")
        return
    with at_work(f"export to {folder}"), whole_folder(folder) as unfinished:
        stores = {
            source: (its.store, copy_documents(its.store, documents, unfinished / its.store.key.folder_name))
            for source, its in prepared.sources.items()
        }
        _write_card(trace_card(settings, experiment.sources, stores), unfinished)
        write_note(made_of, unfinished)
    said = sum(copied.rows for _, copied in stores.values())
    say(f"traces of {run}: {len(documents):,} documents, {said:,} tokens of {len(stores)} sources, in {folder}")
    _push(folder, name, "dataset")


def _push(folder: Path, name: str | None, kind: Kind) -> None:
    if name is not None:
        say(f"{push(folder, name, kind)}: private; read its {CARD} before you change that")


def _write_card(card: str, folder: Path) -> None:
    (folder / CARD).write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
