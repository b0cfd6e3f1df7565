"""Hydra reads some thirty files whenever it composes, and a command composes twice: here each is read once, until it changes."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache, wraps
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource


@cache
def read_settings_once() -> None:
    """From now on, in this process and in those that it forks."""
    kinds: Any = Plugins.instance().discover(ConfigSource)
    for kind in kinds:
        if kind.scheme() in ("file", "pkg"):
            kind.load_config = _once(kind.load_config)


def _once(read: Callable[[Any, str], ConfigResult]) -> Any:
    kept: dict[tuple, ConfigResult] = {}

    @wraps(read)
    def load(source: Any, config_path: str) -> ConfigResult:
        key: tuple = (source.provider, source.path, config_path)  # of a package, which does not change
        if (file := Path(source.path) / source._normalize_file_name(config_path)).is_file():
            key = (source.provider, file.absolute(), file.stat().st_mtime_ns, file.stat().st_size)
        if key not in kept:
            kept[key] = read(source, config_path)
        return deepcopy(kept[key])

    return load
