"""How does a store whose manifests list all shards and documents become one with an index a shard?

Its shards stay as they are; only what the manifests say of them moves. A kill half way changes nothing that the next
process does not do again.
"""

import json
from typing import Any

from knowfuse.ids import id_array
from knowfuse.traces import index
from knowfuse.traces.index import Shard
from knowfuse.traces.place import Folder
from knowfuse.unwritable import why


def upgrade(folder: Folder, name: str, manifest: dict[str, Any], new: str) -> None:
    """Write what this manifest lists as indices and reasons, and its key as the manifest `new`.

    Raises OSError where the folder may only be read.
    """
    try:
        for listed in manifest["shards"]:
            shard = Shard(listed["file"], listed["tokens"], listed["sha256"], id_array(listed["documents"]))
            folder.write(shard.index, index.to_bytes(shard))
        if manifest["set_aside"]:
            reasons = json.dumps(manifest["set_aside"], indent=0).encode()
            folder.write(f"aside{name.removeprefix('manifest').removesuffix('.json')}-of-manifest.json", reasons)
        made = {"key": manifest["key"], "codec": manifest["codec"]}
        folder.write(new, json.dumps(made, indent=1).encode())
        if name != new:
            folder.remove(name)
    except OSError as error:
        raise OSError(
            f"the traces in {str(folder)!r} have a manifest that lists all documents, as they were written before; it has to "
            f"become an index a shard, and that cannot be written ({why(error)}): run python -m knowfuse.prepare once as a user "
            "who may write there"
        ) from error
