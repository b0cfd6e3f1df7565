"""How do the targets of several runs become one, in parameter space? Copies of one LLM that learnt apart, merged by mergekit."""

from knowfuse.merge.merged import Merged
from knowfuse.merge.targets import trained_beside, trained_by

__all__ = ["Merged", "trained_beside", "trained_by"]
