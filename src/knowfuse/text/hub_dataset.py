"""What does a user say of a data set: which, which of its configurations, columns and splits, how much of it?"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from knowfuse.text.settings import fields_of, require_count


@dataclass(frozen=True)
class HubDataset:
    """One data set as `corpus.datasets` describes it; ValueError for a setting that cannot be."""

    path: Any  # on the hub, such as openai/gsm8k, or a local folder
    name: Any = None  # of its configuration, where it has several
    revision: Any = None  # a branch, a tag or a commit; with all 40 digits of a commit a start needs no network
    data_dir: Any = None  # the folder in it that is read
    text_field: Any = "text"  # a column, or a list of columns: one beneath the other
    train_split: Any = "train"
    validation_split: Any = "validation"  # null: corpus.validation_share of the training split, by hash
    test_split: Any = "test"  # null: corpus.test_share of it
    streaming: Any = False  # read over the network while the corpus is built, without a copy of the whole on disk
    num_documents: Any = None  # texts of the training split, at most
    num_bytes: Any = None  # the last text of the training split is the one that reaches them
    num_held_out: Any = None  # texts of its validation and of its test split, at most

    def __post_init__(self) -> None:
        for setting in ("path", "name", "revision", "data_dir", "train_split", "validation_split", "test_split"):
            value, is_needed = getattr(self, setting), setting in ("path", "train_split")
            if not isinstance(value, str) and (is_needed or value is not None):
                wanted = "a text" if is_needed else "a text or null"
                raise ValueError(f"{setting} of data set {self.path!r} is {value!r}: it must be {wanted}")
        for setting in ("num_documents", "num_bytes", "num_held_out"):
            require_count(getattr(self, setting), f"{setting} of data set {self.path!r}")
        if not isinstance(self.streaming, bool):
            raise ValueError(f"streaming of data set {self.path!r} is {self.streaming!r}: it must be true or false")
        fields_of(self.text_field, f"text_field of data set {self.path!r}")

    @staticmethod
    def of(settings: Any, domain: str) -> "HubDataset":
        """From plain settings; ValueError that names those there are."""
        known = [field.name for field in fields(HubDataset)]
        if not isinstance(settings, Mapping) or "path" not in settings or set(settings) - set(known):
            raise ValueError(
                f"corpus.datasets.{domain} is {settings!r}: it must map path, and what it needs of {', '.join(known[1:])}, "
                f"such as 'corpus.datasets={{{domain}: {{path: openai/gsm8k, name: main}}}}'"
            )
        return HubDataset(**settings)

    @property
    def is_limited(self) -> bool:
        """Whether some of the training split may be left out."""
        return self.num_documents is not None or self.num_bytes is not None
