"""Which overrides are named, and whether they are those that make a training fit."""

from dataclasses import replace

import pytest
from experiments_for_tests import composed
from lightning.fabric.connector import _convert_precision_to_unified_args
from test_memory import CONFIGS, FULL

from knowfuse.plan.advice import candidates, merged, what_fits
from knowfuse.plan.memory import training
from knowfuse.plan.settings import TrainingShape, training_shape

CONFIG = CONFIGS["llama"]


def with_overrides(overrides: list[str]) -> TrainingShape | None:
    """What these settings make of `FULL`, as the configuration would."""
    shape = replace(FULL, chunk_rows=512)
    for override in overrides:
        key, _, value = override.partition("=")
        changes = {
            "activation_checkpointing": {"is_checkpointed": True},
            "batch_blocks": {"batch_blocks": 1},
            "trainer.accumulate_grad_batches": {"accumulated": 2},
            "trainer.val_check_interval": {"validated_every": 12},
            "loss.chunk_rows": {"chunk_rows": 128},
            "optimizer": {"optimizer": "adamw_8bit"},
            "trainer": {"spread": "fsdp"},
            "trainer.devices": {"devices": int(value) if value.isdigit() else 0},
        }
        if key not in changes:
            return None
        shape = replace(shape, **changes[key])
    return shape


def total(shape: TrainingShape) -> int:
    return training(CONFIG, shape).memory().total


def test_the_first_that_fits_is_named() -> None:
    shape = with_overrides([])
    assert shape is not None
    alone = {" ".join(o): total(found) for o in candidates(shape) if (found := with_overrides(o)) is not None}
    assert alone["activation_checkpointing=true"] < total(shape)
    for room in (min(alone.values()), max(alone.values())):
        found = what_fits(shape, with_overrides, lambda s, room=room: total(s) <= room)
        assert found is not None
        assert " ".join(found) == next(name for name, needed in alone.items() if needed <= room)


def test_several_are_named_where_none_is_enough() -> None:
    shape = with_overrides([])
    assert shape is not None
    alone = [total(found) for o in candidates(shape) if (found := with_overrides(o)) is not None]
    room = min(alone) - 1
    found = what_fits(shape, with_overrides, lambda s: total(s) <= room)
    assert found is not None
    assert len(found) > 1
    together = with_overrides(found)
    assert together is not None
    assert total(together) <= room


def test_nothing_is_named_where_nothing_is_enough() -> None:
    assert what_fits(FULL, with_overrides, lambda s: False) is None


def test_a_key_has_one_value() -> None:
    assert merged(["trainer=ddp", "top_k=4"], ["trainer=fsdp"]) == ["trainer=fsdp", "top_k=4"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["batch_blocks=1", "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=100"],
        ["loss.chunk_rows=128"],
        ["activation_checkpointing=true"],
        ["optimizer=adamw_8bit"],
        ["trainer=fsdp", "trainer.devices=2"],
        ["finetune=lora"],
        ["finetune=qlora"],
    ],
)
def test_what_is_named_is_a_setting_of_the_configuration(overrides: list[str]) -> None:
    before, after = training_shape(composed("plan")), training_shape(composed("plan", *overrides))
    assert total(after) < total(before)


@pytest.mark.parametrize(("short", "long"), [("bf16", "bf16-mixed"), ("16", "16-mixed"), ("32", "32-true")])
def test_short_precisions_are_those_of_lightning(short: str, long: str) -> None:
    shapes = [training_shape(composed("plan", "trainer=gpu", f"trainer.precision={name}")) for name in (short, long)]
    assert shapes[0] == shapes[1]
    assert _convert_precision_to_unified_args(short) == long


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.devices=-1", "say how many the run will have, such as trainer.devices=8"),
        ("trainer.devices=0", "whole number of at least 1"),
        ("trainer.precision=transformer-engine", "this plan knows 32-true"),
        ("optimizer._target_=torch.optim.LBFGS", "does not know what it keeps"),
    ],
)
def test_a_setting_that_the_plan_knows_nothing_of_is_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_shape(composed("plan", override))
