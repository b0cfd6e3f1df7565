"""How do the files of an LLM come from the hub to this machine? Those that transformers needs, and no others."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path

import huggingface_hub.constants as hub
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from knowfuse.llms.files import CARD, CONFIG, WEIGHTS, LLMFiles, llm_files, names_in
from knowfuse.llms.gguf_parts import part_names
from knowfuse.screen import say
from knowfuse.surface.loading import reason
from knowfuse.types import LLMSpec
from knowfuse.unreachable import unreachable

DECIDING = [
    CONFIG,
    *(name for name in WEIGHTS if name.endswith(".json")),
]  # small, and they say which others are needed


def download(name: str, spec: LLMSpec) -> Path:
    """The folder in the hub's cache that has all that transformers reads of the LLM, or its GGUF files alone.

    Without network, what was downloaded before. ValueError where it cannot be had: what was wrong, and what to run.
    """
    assert spec.path is not None
    with reasons(name, spec.path, spec.revision):
        if spec.gguf_file is not None:
            is_local = _names(spec.path, spec.revision) is None
            return _snapshot(spec.path, spec.revision, [*part_names(spec.gguf_file), CARD], is_local)
        return _files(spec.path, spec.revision, lambda files: files.all(), spec.trust_remote_code)


def download_tokenizer(name: str, path: str, revision: str | None, is_trusted: bool) -> Path:
    """The same of a repository's tokenizer, templates and configuration: all that is needed of an LLM that is served."""
    with reasons(name, path, revision):
        return _files(path, revision, _but_weights, is_trusted)


def _but_weights(files: LLMFiles) -> list[str]:
    return sorted({*files.all()} - {*files.weights, *files.index})


def _files(path: str, revision: str | None, chosen: Callable[[LLMFiles], list[str]], is_trusted: bool) -> Path:
    """First what says which files are needed, then those."""
    names = _names(path, revision)
    folder = _snapshot(path, revision, DECIDING, is_local=names is None)
    there = names_in(folder) if names is None else names
    files = llm_files(there, lambda name: (folder / name).read_bytes(), is_trusted)
    return _snapshot(path, revision, chosen(files), is_local=names is None)


def _snapshot(path: str, revision: str | None, names: Sequence[str], is_local: bool) -> Path:
    patterns = [escape(name) for name in names]
    return Path(snapshot_download(path, revision=revision, allow_patterns=patterns, local_files_only=is_local))


def _names(path: str, revision: str | None) -> list[str] | None:
    """All names of the repository; None without network, where what was downloaded before has to do."""
    if hub.HF_HUB_OFFLINE:
        return None
    try:
        info = HfApi().model_info(path, revision=revision)
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception as error:  # whatever the HTTP client raises where nobody answers, or not with an answer
        say(f"hub: {path} is taken from the cache of this machine, {hub.ENDPOINT} does not answer ({reason(error)})")
        return None
    return [file.rfilename for file in info.siblings or ()]


@contextmanager
def reasons(name: str, path: str, revision: str | None) -> Iterator[None]:
    """What the hub's client raises, as a ValueError that says what to do."""
    at = f" at revision {revision!r}" if revision else ""
    try:
        yield
    except HFValidationError as error:
        raise ValueError(
            f"LLM {name!r}: {path!r} is neither a folder here nor on the hub (no id of it looks so): check the path"
        ) from error
    except GatedRepoError as error:
        raise ValueError(
            f"LLM {name!r}: {path!r} is gated: ask for access at {hub.ENDPOINT}/{path}, then run hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(
            f"LLM {name!r}: {path!r} has no revision {revision!r} on the hub: check `revision:`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"LLM {name!r}: {path!r} is neither a folder here nor on the hub: check the path, or run hf auth login where it is "
            "private"
        ) from error
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if hub.HF_HUB_OFFLINE else f"{hub.ENDPOINT} does not answer"
        raise ValueError(
            f"LLM {name!r}: {path!r} is no folder here, and of the hub's {path!r}{at} the cache of this machine ({hub.HF_HUB_CACHE}) "
            f"has not all files, while {why}: run hf download {path} where there is network, and give the folder"
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"LLM {name!r}: the hub does not give {path!r}{at} ({reason(error)}): try again later, or give a folder"
        ) from error
    except unreachable() as error:
        raise ValueError(
            f"LLM {name!r}: the connection was lost while {path!r}{at} came from the hub ({reason(error)}): run the same command "
            "again, what has come is kept"
        ) from error
    except ValueError as error:  # of files that are not whole
        raise ValueError(f"LLM {name!r}: {path!r}{at}, as it came from the hub: {error}") from error
