"""What says that the hub did not answer?"""

from importlib import import_module
from importlib.util import find_spec


def unreachable() -> tuple[type[Exception], ...]:
    """The exceptions of its client, which raises what its own library for HTTP does."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    libraries = [import_module(name) for name in ("httpx", "httpx2") if find_spec(name) is not None]
    return (ConnectionError, OfflineModeIsEnabled, *(library.TransportError for library in libraries))
