"""Which overrides make a training fit?"""

from collections.abc import Callable, Iterator

from knowfuse.plan.settings import TrainingShape

FEWEST_CHUNK_ROWS = 128
GPUS_A_NODE = 8


def candidates(shape: TrainingShape) -> Iterator[list[str]]:
    """Overrides that make this training smaller, each alone, the one that changes least first."""
    if not shape.is_checkpointed:
        yield ["activation_checkpointing=true"]
    if shape.batch_blocks > 1:  # as many blocks a step as before
        accumulated, every = shape.accumulated * shape.batch_blocks, shape.validated_every * shape.batch_blocks
        yield [
            "batch_blocks=1",
            f"trainer.accumulate_grad_batches={accumulated}",
            f"trainer.val_check_interval={every}",
        ]
    if shape.chunk_rows > FEWEST_CHUNK_ROWS:
        yield [f"loss.chunk_rows={FEWEST_CHUNK_ROWS}"]
    if shape.optimizer == "adamw" and shape.spread != "fsdp":
        yield ["optimizer=adamw_8bit"]
    if shape.spread == "ddp":
        yield ["trainer=fsdp", f"trainer.devices={shape.devices}"]
    devices = shape.devices
    while devices < GPUS_A_NODE:
        devices = min(2 * devices, GPUS_A_NODE)
        yield ["trainer=fsdp", f"trainer.devices={devices}"]
    if shape.finetune == "full":
        yield ["finetune=lora"]
    if shape.finetune != "qlora" and shape.spread != "fsdp":
        yield ["finetune=qlora"]


def what_fits(
    shape: TrainingShape, shape_with: Callable[[list[str]], TrainingShape | None], fits: Callable[[TrainingShape], bool]
) -> list[str] | None:
    """The first of the candidates that fits alone, else the first that fit together; None where not even all do.

    `shape_with` is the training with overrides, None where the configuration has no such setting.
    """
    wanted = [(overrides, found) for overrides in candidates(shape) if (found := shape_with(overrides)) is not None]
    for overrides, found in wanted:
        if fits(found):
            return overrides
    together: list[str] = []
    for overrides, _ in wanted:
        both = merged(together, overrides)
        if (found := shape_with(both)) is None:  # not with those before it
            continue
        together = both
        if fits(found):
            return together
    return None


def merged(overrides: list[str], more: list[str]) -> list[str]:
    """Both lists of `key=value`; of a key in both the later value."""
    return list({override.partition("=")[0]: override for override in [*overrides, *more]}.values())
