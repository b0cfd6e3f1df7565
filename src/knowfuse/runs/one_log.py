"""How has a fit that was stopped every step once in one CSV file?"""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from knowfuse.files import write_whole
from knowfuse.training.curves import KEPT


class OneCSV(CSVLogger):
    """Lightning's, which goes on in the file that is there: steps that are trained again replace those of before.

    What was logged before a checkpoint is in the file before the checkpoint is.
    """

    def __init__(self, save_dir: str, **options: Any) -> None:
        super().__init__(save_dir, version=0, **options)
        self.is_new = True

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _GoesOn(log_dir=self.log_dir)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if self.is_new and step is not None:
            self.is_new = False
            self.experiment.keep_before(step)
        super().log_metrics(metrics, step)
        if not any(name.startswith(KEPT) for name in metrics):  # a validation, after which a checkpoint is written
            self.save()


class _GoesOn(ExperimentWriter):
    """Leaves what is there; a kill cuts off the last line at most."""

    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes what is there."""

    def keep_before(self, step: int) -> None:
        """Drop the lines of this step and later ones, and what a kill has cut off."""
        self.metrics_keys, rows = self._read()
        if rows:
            self._write([row for row in rows if int(row["step"]) < step])

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._read()[1])

    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        file = Path(self.metrics_file_path)
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
        return list(reader.fieldnames or []), list(reader)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        write_whole(Path(self.metrics_file_path), text.getvalue().encode())
