"""The classes of rows against their definition read token by token, and what the options of byte_exact leave."""

import itertools
from typing import Any

import numpy as np
import pytest
from tokenizers_for_tests import LOSSLESS, random_trace, surface

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.row_classes import check_rows, row_classes
from knowfuse.types import ROW_CLASSES, AlignedSource, SourceTrace, TokenizedDocument

TEXT = 'def wrap(text, width=70):\n    """Wrap — 🙂 é."""\n\n\treturn  w\r\n'
PAIRS = list(itertools.product(LOSSLESS, LOSSLESS))


def slow_class(t: int, trace: SourceTrace, tokens: TokenizedDocument) -> str:
    boundaries = {int(end) for end in trace.ends}
    begin, end = int(tokens.ends[t]), int(tokens.ends[t + 1])
    if begin not in boundaries:
        return "inside"
    if end not in boundaries:
        return "one_to_many"
    return "many_to_one" if sum(begin < b <= end for b in boundaries) > 1 else "one_to_one"


def said(source: str, target: str, **options: Any) -> tuple[SourceTrace, TokenizedDocument, AlignedSource]:
    trace, tokens = random_trace(surface(source), TEXT, 5), surface(target).tokenize(TEXT)
    align = byte_exact(TokenizerPair(surface(source), surface(target)), **options)
    return trace, tokens, align(trace, tokens, TEXT.encode())


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_classes_and_the_rows_that_the_options_leave(source: str, target: str) -> None:
    """What is left says what it says with all rows."""
    trace, tokens, whole = said(source, target)
    assert whole.row_classes is not None
    got = [ROW_CLASSES[c] for c in whole.row_classes[:-1]]
    assert got == [slow_class(t, trace, tokens) for t in range(len(got))]
    spaces = [not TEXT.encode()[a:b].strip() and a < b for a, b in itertools.pairwise(tokens.ends.tolist())]
    for rows, mask in itertools.product(("all", "shared", "one_to_one"), (False, True)):
        _, _, aligned = said(source, target, rows=rows, mask_whitespace=mask)
        for t, kind in enumerate(got):
            teaches = kind == "one_to_one" or rows == "all" or (rows == "shared" and kind != "inside")
            assert aligned.is_aligned[t] == (teaches and not (mask and spaces[t]))
        assert np.array_equal(aligned.topk.log_probs, whole.topk.log_probs)


def test_all_classes_occur() -> None:
    kinds = {int(c) for s, t in PAIRS for c in row_classes(*(surface(n).tokenize(TEXT).ends for n in (s, t)))}
    assert kinds == set(range(len(ROW_CLASSES)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": "some"}, r"rows='some' does not exist: choose one of \['all', 'shared', 'one_to_one'\]"),
        ({"mask_whitespace": "yes"}, "mask_whitespace='yes': it must be true or false"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_rows(**{"rows": "all", "mask_whitespace": False, **options})
