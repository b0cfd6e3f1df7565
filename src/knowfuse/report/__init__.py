"""What came out of a run, or of several? Tables on the screen, files in the folder, pictures."""

from knowfuse.report.answers import show_answers, write_answers
from knowfuse.report.compared import show_comparison, write_comparison
from knowfuse.report.results import show, tokens_to_clm_final, write_results
from knowfuse.report.written import write_headroom, write_page, write_run

__all__ = [
    "show",
    "show_answers",
    "show_comparison",
    "tokens_to_clm_final",
    "write_answers",
    "write_comparison",
    "write_headroom",
    "write_page",
    "write_results",
    "write_run",
]
