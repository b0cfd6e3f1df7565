"""How good is an LLM on held-out text, and how good is an alignment, before anyone trains?"""

from knowfuse.evaluation.alignment_quality import (
    AlignmentQuality,
    SeenDocument,
    alignment_quality,
    judged,
    with_own_tokenizer,
)
from knowfuse.evaluation.answers import Answers, Tasks
from knowfuse.evaluation.bits_per_byte import (
    DocumentScores,
    ScoreTable,
    oracle,
    score_documents,
    score_served,
    score_table,
)
from knowfuse.evaluation.by_document import DOCUMENTS, ByDocument, by_document, read_by_document, write_by_document
from knowfuse.evaluation.cached import BATCH_TOKENS, cached_scores
from knowfuse.evaluation.comparison import Compared, Interval, compare
from knowfuse.evaluation.ensemble import Ensemble
from knowfuse.evaluation.trained import score_trained

__all__ = [
    "BATCH_TOKENS",
    "DOCUMENTS",
    "AlignmentQuality",
    "Answers",
    "ByDocument",
    "Compared",
    "DocumentScores",
    "Ensemble",
    "Interval",
    "ScoreTable",
    "SeenDocument",
    "Tasks",
    "alignment_quality",
    "by_document",
    "cached_scores",
    "compare",
    "judged",
    "oracle",
    "read_by_document",
    "score_documents",
    "score_served",
    "score_table",
    "score_trained",
    "with_own_tokenizer",
    "write_by_document",
]
