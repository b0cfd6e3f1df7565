"""Which corpus do a user's settings mean? Files and data sets, each a domain, each by its weight."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from knowfuse.screen import say
from knowfuse.text.corpus import Corpus, Texts, build_corpus, require_sides
from knowfuse.text.document import RawDocument, Split, side_of
from knowfuse.text.findings import Findings
from knowfuse.text.hub_dataset import HubDataset
from knowfuse.text.hub_texts import HubTexts
from knowfuse.text.rows import Rows
from knowfuse.text.settings import require_domain, shares_of, weights_of
from knowfuse.text.text_files import domains_of_files
from knowfuse.text.weights import interleaved

VERSION = 1  # of what the readers make of the same bytes
HELD_OUT = 0.05  # share of the texts on the side validation, and on the side test


@runtime_checkable
class DomainTexts(Protocol):
    """The texts of one domain, wherever they come from."""

    @property
    def domain(self) -> str: ...

    def state(self, memo: Path | None) -> Any:
        """What decides the texts, as JSON can hold it; `memo` is where checksums of files are kept."""
        ...

    @property
    def is_limited(self) -> bool:
        """Whether some of its texts are left out, so that it matters which come first."""
        ...

    def held_out(self, findings: Findings) -> Iterator[RawDocument]:
        """Those that their source itself keeps from training."""
        ...

    def training(self, findings: Findings, seed: str | None) -> Iterator[RawDocument]:
        """All others, whatever side their hash puts them on; in order, or drawn by a seed."""
        ...


def text_files(files: Any, max_document_bytes: int, **settings: Any) -> Corpus:
    """The user's own text: `files` maps a domain to names of files and patterns that files fit; `settings` are `mixture`'s."""
    return mixture(max_document_bytes, None, files, **settings, corpus_name="text_files")


def hub_dataset(
    path: str,
    max_document_bytes: int,
    domain: str = "text",
    validation_share: Any = HELD_OUT,
    test_share: Any = HELD_OUT,
    cache: str | None = None,
    **settings: Any,
) -> Corpus:
    """One text data set of the hub, or of a local folder like one; `settings` are those of `HubDataset`."""
    return mixture(
        max_document_bytes,
        {domain: {"path": path, **settings}},
        validation_share=validation_share,
        test_share=test_share,
        cache=cache,
        corpus_name=path,
    )


def mixture(
    max_document_bytes: int,
    datasets: Any = None,
    files: Any = None,
    validation_share: Any = HELD_OUT,
    test_share: Any = HELD_OUT,
    text_field: Any = "text",
    weights: Any = None,
    weigh_by: Any = "bytes",
    seed: int | None = 0,
    cache: str | None = None,
    corpus_name: str = "mixture",
) -> Corpus:
    """Data sets and files, a domain each; needs `pip install datasets` for the former.

    `datasets` maps a domain to the settings of a `HubDataset`, `files` to names of files and patterns; a data set's own
    validation and test splits are kept whole, all other texts are split by their hash. `text_field` is what is read of
    `.jsonl` and `.parquet`: a field, a list of fields, or either by domain.

    `weights` maps each domain to its share of what is trained on, by `weigh_by`: bytes or documents (whole texts). Texts
    are taken in turn until a domain that is due has no more, so that no text is taken twice: the corpus is as large as
    the scarcest domain lets it be, and at every moment the shares are as the weights within one text. Duplicates are
    left out afterwards. Which texts are taken where some are left is drawn by `seed`; null: the
    first ones.

    ValueError that names what is wrong: a setting, a domain's name, all places that cannot be read, or a domain without
    a document on one of the sides.
    """
    shares = shares_of(validation_share, test_share)
    domains: list[DomainTexts] = [] if files is None else [*domains_of_files(files, text_field)]
    domains += domains_of_data(datasets, shares)
    if not domains:
        raise ValueError(
            "the mixture has neither corpus.datasets nor corpus.files: give it some, such as "
            "'corpus.datasets={math: {path: openai/gsm8k, name: main, text_field: [question, answer]}}'"
        )
    return mixed(corpus_name, domains, max_document_bytes, shares, weights, weigh_by, seed, cache)


def domains_of_data(datasets: Any, shares: Mapping[Split, float], read_as: Rows | None = None) -> list[HubTexts]:
    """`corpus.datasets`, checked, a domain each; `read_as` as in `HubTexts`."""
    for domain in datasets or {}:
        require_domain(domain, "corpus.datasets")
    return [HubTexts(name, HubDataset.of(its, name), shares, read_as) for name, its in (datasets or {}).items()]


def mixed(
    name: str,
    domains: Sequence[DomainTexts],
    max_document_bytes: int,
    shares: dict[Split, float],
    weights: Any,
    weigh_by: Any,
    seed: int | None,
    cache: str | None,
) -> Corpus:
    """The corpus of these domains, by their weights; raises as `mixture` does."""
    if twice := [name for name, n in Counter(each.domain for each in domains).items() if n > 1]:
        raise ValueError(
            f"domain {twice[0]!r} is in corpus.datasets and in corpus.files: give one of them another name"
        )
    by_domain = weights_of(weights, [each.domain for each in domains], weigh_by)
    place = Path(cache) if cache else None
    texts = Mixture(domains, shares, by_domain, weigh_by, seed, place / "checksums" if place else None)
    corpus = build_corpus(name, texts, shares, max_document_bytes, place)
    for each in domains:
        require_sides(corpus, each.domain)
    return corpus


class Mixture(Texts):
    """The texts of all domains, read as they are walked through; what is held out by its source comes first."""

    def __init__(
        self,
        domains: Sequence[DomainTexts],
        shares: Mapping[Split, float],
        weights: Mapping[str, float] | None,
        weigh_by: str,
        seed: int | None,
        memo: Path | None,
    ) -> None:
        super().__init__()
        self.domains, self.shares, self.memo = domains, shares, memo
        self.weights, self.weigh_by, self.seed = weights, weigh_by, seed

    @property
    def key(self) -> str:
        """A hash of everything that decides which texts these are."""
        drawn = [self.weights, self.weigh_by, self.seed, dict(self.shares)]
        state = [VERSION, drawn, [each.state(self.memo) for each in self.domains]]
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def __iter__(self) -> Iterator[RawDocument]:
        """ValueError, once all is read, where some of it could not be."""
        findings = Findings()
        self.skipped = findings.skipped
        for each in self.domains:
            yield from each.held_out(findings)
        yield from self._weighed(findings) if self.weights else self._in_order(findings)
        findings.require_no_faults()
        for reason, count in findings.skipped.items():
            say(f"left out: {count:,} {reason}, the first at {findings.first[reason]}")

    def _in_order(self, findings: Findings) -> Iterator[RawDocument]:
        for each in self.domains:
            yield from each.training(findings, self._seed_of(each) if each.is_limited else None)

    def _weighed(self, findings: Findings) -> Iterator[RawDocument]:
        """Texts that are trained on by their weights; what a domain gives to the other sides meanwhile comes along."""
        assert self.weights is not None
        streams = {each.domain: each.training(findings, self._seed_of(each)) for each in self.domains}
        sided = {domain: map(partial(_sided, shares=self.shares), stream) for domain, stream in streams.items()}
        taken = dict.fromkeys(sided, 0)
        yield from interleaved(sided, self.weights, partial(_size, weigh_by=self.weigh_by), taken)
        told = ", ".join(f"{domain} {size:,}" for domain, size in taken.items())
        say(f"taken by their weights, until one domain has no more: {told} {self.weigh_by}")

    def _seed_of(self, each: DomainTexts) -> str | None:
        return None if self.seed is None else f"{self.seed} {each.domain}"


def _sided(raw: RawDocument, shares: Mapping[Split, float]) -> RawDocument:
    return raw if raw.split else replace(raw, split=side_of(raw.text, shares))


def _size(raw: RawDocument, weigh_by: str) -> int:
    """What a text weighs: nothing where it is not trained on."""
    if raw.split != "fusion":
        return 0
    return 1 if weigh_by == "documents" else len(raw.text.encode())
