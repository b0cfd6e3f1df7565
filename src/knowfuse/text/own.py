"""How does a corpus get text that a target wrote itself? From the folders of `knowfuse.rollouts`, beside what is given, by a share."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from knowfuse.files import sha256_of, undamaged
from knowfuse.screen import say
from knowfuse.settings import require_types
from knowfuse.text.chat import WHOLE
from knowfuse.text.conversations import Conversations
from knowfuse.text.corpus import Corpus, Texts, build_corpus
from knowfuse.text.document import Conversation, Document, RawDocument
from knowfuse.text.documents import Documents
from knowfuse.text.findings import Findings

DOMAIN = "own"
ROLLOUTS = "rollouts.jsonl"  # in the folder
VERSION = 1  # of what is made of the same folders


@dataclass(frozen=True)
class Own:
    """Text that the target wrote before: the folders, its share of the bytes that are learnt, and lambda on it.

    ValueError for a share outside (0, 1], and for a weight outside [0, 1].
    """

    rollouts: Sequence[str] = ()
    share: float = 0.5
    lm_weight: float | None = None

    def __post_init__(self) -> None:
        require_types(type(self), vars(self), "own")
        if isinstance(self.rollouts, str):
            raise ValueError(
                f"own.rollouts is {self.rollouts!r}: give a list of folders, own.rollouts=[{self.rollouts}]"
            )
        if not 0.0 < self.share <= 1.0:
            raise ValueError(
                f"own.share is {self.share}: it is a share of what is learnt, above 0 and at most 1; for none leave own.rollouts out"
            )
        if self.lm_weight is not None and not 0.0 <= self.lm_weight <= 1.0:
            raise ValueError(f"own.lm_weight is {self.lm_weight}: it is lambda on own text, and must lie in [0, 1]")

    @property
    def lm_weights(self) -> Mapping[str, float]:
        """By domain, where it is another than elsewhere."""
        return {} if self.lm_weight is None else {DOMAIN: self.lm_weight}

    def beside(self, given: Corpus, cache: Path) -> Corpus:
        """The corpus with this text on its fusion side, as domain `own`, built once; itself where there is none.

        Of given and own documents as many as the share asks for, evenly spread, until one of the two has no more. All other sides
        are as they were. ValueError where a folder has no rollouts, where they are of another kind than the corpus, and where
        that has a domain of this name already.
        """
        if not self.rollouts:
            return given
        if DOMAIN in given.domains:
            raise ValueError(f"the text has a domain {DOMAIN!r}, which is that of own.rollouts: give it another name")
        texts = _Both(given, list(self.rollouts), self.share, cache)
        return replace(build_corpus(given.name, texts, {}, WHOLE, cache), learn=given.learn)


class _Both(Texts):
    """The documents of a corpus and of some folders."""

    def __init__(self, given: Corpus, folders: Sequence[str], share: float, cache: Path) -> None:
        super().__init__()
        self.given, self.share = given, share
        self.files = [_file_of(folder) for folder in folders]
        self.memo = cache / "checksums"

    @property
    def key(self) -> str:
        """A hash of everything that decides which documents these are."""
        given = self.given.split("fusion")
        of_domain = hashlib.sha256(given.table.domain_codes[given.rows].tobytes()).hexdigest()
        state: list[Any] = [VERSION, self.given.about.keys, self.given.fusion_share, self.share]
        state += [self.given.learn, given.table.domains, of_domain]
        state += [sha256_of(file, self.memo) for file in self.files]
        return hashlib.sha256(json.dumps(["own", *state]).encode()).hexdigest()

    def __iter__(self) -> Iterator[RawDocument]:
        yield from _raw(self.given.split("sources", "validation", "test"))
        own = Documents.of([each for file in self.files for each in documents_in(file, self.given.is_chat)])
        given = self.given.split("fusion")
        sizes = [int(documents.num_bytes.sum()) for documents in (given, own)]
        wanted = _wanted(sizes, self.share)
        taken = [_spread(documents, share) for documents, share in zip((given, own), wanted, strict=True)]
        told = (
            f"{len(some):,} of {len(all_):,} {kind} documents, {int(some.num_bytes.sum()):,} bytes"
            for kind, some, all_ in zip(("given", "own"), taken, (given, own), strict=True)
        )
        say(f"own text, share {self.share:g}: {', '.join(told)}")
        for documents in taken:
            yield from _raw(documents)


def _wanted(sizes: Sequence[int], share: float) -> tuple[float, float]:
    """Which part of the given and of the own text is taken, so that the latter has its share of both."""
    given, own = sizes
    of_given = own * (1.0 - share) / (share * max(given, 1))
    return (of_given, 1.0) if of_given <= 1.0 else (1.0, 1.0 / of_given)


def _spread(documents: Documents, share: float) -> Documents:
    """So much of them, of every domain alike, evenly spread over its documents."""
    by_domain = np.argsort(documents.table.domain_codes[documents.rows], kind="stable")
    reached = np.floor(np.arange(len(documents) + 1) * share + 1e-9)
    return documents.take(np.sort(by_domain[reached[1:] > reached[:-1]]))


def _raw(documents: Documents) -> Iterator[RawDocument]:
    for each in documents:
        yield RawDocument(each.text, each.domain, each.split, each.messages, each.prompt_bytes, each.is_complete)


def _file_of(folder: str) -> Path:
    file = Path(folder).expanduser() / ROLLOUTS
    if not file.is_file():
        raise ValueError(
            f"own.rollouts has {folder!r}, which has no {ROLLOUTS}: give a folder that python -m knowfuse.rollouts has finished"
        )
    return file


def documents_in(file: Path, is_chat: bool) -> Iterator[Document]:
    """What a target wrote: texts, or conversations of which the last answer is learnt; ValueError where it is the other."""
    findings, read = Findings(), Conversations()
    with undamaged(file), file.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            record = json.loads(line)
            if ("messages" in record) != is_chat:
                kinds = ("texts", "conversations")
                raise ValueError(
                    f"{str(file)!r} has {kinds[not is_chat]}, and the text of this run is {kinds[is_chat]}: give rollouts of a run of its kind"
                )
            if not is_chat:
                begun, ends = record["prompt_bytes"], record["is_complete"]
                yield Document(record["text"], DOMAIN, "fusion", ends, prompt_bytes=begun)
                continue
            found = read.of(record, f"{str(file)!r}, line", number, findings)
            if isinstance(found, Conversation):
                begun = sum(message.num_bytes for message in found.messages[:-1])
                yield Document(found.text, DOMAIN, "fusion", messages=found.messages, prompt_bytes=begun)
    findings.require_no_faults()
