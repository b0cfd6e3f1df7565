"""Which bytes of the document does each token stand for? The one place that knows tokenizer families.

Every tokenisation is verified: the bytes of its tokens must concatenate to the document's.
"""

from knowfuse.surface.cutting import Surface, require_rows, surface_of
from knowfuse.surface.families import SPACE_MARK
from knowfuse.surface.unspellable import UnspellableDocument

__all__ = ["SPACE_MARK", "Surface", "UnspellableDocument", "require_rows", "surface_of"]
