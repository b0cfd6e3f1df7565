"""What came out of a run, or of several? Tables on the screen, files in the folder, pictures."""

from knowfuse.report.compared import show_comparison, write_comparison
from knowfuse.report.results import show, tokens_to_clm_final, write_results

__all__ = ["show", "show_comparison", "tokens_to_clm_final", "write_comparison", "write_results"]
