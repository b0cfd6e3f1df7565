"""How does what a run made leave it? Its target as a folder of transformers, what its sources said as another, each with a card."""

from knowfuse.export.finished import checksums, is_finished, may_be_finished, say_finished, write_note
from knowfuse.export.folder import export, folder_of, require_dtype, require_free

__all__ = [
    "checksums",
    "export",
    "folder_of",
    "is_finished",
    "may_be_finished",
    "require_dtype",
    "require_free",
    "say_finished",
    "write_note",
]
