"""How good is an LLM on held-out text, and how good is an alignment, before anyone trains?"""

from knowfuse.evaluation.alignment_quality import (
    AlignmentQuality,
    SeenDocument,
    alignment_quality,
    judged,
    with_own_tokenizer,
)
from knowfuse.evaluation.bits_per_byte import (
    DocumentScores,
    ScoreTable,
    bits_per_byte,
    oracle,
    score_documents,
    score_served,
    score_table,
)
from knowfuse.evaluation.cached import BATCH_TOKENS, cached_scores
from knowfuse.evaluation.trained import score_trained

__all__ = [
    "BATCH_TOKENS",
    "AlignmentQuality",
    "DocumentScores",
    "ScoreTable",
    "SeenDocument",
    "alignment_quality",
    "bits_per_byte",
    "cached_scores",
    "judged",
    "oracle",
    "score_documents",
    "score_served",
    "score_table",
    "score_trained",
    "with_own_tokenizer",
]
