"""How does an exported folder come to the hub? Only where it is asked for, private, into a repository of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import huggingface_hub.constants as hub
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from knowfuse.surface.loading import reason

Kind = Literal["model", "dataset"]


def require_pushable(name: str, kind: Kind) -> str:
    """The whole name of a repository that is not there yet: `name`, under the user's own where it has no organisation.

    ValueError, with what to run, where the hub cannot be reached, has no token or does not take it, and where it has one of this name.
    """
    if hub.HF_HUB_OFFLINE:
        raise ValueError(f"push_to_hub is {name!r}, and HF_HUB_OFFLINE is set: unset it, or leave push_to_hub out")
    if get_token() is None:
        raise ValueError(
            f"push_to_hub is {name!r}, and this machine has no token of the hub: run hf auth login, or set HF_TOKEN to one that may "
            "write; or leave push_to_hub out"
        )
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(
            f"push_to_hub is {name!r}, which names no repository: give <name> or <organisation>/<name>"
        ) from error
    with _answered(name, "run hf auth login with a token that may write"):
        whole = name if "/" in name else f"{HfApi().whoami()['name']}/{name}"
        is_there = HfApi().repo_exists(whole, repo_type=kind)
    if is_there:
        raise ValueError(
            f"push_to_hub is {name!r}, and {hub.ENDPOINT} has {whole} already, and nothing is overwritten: set push_to_hub to another name"
        )
    return whole


def push(folder: Path, name: str, kind: Kind) -> str:
    """Make a private repository of the folder; its address. ValueError where the hub does not take it: the folder stays."""
    again = f"the folder is whole: run hf upload {name} {folder} --private --repo-type {kind}"
    with _answered(name, again):
        address = HfApi().create_repo(name, repo_type=kind, private=True)
        HfApi().upload_folder(repo_id=name, folder_path=folder, repo_type=kind, commit_message="Exported by knowfuse")
    return str(address)


@contextmanager
def _answered(name: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the HTTP client raises where nobody answers, or not with what was asked
        raise ValueError(
            f"push_to_hub is {name!r}, and {hub.ENDPOINT} does not take it ({reason(error)}): {remedy}"
        ) from error
