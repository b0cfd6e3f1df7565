"""A checkpoint that cannot be written, or read: the one before it is gone on from, and a line says so."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from disk_for_tests import no_file_beyond
from experiments_for_tests import PowerCut, data_module, fusion_module, local_llm, trainer
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from knowfuse.llms.local import LocalLLM
from knowfuse.training.checkpoints import SHARDED, damage, last_whole
from knowfuse.training.finished import Fit
from knowfuse.training.fit import fit


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> LocalLLM:
    return local_llm(tmp_path_factory.mktemp("llm") / "target")


def run(target: LocalLLM, folder: Path, stop: L.Callback | None = None, ckpt_path: Path | None = None) -> Fit:
    """Six steps of plain CLM, a checkpoint at every second."""
    L.seed_everything(3, verbose=False)
    make, module = trainer(6, also=[stop] if stop else []), fusion_module(target, is_fused=False)
    return fit("job", folder, module, data_module(), make, 2e-3, ckpt_path=ckpt_path)


@pytest.fixture(scope="module")
def whole(target: LocalLLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(target, folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def assert_identical(one: Path, other: Path) -> None:
    mine, its = weights(one), weights(other)
    assert all(torch.equal(mine[key], its[key]) for key in its)
    assert json.loads((one / "fit.json").read_text()) == json.loads((other / "fit.json").read_text())


@contextmanager
def full_disk(at: int) -> Iterator[L.Callback]:
    """From this step on no file grows beyond 4 kB."""
    with ExitStack() as full:

        class Fills(L.Callback):
            def on_train_batch_end(
                self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
            ) -> None:
                if trainer.global_step == at:
                    full.enter_context(no_file_beyond(4096))

        yield Fills()


def test_a_full_disk_leaves_the_checkpoint_before_as_it_was(target: LocalLLM, whole: Path, tmp_path: Path) -> None:
    """The fit ends and says from what it will go on; with room again it ends as if nothing had been."""
    with (
        full_disk(3) as fills,
        pytest.raises(
            OSError,
            match=r"\.ckpt' could not be written \(File too large\): once there is room, the same command with "
            r"ckpt_path=last goes on from last\.ckpt, which is as it was",
        ),
    ):
        run(target, tmp_path, fills)
    assert not list(tmp_path.glob("*.part"))
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    run(target, tmp_path, ckpt_path=last_whole(tmp_path))
    assert_identical(tmp_path, whole)


def test_a_disk_that_is_full_from_the_first(target: LocalLLM, tmp_path: Path) -> None:
    with full_disk(1) as fills, pytest.raises(OSError, match=r"ckpt_path=last goes on from the beginning"):
        run(target, tmp_path, fills)


def test_what_a_kill_left_of_the_first_checkpoint_goes_at_the_next_start(
    target: LocalLLM, whole: Path, tmp_path: Path
) -> None:
    """A file, a folder of shards, and what they were to take the place of; before this fit needs the room."""
    (tmp_path / "last.ckpt.12ab34cd.part").write_bytes(b"half")
    (tmp_path / "best.ckpt.part").mkdir()
    (tmp_path / "best.ckpt.part" / "__0_0.distcp").write_bytes(b"half")
    (tmp_path / "last.ckpt").write_bytes(b"")
    (tmp_path / "last.ckpt.old").mkdir()

    class Looks(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            assert sorted(path.name for path in tmp_path.glob("*.ckpt*")) == ["last.ckpt"]

    run(target, tmp_path, Looks())
    assert_identical(tmp_path, whole)


def test_no_folder_for_temporary_files_is_needed(
    target: LocalLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would write there first, and copy from another disk over the checkpoint before."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    run(target, tmp_path / "fit")


def test_the_checkpoint_before_a_torn_one(
    target: LocalLLM, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`best.ckpt` is one to go on from too: the fit ends as if nothing had been. With both torn it starts from scratch."""
    with pytest.raises(RuntimeError, match="power"):
        run(target, tmp_path, PowerCut(5))
    content = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt.1.part").write_bytes(content[:100])  # what a kill may leave
    (tmp_path / "last.ckpt").write_bytes(content[: len(content) // 2])
    assert last_whole(tmp_path) == tmp_path / "best.ckpt"
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: '" in said
    assert "last.ckpt' is damaged (PytorchStreamReader failed" in said
    assert f"): {tmp_path.name} goes on from best.ckpt, the one before it" in said
    run(target, tmp_path, ckpt_path=tmp_path / "best.ckpt")
    assert_identical(tmp_path, whole)
    assert not list(tmp_path.glob("*.part"))
    for name in ("last.ckpt", "best.ckpt"):
        (tmp_path / name).write_bytes(b"")
    assert last_whole(tmp_path) is None
    assert f"{tmp_path.name} starts from scratch" in " ".join(capsys.readouterr().out.split())


def test_a_best_checkpoint_that_is_torn_is_not_kept(
    target: LocalLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be scored at the end: the best of what follows is."""
    with pytest.raises(RuntimeError, match="power"):
        run(target, tmp_path, PowerCut(5))
    (tmp_path / "best.ckpt").write_bytes(b"torn")
    result = run(target, tmp_path, ckpt_path=last_whole(tmp_path))
    assert "best checkpoint so far is not there or damaged, the best of what follows" in capsys.readouterr().out
    assert damage(tmp_path / "best.ckpt") is None
    assert result.best_bits_per_byte == result.history[-1][1]


def test_shards_that_are_shorter_than_written_are_damage(tmp_path: Path) -> None:
    folder = tmp_path / "last.ckpt"
    save_shards({"a": torch.zeros(1000)}, checkpoint_id=folder, no_dist=True)
    torch.save({"global_step": 1}, folder / SHARDED)
    assert damage(folder) is None
    (file,) = folder.glob("*.distcp")
    file.write_bytes(file.read_bytes()[:-10])
    assert "were written" in str(damage(folder))
    file.unlink()
    assert "No such file" in str(damage(folder))
