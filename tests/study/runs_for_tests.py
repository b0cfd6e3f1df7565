"""Folders as `train.py` leaves them, as far as a study looks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from knowfuse.evaluation import by_document, write_by_document
from knowfuse.text.document import Document

DOCUMENTS = [Document(f"document {n}", "docs" if n % 2 else "code", "test") for n in range(8)]


def left_by_train(
    folder: Path,
    nats: Mapping[str, Any],
    best: Mapping[str, float],
    documents: Sequence[Document] = DOCUMENTS,
    **settings: Any,
) -> None:
    """A finished run: what its LLMs pay on each document, and each method's best bits per byte on validation."""
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create({"seed": 0, **settings}), folder / "config.yaml")
    by_id = {name: {d.id: float(n) for d, n in zip(documents, paid, strict=True)} for name, paid in nats.items()}
    paid = by_document(by_id, documents)
    write_by_document(folder / "documents.csv", paid)
    rows = {name: {**(bits := paid.bits_per_byte(name)), "mean": float(np.mean([*bits.values()]))} for name in nats}
    fits = {
        method: {
            "name": f"{method}-lr0.002",
            "best_checkpoint": "best.ckpt",
            "best_bits_per_byte": bits,
            "learning_rate": 0.002,
            "history": [[100, bits + 1], [200, bits], [300, bits + 0.5]],
        }
        for method, bits in best.items()
    }
    results = {"unit": "bits per byte on the test split", "rows": rows, "fits": fits}
    (folder / "results.json").write_text(json.dumps(results))
