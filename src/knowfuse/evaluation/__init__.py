"""How good is an LLM on held-out text, and how good is an alignment, before anyone trains?"""

from knowfuse.evaluation.alignment_quality import AlignmentQuality, SeenDocument, alignment_quality
from knowfuse.evaluation.bits_per_byte import (
    DocumentScores,
    ScoreTable,
    bits_per_byte,
    oracle,
    score_documents,
    score_table,
)

__all__ = [
    "AlignmentQuality",
    "DocumentScores",
    "ScoreTable",
    "SeenDocument",
    "alignment_quality",
    "bits_per_byte",
    "oracle",
    "score_documents",
    "score_table",
]
