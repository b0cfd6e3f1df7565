"""What did the source say at the token that stands for the target's in text? MS, FuseChat's alignment.

Source: FuseChat, arXiv 2402.16107, section 3.2: the vocabulary map comes from statistics of the token maps over the
corpus, in place of the edit distance between vocabularies.
"""

import numpy as np
from jaxtyping import Int

from knowfuse.alignment.matched_rows import (
    ManyToOne,
    PairedStrings,
    Unaligned,
    check_options,
    matching_aligner,
    pair_strings,
    text_pairs,
)
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.vocabulary_map import kept_nearest_strings
from knowfuse.text.documents import Documents
from knowfuse.types import Aligner, TokenizedDocument

MERGE_EVERY = 256  # documents whose counts are held apart


def mapping_statistics(
    pair: TokenizerPair, *, unaligned: Unaligned = "mask", many_to_one: ManyToOne = "sum"
) -> Aligner:
    """The aligner for a pair of tokenizers and their training text; ValueError where there is none.

    As `min_edit_distance`, but a source id becomes the target id that it was matched with most often in the text. That
    map is kept where the pair keeps what is made for it; made, it takes the time of aligning all documents once.

    `unaligned`: rows without a match are masked, or certain of the true next token. `many_to_one`: several source
    tokens of one target id are summed, or only the most probable counts.
    """
    check_options(unaligned, many_to_one)
    if not pair.documents:
        raise ValueError(
            "alignment 'mapping_statistics' counts which tokens match in the training text, and there are no documents "
            "to fuse on: give the corpus a 'fusion' side, or use min_edit_distance"
        )
    key = Documents.of(pair.documents).key
    kept = pair.kept("mapping-statistics", lambda: {"target_ids": most_matched(pair)}, key)
    return matching_aligner(pair, kept["target_ids"], unaligned, many_to_one)


def most_matched(pair: TokenizerPair) -> Int[np.ndarray, " V"]:
    """The target id that each source id was matched with most often; ties: the first in vocabulary order.

    Our reading of the paper: every pair on the path of a document counts, whether the two tokens match others too or
    not, and the counts decide even where the target has the same string. An id never seen in the text goes to the
    nearest string; EOS to EOS, by role. Documents that one of the two cannot spell are left out. Of a conversation each message
    is cut as a text.
    """
    mapped = kept_nearest_strings(pair).copy()
    source, target, counts = _counts(pair)
    order = np.lexsort((target, -counts, source))
    seen, first = np.unique(source[order], return_index=True)
    mapped[seen] = target[order][first]
    return mapped


def _counts(
    pair: TokenizerPair,
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """Source id, target id and count of every pair of ids that was matched in the documents."""
    tokens, size = pair_strings(pair), pair.target.vocabulary_size
    pairs, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    found = [np.empty(0, dtype=np.int64)]
    for number, document in enumerate(pair.documents, 1):
        found += [_matched_ids(*cut, tokens, pair.target.usable) @ np.array([size, 1]) for cut in pair.cut([document])]
        if number % MERGE_EVERY == 0 or number == len(pair.documents):
            new, times = np.unique(np.concatenate(found), return_counts=True)
            pairs, place = np.unique(np.concatenate([pairs, new]), return_inverse=True)
            counts = np.bincount(place, weights=np.concatenate([counts, times]), minlength=len(pairs)).astype(np.int64)
            found = [np.empty(0, dtype=np.int64)]
    return pairs // size, pairs % size, counts


def _matched_ids(
    source: TokenizedDocument, target: TokenizedDocument, tokens: PairedStrings, usable: int
) -> Int[np.ndarray, "P 2"]:
    """The source id and the target id of each matched pair of one text, of those target ids that are usable."""
    matched = text_pairs(source, target, tokens) + 1  # after BOS
    ids = np.stack([source.input_ids[matched[:, 0]], target.input_ids[matched[:, 1]]], -1)
    return ids[ids[:, 1] < usable]
