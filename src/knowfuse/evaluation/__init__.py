"""How good is an LLM on held-out text, and how good is an alignment, before anyone trains?"""

from knowfuse.evaluation.alignment_quality import (
    AlignmentQuality,
    SeenDocument,
    alignment_quality,
    tried,
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
from knowfuse.evaluation.comparison import Compared, Interval, compare, compare_run
from knowfuse.evaluation.completions import Completed, Prompt, completed, prompts_of
from knowfuse.evaluation.ensemble import Ensemble
from knowfuse.evaluation.samples import (
    SAMPLES,
    Continuation,
    Samples,
    TokenCosts,
    baseline_of,
    begun,
    extremes,
    read_samples,
    write_samples,
)
from knowfuse.evaluation.told import Beginnings, Told, tell
from knowfuse.evaluation.trained import score_trained, tell_trained

__all__ = [
    "BATCH_TOKENS",
    "DOCUMENTS",
    "SAMPLES",
    "AlignmentQuality",
    "Answers",
    "Beginnings",
    "ByDocument",
    "Compared",
    "Completed",
    "Continuation",
    "DocumentScores",
    "Ensemble",
    "Interval",
    "Prompt",
    "Samples",
    "ScoreTable",
    "SeenDocument",
    "Tasks",
    "TokenCosts",
    "Told",
    "alignment_quality",
    "baseline_of",
    "begun",
    "by_document",
    "cached_scores",
    "compare",
    "compare_run",
    "completed",
    "extremes",
    "oracle",
    "prompts_of",
    "read_by_document",
    "read_samples",
    "score_documents",
    "score_served",
    "score_table",
    "score_trained",
    "tell",
    "tell_trained",
    "tried",
    "with_own_tokenizer",
    "write_by_document",
    "write_samples",
]
