"""What did LLMs answer? A table on the screen, and as CSV, JSON and Markdown."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from knowfuse.evaluation import Answers
from knowfuse.files import write_csv, write_whole
from knowfuse.report.tables import markdown_table
from knowfuse.screen import show_table

GOLD = "gold answer, bits per byte"
AnswersOfAll = Mapping[str, Mapping[str, Answers]]  # LLM -> task -> what it answered


def show_answers(title: str, table: AnswersOfAll) -> None:
    """A line for each figure of each task, a column for each LLM; of accuracies the higher is better, of bits the lower."""
    grid = Table("task", "figure", *table, title=title, caption="± standard error, over the questions")
    for line in _lines(table):
        grid.add_row(*line)
    show_table(grid)


def write_answers(folder: Path, table: AnswersOfAll) -> None:
    """`answers.json`, `.csv` and `.md`."""
    everything = {name: {task: asdict(answers) for task, answers in tasks.items()} for name, tasks in table.items()}
    write_whole(folder / "answers.json", json.dumps(everything, indent=1).encode())
    write_whole(folder / "answers.md", f"{markdown_table(['task', 'figure', *table], _lines(table))}\n".encode())
    lines: list[list[Any]] = [["model", "task", "figure", "value", "standard_error", "questions"]]
    for name, tasks in table.items():
        for task, a in tasks.items():
            for figure, value in a.metrics.items():
                lines.append([name, task, figure, value, a.errors.get(figure), a.questions])
            if a.gold_bits_per_byte is not None:
                lines.append([name, task, GOLD, a.gold_bits_per_byte, None, a.questions])
    write_csv(folder / "answers.csv", lines)


def _lines(table: AnswersOfAll) -> list[list[str]]:
    first = next(iter(table.values()))
    lines = []
    for task, answers in first.items():
        for figure in answers.metrics:
            lines.append([task, figure, *(_figure(tasks[task], figure) for tasks in table.values())])
        bits = [tasks[task].gold_bits_per_byte for tasks in table.values()]
        if any(value is not None for value in bits):
            lines.append([task, GOLD, *("" if value is None else f"{value:.4f}" for value in bits)])
    return lines


def _figure(answers: Answers, figure: str) -> str:
    value, error = answers.metrics[figure], answers.errors.get(figure)
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"
