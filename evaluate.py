"""Score a finished run again, from its own saved configuration, on the devices that it trained on or on others.

python evaluate.py run=outputs/quickstart/2026-01-31_12-00-00
python evaluate.py run=outputs/quickstart/2026-01-31_12-00-00 trainer=cpu
"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from knowfuse import report
from knowfuse.progress import is_first_rank, quiet_libraries
from knowfuse.runs.folder import load_run, register_resolvers
from knowfuse.training.fit import require_devices

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Writes what `train.py` wrote to a folder of its own; the run is left as it is."""
    quiet_libraries()
    run, settings, fits = load_run(cfg.run)
    if "trainer" in cfg:
        settings["trainer"] = OmegaConf.to_container(cfg.trainer, resolve=True)
    experiment = hydra.utils.instantiate(settings, _convert_="all")
    require_devices(experiment.trainer)
    prepared = experiment.prepare()
    results = experiment.score(prepared, fits, run, cfg.split)
    report.show(f"{run}: {cfg.split}", results)
    if is_first_rank():
        report.write_results(Path(HydraConfig.get().runtime.output_dir), results, fits, cfg.split)


if __name__ == "__main__":
    main()
