"""Where do maps between two tokenizers live on disk?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from knowfuse.files import make_once, undamaged, write_whole


@dataclass(frozen=True)
class MapStore:
    """Maps between two tokenizers, made once per machine: one safetensors file a name."""

    folder: Path

    def __call__(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of this name; where they are not there yet, `make` is called and they are kept."""
        path = self.folder / f"{name}.safetensors"

        def write() -> None:
            write_whole(path, save({key: np.ascontiguousarray(array) for key, array in make().items()}))

        make_once(path, write)
        with undamaged(path):
            return load_file(path)
