"""Which run does the configuration of a verb describe, beside the settings of its own?"""

from dataclasses import fields

import hydra
from omegaconf import DictConfig, OmegaConf

from knowfuse.runs.experiment import Experiment


def experiment_of(cfg: DictConfig) -> Experiment:
    """The run that `train.py` would make of these settings; InstantiationException for what it refuses."""
    own = [field.name for field in fields(Experiment)]
    return hydra.utils.instantiate(OmegaConf.masked_copy(cfg, ["_target_", *own]), _convert_="all")
