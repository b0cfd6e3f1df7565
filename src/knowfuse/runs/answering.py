"""Which LLMs of a run answer tasks, and how is each put at hand, one after another?"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from knowfuse.llms.local import LocalLLM, localize
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.prepared import Prepared
from knowfuse.screen import say
from knowfuse.training.finished import Fit
from knowfuse.types import LLMSpec

Named = tuple[str, LocalLLM, PreTrainedModel]


def llms_of(experiment: Experiment, prepared: Prepared, fits: Mapping[str, Fit], run: Path) -> Iterator[Named]:
    """Every source that is here, the target before, and as each method trained it, in the rows' order of the results."""
    for name, source in prepared.sources.items():
        if not isinstance(source.llm, LocalLLM):
            say(f"{name} is served elsewhere, and answers nothing here: give its folder as model=")
            continue
        with source.llm.to_read(prepared.cache) as model:
            yield name, source.llm, model
    with prepared.target.to_read(prepared.cache) as model:
        yield "target before", prepared.target, model
    for method, kept in fits.items():
        model = experiment.trained(prepared, kept, run)
        if torch.cuda.is_available():
            model = model.to(torch.device("cuda"))  # pyright: ignore[reportArgumentType]  (its wrapper hides self)
        yield f"target {method}", prepared.target, model


def llm_alone(place: str, cache: Path) -> Iterator[Named]:
    """One by its folder or hub id."""
    llm = localize(place, LLMSpec(path=place), cache)
    with llm.to_read(cache) as model:
        yield place, llm, model
