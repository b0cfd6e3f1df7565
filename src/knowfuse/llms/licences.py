"""Under which licence is an LLM, and may others learn from what it says? As its model card says; nothing is blocked.

A card is the README.md of an LLM's folder or repository, and its metadata name the licence. What a licence asks of those who train
on an LLM's outputs is from its text; whoever shares an LLM that learnt from others has to read it.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from knowfuse.llms.files import CARD
from knowfuse.types import LLMSpec

HUB = "https://huggingface.co"
# What these say of training on outputs, by the hub's names of them.
ASKS = {
    "llama2": "forbids to improve LLMs other than Llama 2 with its outputs",
    "llama3": "forbids to improve LLMs other than Llama 3 with its outputs",
    **{
        f"llama{version}": "asks that the name of an LLM which is trained on its outputs begins with Llama"
        for version in ("3.1", "3.2", "3.3", "4")
    },
    "gemma": "holds for every LLM that is trained on its outputs too",
}
UNKNOWN = ("other", "unknown")


@dataclass(frozen=True)
class Licence:
    """What a model card says; `name` is the hub's, such as apache-2.0, and None where none is said: `why` says why.

    `own_name` and `link` are of a licence that the hub has no name for.
    """

    name: str | None
    own_name: str | None = None
    link: str | None = None
    why: str = ""

    @property
    def concern(self) -> str | None:
        """Why its text is to be read before an LLM that learnt from this one is shared; None where it asks for nothing known."""
        if self.name is None:
            return f"says no licence ({self.why})"
        if self.name in UNKNOWN:
            return f"is under a licence of its own, {self.own_name or 'which its card does not name'}"
        if asks := ASKS.get(self.name):
            return f"is under {self.name}, which {asks}"
        if "-nc" in self.name:
            return f"is under {self.name}, which forbids commercial use"
        return None

    def __str__(self) -> str:
        return "not said" if self.name is None else self.own_name or self.name


def licence_of(spec: LLMSpec, notes: Path | None = None) -> Licence | None:
    """From the card in its folder, in the hub's cache of this machine, or in `notes`, by <organisation>--<name>; nothing is downloaded.

    None for an LLM that a recipe makes here.
    """
    if spec.path is None:
        return None
    card = next((place for place in _places(spec.path, spec.revision, notes) if place.is_file()), None)
    if card is None:
        return Licence(None, why=f"there is no {CARD} of it on this machine")
    try:
        found: dict[str, Any] = metadata_load(card) or {}
    except (ValueError, OSError, yaml.YAMLError):
        return Licence(None, why=f"the metadata of its {CARD} cannot be read")
    if not found.get("license"):
        return Licence(None, why=f"the metadata of its {CARD} have none")
    return Licence(_text(found["license"]).lower(), _text(found.get("license_name")), _text(found.get("license_link")))


def _places(path: str, revision: str | None, notes: Path | None) -> Iterator[Path]:
    """Where its card may be."""
    folder = Path(path).expanduser()
    yield folder / CARD
    with suppress(HFValidationError):  # a folder that is gone
        if isinstance(cached := try_to_load_from_cache(path, CARD, revision=revision), str):
            yield Path(cached)
    if notes is not None:
        yield notes / path.replace("/", "--") / CARD


def page_of(spec: LLMSpec) -> str | None:
    """The address of an LLM on the hub; None of a folder, and of one that is made here."""
    if spec.path is None or Path(spec.path).expanduser().exists():
        return None
    try:
        validate_repo_id(spec.path)
    except HFValidationError:  # a folder that is gone
        return None
    return f"{HUB}/{spec.path}"


def shown_name(spec: LLMSpec) -> str:
    """A hub id, or the last part of a folder, whose place is nobody's business; of one that is made here its architecture."""
    if spec.recipe is not None:
        return f"a small {spec.recipe.architecture}"
    assert spec.path is not None
    return spec.path if page_of(spec) else Path(spec.path).name


def concerns(sources: Mapping[str, LLMSpec], notes: Path | None = None) -> list[str]:
    """A line for each source whose licence, or the lack of one, has to be looked at before what learnt from it is shared."""
    lines = []
    for name, spec in sources.items():
        licence = licence_of(spec, notes)
        if licence is not None and (concern := licence.concern) is not None:
            where = licence.link or page_of(spec) or "where it came from"
            lines.append(
                f"source {name}: {shown_name(spec)} {concern}; nothing is blocked, read it ({where}) before you share the target"
            )
    return lines


def _text(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else None if value is None else str(value)
