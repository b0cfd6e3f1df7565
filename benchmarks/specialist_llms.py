"""Who is fused in the studies of specialists? One LLM a domain, tuned on it, and a target that knows a little of all."""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import hydra
from omegaconf import DictConfig
from specialist_texts import quickstart_texts, split_texts, texts_of, tuning_corpus

from knowfuse.files import write_whole
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.study import Point, Runs, as_settings, specialist
from knowfuse.text.corpus import Corpus
from knowfuse.training.materialise import materialise
from knowfuse.types import LLMSpec

GENERAL = "all"  # the one domain of what the LLMs in miniature learn from before they are tuned


@dataclass
class Cast:
    """The LLMs and texts of the study."""

    point: Point  # the settings of every run
    target: LocalLLM
    specialists: dict[str, LocalLLM]  # by domain
    forgetting: Path  # text that the target knew


class Stage:
    """The texts of both sides, and what LLMs are made of; ValueError for texts that cannot be had."""

    def __init__(self, runs: Runs, asked: argparse.Namespace) -> None:
        self.runs, self.asked = runs, asked
        self.quickstart = hydra.utils.instantiate(runs.composed(Point.of(asked.quickstart), 0), _convert_="all")
        self.cache = Path(self.quickstart.cache).expanduser()
        corpus = self.quickstart.corpus
        given = texts_of(asked.texts, asked.fields) if asked.texts else quickstart_texts(corpus(cache=str(self.cache)))
        sizes = [asked.fusion_bytes, asked.specialist_bytes]
        state = json.dumps([{domain: sorted(texts) for domain, texts in given.items()}, sizes])
        self.folder = self.cache / "specialists" / hashlib.sha256(state.encode()).hexdigest()[:12]
        self.domains, self.files = list(given), split_texts(given, self.folder, *sizes)
        self.point = self.fused_on(Point.of([f"experiment={asked.experiment}", *asked.overrides]), self.domains)

    def fused_on(self, point: Point, domains: Sequence[str], side: str = "fusion") -> Point:
        """The settings, of these domains' text of this side of `files`."""
        return point.plus({"corpus.files": {domain: [self.files[side][domain]] for domain in domains}})

    def text(self, name: str, domains: Sequence[str]) -> Corpus:
        """What specialists learn of these domains, as one of this name."""
        longest = self._settings.max_document_bytes
        return tuning_corpus(self.files["specialist"], domains, name, self._fusion, longest, self.cache)

    @cached_property
    def _settings(self) -> DictConfig:
        return self.runs.composed(self.point, 0).corpus

    @cached_property
    def _fusion(self) -> Corpus:
        return hydra.utils.instantiate(self._settings, _convert_="all")(cache=str(self.cache))

    @cached_property
    def _of_all(self) -> Corpus:
        """What the LLMs in miniature learn before they are tuned."""
        learnt = self.text(GENERAL, self.domains).documents
        return Corpus.of(GENERAL, [replace(d, split="sources") if d.split == "fusion" else d for d in learnt])

    def general(self, domain: str, seed: int = 0) -> LocalLLM:
        """The LLM in miniature that is tuned on this domain: of a tokenizer of its own, it has learnt a little of all of them."""
        spec = list(self.quickstart.sources.values())[self.domains.index(domain)]
        spec = replace(spec, recipe=replace(spec.recipe, domain=GENERAL, seed=seed))
        return materialise(f"general-{domain}", spec, self._of_all, self.cache)

    def tuned(self, domain: str, llm: LocalLLM) -> LocalLLM:
        """The LLM, tuned on this domain."""
        asked = self.asked
        how = {"trainer.max_steps": asked.specialist_steps, "learning_rates": [asked.specialist_rate]}
        how["trainer.val_check_interval"] = max(1, asked.specialist_steps // 4)
        return specialist(self.runs, domain, llm, self.text(domain, [domain]), self.point.plus(how))


def cast(runs: Runs, asked: argparse.Namespace) -> Cast:
    """Made or found; ValueError for texts and LLMs that cannot be had."""
    stage = Stage(runs, asked)
    if asked.llms:
        llms = {domain: localize(domain, LLMSpec(path=asked.llms[domain]), stage.cache) for domain in stage.domains}
        target = localize("target", LLMSpec(path=asked.target), stage.cache)
    else:
        llms = {domain: stage.general(domain) for domain in stage.domains}
        target = llms[stage.domains[0]]
    tuned = {domain: stage.tuned(domain, llm) for domain, llm in llms.items()}
    forgetting = _forgetting(asked, stage.folder, stage.files["specialist"])
    return Cast(stage.point.plus(as_settings(target, tuned)), target, tuned, forgetting)


def _forgetting(asked: argparse.Namespace, folder: Path, learnt: Mapping[str, str]) -> Path:
    """The user's, or in miniature the beginning of the text that the target learnt first."""
    if asked.forget:
        return Path(asked.forget)
    some = [line for file in learnt.values() for line in Path(file).read_text(encoding="utf-8").splitlines()[:50]]
    write_whole(folder / "forgetting.jsonl", "\n".join(some).encode())
    return folder / "forgetting.jsonl"
