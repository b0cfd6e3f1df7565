"""Which LLM is the target of a run, once it is trained? A folder of transformers in the cache, by what decides its weights."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from knowfuse.files import make_folder_once, sha256_of
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.llms.saved import save
from knowfuse.runs.trained import Trained

TARGETS = "targets"  # in the cache
NAME = "target"


def saved_target(trained: Trained) -> LocalLLM:
    """The target as its kept fit left it, whole, adapters merged; saved once, and found again.

    It is known by the LLM that it was, how that learnt, and the content of the checkpoint.
    """
    cache, before = trained.prepared.cache, trained.base
    checkpoint = _checksums(trained.checkpoint, cache / "checksums")
    state = json.dumps([before.fingerprint, trained.settings["finetune"], checkpoint], sort_keys=True)
    folder = cache / TARGETS / f"{before.name}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"

    def fill(unfinished: Path) -> None:
        save(trained.load(), before, unfinished)

    make_folder_once(folder, fill)
    spec = replace(before.spec, path=str(folder), quantization=None, tokenizer=None, revision=None)
    return localize(NAME, spec, cache)


def _checksums(checkpoint: Path, memo: Path) -> list[list[str]]:
    """Of the file, or of every file of a folder of shards."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file()) if checkpoint.is_dir() else [checkpoint]
    return [[str(path.relative_to(checkpoint.parent)), sha256_of(path, memo)] for path in files]
