"""What passes between the rooms: the types every part agrees on, and the position convention.

Letters: B sequences, S sources, T target tokens, U source tokens, K kept tokens, V vocabulary.

**Position convention.** Row t of every array speaks of the NEXT token, `input_ids[t + 1]`. Labels are already
shifted: `labels[t] == input_ids[t + 1]`. The last row of a document predicts nothing and is masked. A BOS is a
token of zero bytes that ends at byte 0, so its row predicts the first token like any other; an EOS follows the
last byte. The pieces of a chat template are tokens of zero bytes too: the last before a message predicts its first token.

Documents live in numpy (store, alignment), batches in torch (fusion, loss). The annotations are checked at
construction in the tests (jaxtyping's import hook).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt8
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from knowfuse.llm_spec import OWN as OWN
from knowfuse.llm_spec import LLMSpec as LLMSpec
from knowfuse.llm_spec import Recipe as Recipe

ArrayT = TypeVar("ArrayT", np.ndarray, Tensor)

Kept = Literal["topk", "sampled"]  # of a source's distribution: its most probable tokens, or drawn ones
IGNORE = -100  # the label of a row that predicts nothing
# Where the probability of an aligned row went: to a target token that takes all of a candidate's bytes, to one that takes
# the first of them, along the gold chain; what no slot holds: candidates that end where the row begins, candidates that
# no target token begins, and what the source did not keep.
MASS_CLASSES = ("exact", "prefix", "chained", "ambiguous", "unmapped", "tail")
# How the target token that a row predicts lies to the source's tokens: it is one of them; it spans several; it begins where
# one does and ends inside one; it begins inside one.
ROW_CLASSES = ("one_to_one", "many_to_one", "one_to_many", "inside")
EMPTY = float("-inf")  # the log-probability of an empty slot of a TopK


@dataclass
class TopK(Generic[ArrayT]):
    """A sparse distribution over a vocabulary: its most probable tokens.

    `log_probs` are natural logs normalised over the FULL vocabulary, so `1 - sum(exp(log_probs))` is the true
    tail. `-inf` marks an empty slot, whose id means nothing. Of drawn tokens (`SourceTrace.draws`) that is not so: they are
    estimates, each right on the mean over draws, and what has no slot is no tail but was not drawn.
    """

    ids: Int[ArrayT, "*rows K"]
    log_probs: Float32[ArrayT, "*rows K"]


@dataclass(frozen=True)
class Turn:
    """A message of a conversation in the tokens of one LLM, by rows of its document.

    Row `first` predicts the first token of the message, and `last` is its last token. `before` is where the message begins as
    a text would: `first`, or the row before it where a lone space stands between template and message. `closes` is the row
    that predicts the token which ends the turn; None where none does.
    """

    begin: int  # bytes, as `end`
    end: int
    before: int
    first: int
    last: int
    closes: int | None


@dataclass
class TokenizedDocument:
    """One document in one vocabulary: ids, and the byte offset at which each token ends.

    `own` is what the target LLM itself said of it before training, where an alignment asks for that. `turns` are the messages
    of a conversation that are learnt; None: a text, which is learnt whole but for tokens that begin in its first `prompt_bytes`.
    """

    input_ids: Int[np.ndarray, " T"]
    ends: Int[np.ndarray, " T"]
    own: TopK[np.ndarray] | None = None  # [T, K]
    turns: Sequence[Turn] | None = None
    prompt_bytes: int = 0


@dataclass
class SourceTrace:
    """What one source LLM said about one document, in its own vocabulary, at its own positions.

    `ends` are byte offsets into the document. `nll` is in nats: what the source paid for the token after each
    row; its last value is 0.

    With `draws` the slots are no most probable tokens: the first is the true next token, as probable as it is, and the others
    were drawn from what it leaves, `draws` times each, which is what they count for. A row then sums to 1, and its true tail is
    not known; the last row has no slot. What is linear in the probabilities is right on the mean over draws, and nothing else.
    """

    input_ids: Int[np.ndarray, " U"]
    ends: Int[np.ndarray, " U"]
    topk: TopK[np.ndarray]  # [U, K], the source's vocabulary; [U, 1 + K] with draws
    nll: Float32[np.ndarray, " U"]
    draws: Int[np.ndarray, "U D"] | None = None  # None: the slots are the K most probable


@dataclass
class AlignedSource:
    """One source's word on each row of a target document, in the target's vocabulary.

    `tail` is the probability that no slot of `topk` holds. `nll` is the nats the source spent on the bytes of the
    next target token, and `source_tokens` the number of its own tokens that those bytes took (both fractional
    where a boundary falls inside a source token). Where `is_aligned` is False the other fields mean nothing.
    `given` are the nats that a row takes as known of its true next token: that it ends in the source token in which it does; along the
    true text a row's own nats and these are what the source paid. None where a method takes nothing as known.
    `budget` sums to 1 over the `MASS_CLASSES`; None where the method has no such classes. `row_classes` are places in
    `ROW_CLASSES`; None where the method does not look at them. `is_by_rank`: the ids are not
    tokens but ranks among the target LLM's own next tokens, the most probable first. Where there is a `remainder`, ids that
    rise, that holds for these alone: its k-th id is rank k among them, and every other id is a token.
    """

    topk: TopK[np.ndarray]  # [T, K]
    tail: Float32[np.ndarray, " T"]
    nll: Float32[np.ndarray, " T"]
    source_tokens: Float32[np.ndarray, " T"]
    is_aligned: Bool[np.ndarray, " T"]
    given: Float32[np.ndarray, " T"] | None = None
    budget: Float64[np.ndarray, "T 6"] | None = None
    row_classes: UInt8[np.ndarray, " T"] | None = None
    is_by_rank: bool = False
    remainder: Int[np.ndarray, " R"] | None = None


@runtime_checkable
class Aligner(Protocol):
    """What an alignment method makes of a pair of tokenizers: called once per document, with the document's bytes."""

    def __call__(self, trace: SourceTrace, target: TokenizedDocument, data: bytes) -> AlignedSource: ...


@dataclass
class AlignedSources:
    """The words of S sources on the same rows; the fields of `AlignedSource` with a source axis.

    `budget` is summed over each source's aligned rows, and `row_classes` counts them. All have one `remainder`, or none has.
    """

    topk: TopK[Tensor]  # [*B, S, T, K]
    tail: Float32[Tensor, "*B S T"]
    nll: Float32[Tensor, "*B S T"]
    source_tokens: Float32[Tensor, "*B S T"]
    is_aligned: Bool[Tensor, "*B S T"]
    budget: Float32[Tensor, "*B S 6"] | None = None
    row_classes: Float32[Tensor, "*B S 4"] | None = None
    is_by_rank: bool = False
    remainder: Int[Tensor, " R"] | None = None
    is_drawn: bool = False  # the slots hold estimates (`SourceTrace.draws`)


@dataclass
class FusionBatch:
    """A batch of packed blocks.

    `document_ids` number the documents inside each block from 1; 0 is padding. Attention stays inside a document,
    and `position_ids` start at 0 in each. `label_bytes` counts the bytes of the token that each row predicts;
    `domains` are the places of the documents' domains among those of their corpus, 0 in padding.
    `sources` is None where nothing is fused (validation, plain CLM).
    """

    input_ids: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    document_ids: Int[Tensor, "B T"]
    label_bytes: Int[Tensor, "B T"]
    domains: Int[Tensor, "B T"]
    sources: AlignedSources | None = None  # leading B

    def pin_memory(self) -> "FusionBatch":
        """The same in page-locked memory, from which a GPU copies beside its work; DataLoaders look for this name."""
        return apply_to_collection(self, Tensor, Tensor.pin_memory)


@dataclass
class FusedTarget:
    """The one sparse distribution per row that the sources became, and who made it.

    `topk` has unique ids; `tail` is the mass outside them; `weights` are the sources' shares of each row and sum to
    1 where `has_target`, to 0 elsewhere.
    """

    topk: TopK[Tensor]  # [B, T, K']
    tail: Float32[Tensor, "B T"]
    weights: Float32[Tensor, "B S T"]
    has_target: Bool[Tensor, "B T"]
