"""How is a target fused pair by pair? A run for each source beside the target itself, their targets merged, all compared.

Source: FuseChat, arXiv 2402.16107, section 3. Differs: their merge, VaRM, weighs each matrix by how much it has changed;
mergekit's `sce` (Wan et al. 2408.07990, theirs too) weighs and selects by the same squares.
"""

import copy
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from knowfuse.commands.sweep import goes_on_from
from knowfuse.files import make_folder_once, write_whole
from knowfuse.llms.merging import Merging, require_mergekit
from knowfuse.merge.merged import BEFORE, Merged
from knowfuse.merge.targets import trained_by
from knowfuse.ranks import wait_for
from knowfuse.report import show_comparison, write_comparison
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.folder import PARTS, open_run, wait_until_left
from knowfuse.runs.refusals import require_pairs
from knowfuse.screen import is_first_rank, say

DIRECT = "direct fusion"  # of all sources; no source is called so
Train = Callable[[Experiment, DictConfig, Path], float]  # one run of `train.py` in its folder


@dataclass(frozen=True)
class Part:
    """A run of the line: its folder, its settings, and what makes it by itself behind `python train.py`."""

    folder: Path
    cfg: DictConfig
    overrides: list[str]


def pair_by_pair(
    experiment: Experiment, cfg: DictConfig, folder: Path, overrides: Sequence[str], train: Train
) -> float:
    """Fuse the target with each source, merge the targets, compare; the merged LLM's bits per byte on validation.

    In `folder`: a run for each pair in `pairs`, of all sources in `direct` where the settings ask for it, the LLM in `merged`, and
    the comparison. What is finished is found again, a run that was stopped goes on. All ranks call this:
    one merges, and all read the documents. ValueError where mergekit is missing, and for settings that one of the runs refuses, before anything trains.
    """
    require_mergekit()
    if experiment.ckpt_path not in (None, "last"):
        raise ValueError(
            f"ckpt_path is {experiment.ckpt_path!r}, a checkpoint of one fit, and pairwise has several runs: set last or auto, by which "
            "each goes on from its own"
        )
    pivot = require_pairs(experiment.target, experiment.sources)
    parts = parts_of(cfg, folder, pivot, list(experiment.sources), overrides)
    planned = {name: hydra.utils.instantiate(part.cfg, _convert_="all") for name, part in parts.items()}
    with open_run(folder, cfg) as run:
        for name, part in parts.items():
            if (part.folder / "results.json").exists():
                say(f"run {part.folder}: finished before")
                continue
            part.cfg.ckpt_path = planned[name].ckpt_path = goes_on_from(part.folder, "last")
            if is_first_rank():
                write_whole(part.folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(part.overrides).encode())
            train(planned[name], part.cfg, part.folder)
            if not is_first_rank():
                wait_until_left(part.folder)
        assert experiment.pairwise is not None
        return _merge(run, parts, experiment.pairwise, overrides)


def parts_of(
    cfg: DictConfig, folder: Path, pivot: str, sources: Sequence[str], overrides: Sequence[str]
) -> dict[str, Part]:
    """The runs by their names, those of the pairs by their source; plain CLM, which is the same for all, in the last alone."""
    kept = [o for o in overrides if not o.lstrip("+").startswith(("ckpt_path=", "hydra."))]
    members = {source: [pivot, source] for source in sources if source != pivot}
    if cfg.compare_with_direct:
        members[DIRECT] = list(sources)
    found = {}
    for name, those in members.items():
        compare = cfg.compare_with_clm and name == list(members)[-1]
        part = copy.deepcopy(cfg)
        left_out = [source for source in sources if source not in those]
        with open_dict(part):
            part.pairwise, part.compare_with_clm = None, compare
            for source in left_out:
                del part.sources[source]
        more = ["pairwise=null", f"compare_with_clm={str(compare).lower()}", *(f"~sources.{s}" for s in left_out)]
        found[name] = Part(folder / ("direct" if name == DIRECT else f"pairs/{name}"), part, [*kept, *more])
    return found


def _merge(run: Path, parts: Mapping[str, Part], how: Merging, overrides: Sequence[str]) -> float:
    """The targets of the pairs in one folder, the table, and last the file that says that all is done."""
    pairs = trained_by([str(part.folder) for name, part in parts.items() if name != DIRECT], "fused")
    targets = {f"pairwise, {name}": trained for name, trained in pairs.items()}
    last = list(parts.values())[-1]
    beside = {}
    if DIRECT in parts:
        (beside[DIRECT],) = trained_by([str(last.folder)], "fused").values()
    if last.cfg.compare_with_clm:
        (beside["plain CLM"],) = trained_by([str(last.folder)], "clm").values()
    merged = Merged(targets, how, beside, DIRECT if DIRECT in parts else BEFORE)
    place = run / "merged"
    if is_first_rank():
        make_folder_once(place, merged.make)
    else:  # where there are ranks, transformers saves on the first alone
        wait_for(place.exists)
    table, validation = merged.compared(place), merged.validation(place)
    assert table is not None, "all runs have one text"
    if not is_first_rank():
        return validation
    merged.write_card(place, table, place.name, shlex.join(["python", "train.py", *overrides]))
    show_comparison(table)
    write_comparison(run, table)
    rows = {name: {of: bits.value for of, bits in row.bits_per_byte.items()} for name, row in table.rows.items()}
    results = {
        "unit": table.unit,
        "rows": rows,
        "fits": {},
        PARTS: [str(part.folder.relative_to(run)) for part in parts.values()],
        "validation": validation,
    }
    write_whole(run / "results.json", json.dumps(results, indent=1).encode())
    say(f"{len(targets)} targets merged by {how.method}, {validation:.3f} bits/byte on validation, in {place}")
    return validation
