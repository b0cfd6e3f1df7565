"""What does an LLM pay on documents, from the cache if it was asked before, and who of several processes finds out if not?"""

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from knowfuse.evaluation.bits_per_byte import DocumentScores, merged_scores, score_documents, score_served
from knowfuse.files import make_once, undamaged, write_whole
from knowfuse.llms.local import LocalLLM
from knowfuse.locks import lock_file
from knowfuse.ranks import ALONE, Ranks, ranks, wait_for
from knowfuse.screen import say
from knowfuse.surface import Surface
from knowfuse.text.corpus import Document
from knowfuse.text.documents import Documents
from knowfuse.traces.served import ServedLLM
from knowfuse.unfinished import remove_if_left

BATCH_TOKENS = 8192  # tokens of one forward pass that only scores, padding included
SCORES_VERSION = 2  # of what the cached scores mean: nats on the text, on the EOS, on the first token


def cached_scores(
    llm: LocalLLM | ServedLLM, surface: Surface, documents: Sequence[Document], cache: Path, by_class: bool = False
) -> DocumentScores:
    """The nats of an LLM on these documents, on indentation and numerals too if asked; cached by its content and theirs.

    Under torchrun or SLURM, and among processes that Lightning has started, each reads its share and the first puts them
    together; of an LLM that takes all devices of a machine the first reads all.
    """
    viewed = Documents.of(documents)
    ids = "\n".join(sorted(viewed.names)) + viewed.is_chat * f"\nlearnt: {viewed.learn}"
    state = f"{SCORES_VERSION} {llm.fingerprint} {surface.fingerprint} {ids}" + by_class * "\nby class of bytes"
    key = hashlib.sha256(state.encode()).hexdigest()[:24]
    whole, mine = cache / "scores" / f"{llm.name}-{key}.json", ranks()
    takes_all = llm.spec.device_map is not None
    if mine.world == 1 or (takes_all and mine.rank == 0):
        if make_once(whole, lambda: _write(whole, _scores(llm, surface, documents, cache, ALONE, by_class))):
            _remove_shares(whole)
    elif takes_all:
        wait_for(whole.exists)
    elif not whole.exists():
        shares = [whole.with_suffix(f".{rank:04d}-of-{mine.world:04d}.json") for rank in range(mine.world)]
        if not shares[mine.rank].exists():
            _write(shares[mine.rank], _scores(llm, surface, documents, cache, mine, by_class))
        say(f"scores {llm.name}: waiting for the other ranks")
        if mine.rank == 0:
            _put_together(shares, whole)
        wait_for(whole.exists)
    return _read(whole)


def _scores(
    llm: LocalLLM | ServedLLM, surface: Surface, documents: Sequence[Document], cache: Path, mine: Ranks, by_class: bool
) -> DocumentScores:
    if isinstance(llm, ServedLLM):
        return score_served(llm, surface, documents[mine.rank :: mine.world], by_class)
    with llm.to_read(cache) as model:
        return score_documents(model, surface, documents, llm.context_length(), BATCH_TOKENS, mine, by_class)


def _put_together(shares: Sequence[Path], whole: Path) -> None:
    """Wait for all shares; another job with the same ranks may do the same at the same time."""
    wait_for(lambda: whole.exists() or all(share.exists() for share in shares))
    with lock_file(whole.with_suffix(".lock")):
        if not whole.exists():
            _write(whole, merged_scores(map(_read, shares)))
        _remove_shares(whole)


def _remove_shares(whole: Path) -> None:
    """Of any number of ranks, some of which may have been killed before: once all is there nobody reads them."""
    name = re.compile(rf"{re.escape(whole.stem)}\.\d+-of-\d+\.json(\.[0-9a-f]+\.part)?")
    for found in filter(None, [name.fullmatch(path.name) for path in whole.parent.iterdir()]):
        share = whole.with_name(found[0])
        if found[1]:
            remove_if_left(share)
        else:
            with suppress(OSError):  # another process was faster, or it is another user's
                share.unlink()


def _read(path: Path) -> DocumentScores:
    with undamaged(path):
        return DocumentScores(**json.loads(path.read_text(encoding="utf-8")))


def _write(path: Path, scores: DocumentScores) -> None:
    write_whole(path, json.dumps(asdict(scores)).encode())
