"""What do the traces of a source depend on, and where does a store say so? Traces of anything else are refused."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from knowfuse.files import undamaged
from knowfuse.traces.place import Folder
from knowfuse.traces.second_format import upgrade
from knowfuse.types import Kept

FORMAT_VERSION = 2  # of the shards
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class TraceKey:
    """Everything the traces of a source depend on, but the documents, which are named by their content."""

    source: str
    llm: str  # fingerprint of weights, configuration, dtype, quantisation
    tokenizer: str  # fingerprint of the surface
    top_k: int
    format_version: int = FORMAT_VERSION
    kept: Kept = "topk"

    @property
    def parts(self) -> dict[str, Any]:
        """What a manifest says; of the most probable tokens as it was before there were others."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("kept", "topk")}

    @property
    def folder_name(self) -> str:
        return f"{self.source}-{hashlib.sha256(json.dumps(self.parts).encode()).hexdigest()[:12]}"


def manifest_of(key: TraceKey, codec: str) -> bytes:
    """What a store of these traces, in this layout of bits, says of them."""
    return json.dumps({"key": key.parts, "codec": codec}, indent=1).encode()


def read_manifest(folder: Folder, name: str, key: TraceKey, codec: str) -> None:
    """ValueError, with both values, where the traces were made with another key or layout; one of before is upgraded."""
    with undamaged(f"{folder}/{name}"):
        found = json.loads(folder.read(name))
        made, asked = {**found["key"], "codec": found.get("codec")}, {**key.parts, "codec": codec}
        for part, wanted in asked.items():
            if made.get(part) != wanted:
                raise ValueError(
                    f"the traces in {str(folder)!r} were made with {part}={made.get(part)!r}, this run wants {wanted!r}: move that "
                    "folder away and run python -m knowfuse.prepare with this run's settings"
                )
        if "shards" in found:
            upgrade(folder, name, found, MANIFEST)
