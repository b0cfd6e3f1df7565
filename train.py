"""Fuse several LLMs into one: prepare what is missing, train, score, report.

python train.py
python train.py fusion=avg_ce alignment=min_edit_distance
python train.py debug=self
"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from knowfuse import report
from knowfuse.commands.command import command
from knowfuse.commands.sweep import by_itself, figure_of, goes_on_from, is_point, starts_processes
from knowfuse.llms.licences import concerns
from knowfuse.merge.pairs import pair_by_pair
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.folder import checkpoints_to_resume, open_run, require_complete
from knowfuse.runs.headroom import headroom
from knowfuse.runs.itself import learns_nothing
from knowfuse.runs.sampled import sampled
from knowfuse.runs.summary import Stages, asked_for
from knowfuse.runs.where import register_resolvers
from knowfuse.screen import is_first_rank, quiet_libraries, say

register_resolvers()


@command("train", Path(__file__).parent / "conf")
def main(cfg: DictConfig) -> float | None:
    """Returns the best bits per byte on validation of the fused target, or of what several became, which a sweeper minimises."""
    quiet_libraries()
    folder = Path(HydraConfig.get().runtime.output_dir)
    if is_point() or cfg.ckpt_path == "auto":
        if (figure := figure_of(folder, cfg)) is not None:
            return figure
        cfg.ckpt_path = goes_on_from(folder, cfg.ckpt_path)
    experiment = hydra.utils.instantiate(require_complete(cfg), _convert_="all")
    experiment.require_machine()
    if is_point() and starts_processes(experiment.trainer):
        return by_itself(folder, cfg.ckpt_path)
    if experiment.debug is not None:
        return say(learns_nothing(experiment, experiment.prepare()))
    if experiment.pairwise is not None:
        return pair_by_pair(experiment, cfg, folder, list(HydraConfig.get().overrides.task), train)
    return train(experiment, cfg, folder)


def train(experiment: Experiment, cfg: DictConfig, folder: Path) -> float:
    """One run in its folder; the fused target's best bits per byte on validation."""
    stages = Stages()
    with open_run(folder, cfg) as run:
        resume = checkpoints_to_resume(run, experiment.ckpt_path, experiment.fit_names)
        prepared = experiment.prepare()
        stages.end("preparing")
        to_gain = headroom(prepared)
        report.show("Headroom: validation, before anyone trains", to_gain)
        for concern in concerns(experiment.sources):
            say(f"WARNING: {concern}")
        if is_first_rank():
            report.write_headroom(run, to_gain)
        stages.end("headroom")
        fits = {}
        for method in experiment.methods:
            fits[method] = experiment.train(prepared, method, run, resume)
            stages.end(f"training {method}")
        documents = prepared.corpus.split("test")
        results = experiment.score(prepared, fits, run, documents)
        report.show("Results: test", results)
        stages.end("testing")
        samples = sampled(experiment, prepared, fits, run, documents, results.by_document)
        if is_first_rank():
            report.write_run(run, results, fits, samples)
        stages.end("samples and page")
        say(str(stages))
        say(asked_for(HydraConfig.get().overrides.task))
    return fits["fused"].best_bits_per_byte


if __name__ == "__main__":
    main()
