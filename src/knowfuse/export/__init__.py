"""How does what a run made leave it? Its target as a folder of transformers, what its sources said as another, each with a card."""

from knowfuse.export.folder import export, require_free

__all__ = ["export", "require_free"]
