"""What does an LLM pay on the bytes that carry a text's structure: the indentation of code, the digits of numbers?

Judges of code and mathematics that run nothing. Which bytes they are the text alone says, the same for every LLM. What a token
cost is spread evenly over its bytes, also the same for all: with a token of both kinds, as ` 12` or `\\n    return`, no LLM says
which byte it found hard. A token of no bytes counts to the next that has some.
"""

import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int

# Indentation: blanks between a line's beginning and the first of its other bytes. A document may begin inside a line: its
# first line has none, nor has a line of blanks alone.
CLASSES: Mapping[str, re.Pattern[bytes]] = {
    "indentation": re.compile(rb"(?<=\n)[ \t]+(?=[^ \t\r\n])"),
    "numerals": re.compile(rb"[0-9]+"),
}


def nats_by_class(
    ends: Int[np.ndarray, " T"], nats: Float64[np.ndarray, " rows"], data: bytes
) -> dict[str, tuple[int, float]]:
    """The bytes of each class in a text, and the nats on them; `nats[t]` is what the token after `ends[t]` cost."""
    paid = np.concatenate([[0.0], np.cumsum(nats)])
    ends = ends[: len(paid)]
    is_first = np.append(True, ends[1:] != ends[:-1])  # of the tokens that end at one byte
    spent = np.interp(np.arange(len(data) + 1), ends[is_first], paid[is_first])
    found = {name: [match.span() for match in pattern.finditer(data)] for name, pattern in CLASSES.items()}
    return {
        name: (sum(end - begin for begin, end in spans), float(sum(spent[end] - spent[begin] for begin, end in spans)))
        for name, spans in found.items()
    }
