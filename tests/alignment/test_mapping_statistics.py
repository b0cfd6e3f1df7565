"""MS against a slow count of the published token maps."""

import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import published
import pytest
from test_min_edit_distance import PAIRS, TEXT, assert_said
from tokenizers_for_tests import random_trace, surface, toy_surface, training_text

from knowfuse.alignment import mapping_statistics as module
from knowfuse.alignment.mapping_statistics import mapping_statistics, most_matched
from knowfuse.alignment.pair import Arrays, TokenizerPair
from knowfuse.surface import UnspellableDocument
from knowfuse.text.document import Document
from knowfuse.traces.maps import MapStore


def written(*texts: str) -> list[Document]:
    return [Document(text, "code", "fusion") for text in texts]


DOCUMENTS = written(*training_text()[:40], TEXT, "", "two  spaces")  # the last is nothing that WordPiece spells


def slow_map(pair: TokenizerPair) -> dict[int, int]:
    """The most frequent partner of each source id, the first of equals; ids never seen as MinED maps them."""
    mapped = published.vocabulary_map(pair.source, pair.target)
    printed = published.printed(pair.source, pair.target)
    counts: dict[int, Counter[int]] = {}
    for document in pair.documents:
        try:
            source, target = pair.source.tokenize(document.text), pair.target.tokenize(document.text)
        except UnspellableDocument:
            continue
        for i, j in published.text_pairs(source, target, printed)[1:]:
            counts.setdefault(int(source.input_ids[i]), Counter())[int(target.input_ids[j])] += 1
    for i, seen in counts.items():
        mapped[i] = min(seen, key=lambda j: (-seen[j], j))
    return mapped


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_map_and_rows_are_those_of_the_slow_count(source: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MERGE_EVERY", 7)
    pair = TokenizerPair(surface(source), surface(target), DOCUMENTS)
    id_map = slow_map(pair)
    assert most_matched(pair).tolist() == [id_map.get(i, -1) for i in range(pair.source.vocabulary_size)]
    trace, tokens = random_trace(pair.source, TEXT, 40), pair.target.tokenize(TEXT)
    for many_to_one in ("sum", "first"):
        for unaligned in ("mask", "gold_next"):
            aligned = mapping_statistics(pair, many_to_one=many_to_one, unaligned=unaligned)(
                trace, tokens, TEXT.encode()
            )
            assert_said(
                aligned,
                published.align(
                    trace, tokens, published.printed(pair.source, pair.target), id_map, many_to_one, unaligned
                ),
            )


def test_counts_decide_over_strings() -> None:
    """A token becomes what it was matched with, though the target has the same string."""
    merges = [("x", "x"), ("y", "y"), ("xx", "xx"), ("yy", "yy")]
    pieces = [*"abcxy", "xx", "yy", "xxxx", "yyyy", "ab"]
    source = toy_surface([*pieces, "bc"], [*merges, ("b", "c")])
    target = toy_surface([*pieces, "bc"], [*merges, ("a", "b")])
    pair = TokenizerPair(source, target, written("xxxxabcyyyy") * 2)
    # source: xxxx, a, bc, yyyy. target: xxxx, ab, c, yyyy.
    mapped = most_matched(pair)
    names = source.token_strings
    assert names[mapped[names.index("a")]] == "ab", "though the target has an a"
    assert names[mapped[names.index("bc")]] == "c", "though the target has a bc"
    assert names[mapped[names.index("b")]] == "b", "never seen: by its string"
    assert mapped[source.eos_id] == target.eos_id


def test_the_map_is_kept_by_tokenizers_and_documents(tmp_path: Path) -> None:
    made: list[str] = []
    store = MapStore(tmp_path)

    def keep(name: str, make: Callable[[], Arrays]) -> Arrays:
        def counted() -> Arrays:
            made.append(name.rsplit("-", 1)[0])
            return make()

        return store(name, counted)

    def said(documents: list[Document]) -> np.ndarray:
        align = mapping_statistics(TokenizerPair(surface("neox"), surface("llama"), documents, keep))
        return align(random_trace(surface("neox"), TEXT, 5), surface("llama").tokenize(TEXT), TEXT.encode()).topk.ids

    first = said(DOCUMENTS)
    assert made == ["mapping-statistics", "nearest-strings"]
    assert np.array_equal(said(DOCUMENTS), first)
    assert len(made) == 2, "found again"
    said(DOCUMENTS[1:])
    assert made[2:] == ["mapping-statistics"], "other documents, another map"


def test_no_documents_and_options_that_do_not_exist_are_named() -> None:
    with pytest.raises(ValueError, match=r"there are no documents to fuse on: give the corpus a 'fusion' side"):
        mapping_statistics(TokenizerPair(surface("neox"), surface("llama")))
    with pytest.raises(ValueError, match=r"unaligned='gold' does not exist: choose one of \['mask', 'gold_next'\]"):
        inspect.unwrap(mapping_statistics)(TokenizerPair(surface("neox"), surface("llama")), unaligned="gold")  # type: ignore[arg-type]  # past the type checks
