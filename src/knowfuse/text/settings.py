"""Are the settings of a corpus such that text can be read by them? The same checks for files and data sets."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from knowfuse.text.document import Split


def require_domain(domain: Any, setting: str) -> None:
    """ValueError unless a column of a table and a file can be named by it."""
    if domain == "mean" or not isinstance(domain, str) or not re.fullmatch(r"\w[\w.-]*", domain):
        raise ValueError(
            f"{setting} has a domain {domain!r}, and domains name columns and files: use letters, digits and "
            "_ . - after the first of them, and not 'mean', which is the column of their mean"
        )


def shares_of(validation: Any, test: Any) -> dict[Split, float]:
    """The share of each side; ValueError where one has none."""
    for name, share in (("validation_share", validation), ("test_share", test)):
        if not _is_number(share) or not 0 < share < 1:
            raise ValueError(f"corpus.{name} is {share!r}: it must be a number between 0 and 1, such as 0.05")
    if validation + test >= 1:
        raise ValueError(
            f"corpus.validation_share {validation} and corpus.test_share {test} leave nothing to train on: their sum "
            "must be less than 1"
        )
    return {"validation": validation, "test": test, "fusion": 1.0 - validation - test}


def weights_of(weights: Any, domains: Collection[str], weigh_by: Any) -> dict[str, float] | None:
    """A weight for each domain, or none; ValueError unless every domain, and no other, has a positive number."""
    if weigh_by not in ("bytes", "documents"):
        raise ValueError(f"corpus.weigh_by is {weigh_by!r}: it must be 'bytes' or 'documents'")
    if weights is None:
        return None
    if not isinstance(weights, Mapping) or sorted(map(str, weights)) != sorted(domains):
        got = ", ".join(map(str, weights)) if isinstance(weights, Mapping) else repr(weights)
        raise ValueError(
            f"corpus.weights is of {got or 'nothing'}, the domains are {', '.join(domains)}: give each of them a weight, "
            f"such as 'corpus.weights={{{', '.join(f'{domain}: 1' for domain in domains)}}}'"
        )
    for domain, weight in weights.items():
        if not _is_number(weight) or not weight > 0 or not math.isfinite(weight):
            raise ValueError(
                f"corpus.weights.{domain} is {weight!r}: it must be a positive number; to leave a domain out, remove it"
            )
    return {domain: float(weight) for domain, weight in weights.items()}


def require_count(value: Any, setting: str) -> None:
    """ValueError unless it is null or a positive whole number."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{setting} is {value!r}: it must be a whole number above 0, or null for all")


def fields_of(value: Any, setting: str) -> list[str]:
    """The names of the fields that make a text: one, or a list of them; ValueError otherwise."""
    fields = [value] if isinstance(value, str) else value
    if not isinstance(fields, list | tuple) or not fields or not all(isinstance(f, str) and f for f in fields):
        raise ValueError(f"{setting} is {value!r}: it must be the name of a field, such as text, or a list of names")
    return list(fields)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
