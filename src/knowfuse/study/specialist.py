"""How does a study get LLMs that each know something: one LLM, tuned on other texts? Each is made once, as a run is."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from knowfuse.llms.local import LocalLLM, localize
from knowfuse.runs.folder import open_run, saved_settings
from knowfuse.runs.tuned import tuned
from knowfuse.study.point import Point
from knowfuse.study.runs import Runs, deciding
from knowfuse.text.corpus import Corpus
from knowfuse.types import LLMSpec

# Of the settings, where an LLM is tuned by plain CLM on a corpus that is given.
UNUSED = (
    *("target", "sources", "corpus", "alignment", "fusion", "top_k", "fusion_share", "own", "samples"),
    *("lm_weight", "lm_weight_schedule", "lm_weight_end", "compare_with_clm", "compare_with_direct", "pairwise"),
)
PLACES = (*UNUSED, "name", "cache")  # what of the settings may be another in a fit that goes on


def specialist(runs: Runs, name: str, llm: LocalLLM, corpus: Corpus, point: Point, seed: int = 0) -> LocalLLM:
    """`llm`, tuned on the fusion side of this corpus with the settings of the point; in the cache, or made now.

    A fit that was stopped goes on in its folder beside the runs, wherever the same LLM lies by then.
    """
    cfg = runs.composed(point.plus({"ckpt_path": "last", **_as_target(llm)}), seed)
    settings = {key: value for key, value in deciding(cfg).items() if key not in UNUSED}
    state = json.dumps([settings, llm.fingerprint, corpus.about.keys], sort_keys=True)
    key = hashlib.sha256(state.encode()).hexdigest()[:12]
    experiment = hydra.utils.instantiate(cfg, _convert_="all")
    cache = Path(experiment.cache).expanduser()
    folder = cache / "tuned" / f"{name}-{key}"
    if not folder.exists():
        place = runs.root / runs.folder / f"tuned-{key}"
        with open_run(place, _as_started(place, cfg)) as run:
            tuned(experiment, llm, corpus, run, folder)
    return localize(name, LLMSpec(path=str(folder)), cache)


def _as_started(run: Path, cfg: DictConfig) -> DictConfig:
    """The settings, with those that its folder's name leaves out as the run was started with them."""
    if not (run / "config.yaml").exists():
        return cfg
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    started = {key: value for key, value in saved_settings(run).items() if key in PLACES}
    return OmegaConf.create({key: value for key, value in now.items() if key not in PLACES} | started)


def as_settings(target: LocalLLM, sources: Mapping[str, LocalLLM]) -> dict[str, Any]:
    """The settings of `train.py` by which these are its target and its sources, whatever they were."""
    settings: dict[str, Any] = {"~sources": None, **_as_target(target)}
    for name, llm in sources.items():
        settings |= {f"+sources.{name}.{key}": value for key, value in _spec(llm).items()}
    return settings


def _as_target(llm: LocalLLM) -> dict[str, Any]:
    spec = {**_spec(llm), "recipe": None}
    return {"~target": None, **{f"++target.{key}": value for key, value in spec.items()}}


def _spec(llm: LocalLLM) -> dict[str, Any]:
    return {"_target_": "knowfuse.types.LLMSpec", "path": str(llm.folder)}
