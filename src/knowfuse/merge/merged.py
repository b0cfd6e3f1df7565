"""How do several trained targets become one folder of transformers? Saved, merged by mergekit, scored, and described."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float64

from knowfuse.evaluation import by_document, cached_scores
from knowfuse.files import write_whole
from knowfuse.llms.files import CARD
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.llms.merging import Merging, merge
from knowfuse.llms.saved import save
from knowfuse.merge.card import merge_card
from knowfuse.merge.targets import require_one_base
from knowfuse.runs.compared import Comparison, comparison_of, nats_of, require_same_texts, require_texts_of
from knowfuse.runs.trained import Trained
from knowfuse.screen import say
from knowfuse.types import LLMSpec

BEFORE = "target before"
GENERATION = "generation_config.json"


@dataclass
class Merged:
    """What is merged, how, and what it is compared with; all by the names that the table has."""

    targets: Mapping[str, Trained]
    how: Merging
    beside: Mapping[str, Trained] = field(default_factory=dict)  # such as the direct fusion of all sources
    baseline: str = BEFORE
    dtype: str | None = None  # of the saved weights; None: the target's own

    def fill(self, folder: Path, name: str, command: str) -> Comparison | None:
        """Put the merged LLM and its card into an empty folder; how it compares, None where the runs are over different texts.

        `name` is what it will be loaded by, `command` what makes it, for the card. ValueError for targets that cannot be merged.
        """
        self.make(folder)
        table = self.compared(folder)
        self.write_card(folder, table, name, command)
        return table

    def make(self, folder: Path) -> None:
        """Put the merged LLM into an empty folder; ValueError for targets that cannot be merged."""
        base = require_one_base(self.targets)
        with TemporaryDirectory(dir=folder) as parts:
            self._merge(base, Path(parts), folder)

    def write_card(self, folder: Path, table: Comparison | None, name: str, command: str) -> None:
        """Beside the merged LLM, whole or not at all."""
        write_whole(folder / CARD, merge_card(self.targets, self.how, table, name, command).encode())

    def _merge(self, base: LocalLLM, parts: Path, folder: Path) -> None:
        llms = {name: _saved(trained, parts / str(n)) for n, (name, trained) in enumerate(self.targets.items())}
        merge(llms, base, parts / "merged", self.how)
        first = next(iter(llms.values())).folder
        if (first / GENERATION).exists():  # mergekit leaves it out
            shutil.copyfile(first / GENERATION, parts / "merged" / GENERATION)
        is_chat = next(iter(self.targets.values())).prepared.corpus.is_chat
        save(self._llm(base, parts / "merged").load(), base, folder, is_chat=is_chat)

    def validation(self, folder: Path) -> float:
        """What the merged LLM in this folder pays on the validation split, in bits per byte over all bytes, as a fit counts."""
        first = next(iter(self.targets.values()))
        documents = first.prepared.corpus.split("validation")
        llm = self._llm(first.base, folder)
        scores = cached_scores(llm, llm.surface(first.prepared.corpus.is_chat), documents, self._cache)
        return by_document({"merged": scores.nats}, documents).shared().over_all_bytes("merged")

    def _llm(self, base: LocalLLM, folder: Path) -> LocalLLM:
        return localize("merged", _spec_of(base, folder, self.dtype), self._cache)

    @property
    def _cache(self) -> Path:
        return next(iter(self.targets.values())).prepared.cache

    @property
    def rows(self) -> dict[str, Trained]:
        """The targets, and what is beside them."""
        return {**self.targets, **self.beside}

    def compared(self, folder: Path) -> Comparison | None:
        """The target before, each of the targets, what is beside them and what they became, over the documents that all can read."""
        first = next(iter(self.targets.values()))
        try:
            require_same_texts([trained.judged for trained in self.rows.values()])
        except ValueError as error:
            return say(f"not compared: {error}")
        documents = first.prepared.corpus.split("test")
        require_texts_of(first.judged, documents)
        nats: dict[str, Float64[np.ndarray, "1 D"]] = {BEFORE: first.judged.scores.nats[BEFORE][None]}
        nats |= {name: its.judged.scores.nats[f"target {its.method}"][None] for name, its in self.rows.items()}
        nats[f"merged, {self.how.method}"] = nats_of(self._llm(first.base, folder), documents, self._cache)
        return comparison_of(first.judged.unit, nats, first.judged.scores, self.baseline)


def _saved(trained: Trained, folder: Path) -> LocalLLM:
    folder.mkdir()
    save(trained.load(), trained.base, folder)
    return localize(folder.name, _spec_of(trained.base, folder))


def _spec_of(base: LocalLLM, folder: Path, dtype: str | None = None) -> LLMSpec:
    """As `base` is loaded, from another folder, which has its tokenizer and code, and is not quantised."""
    spec = replace(base.spec, path=str(folder), tokenizer=None, revision=None, quantization=None)
    return spec if dtype is None else replace(spec, dtype=dtype)
