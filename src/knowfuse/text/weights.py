"""In which proportion do domains contribute, and which of their texts are taken?"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import TypeVar

Item = TypeVar("Item")
Text = TypeVar("Text", bound=Sized)
POOL_TEXTS, POOL_BYTES = 10_000, 2**26  # among which the next is drawn: so many, of so many bytes together


def interleaved(
    streams: Mapping[str, Iterator[Item]],
    weights: Mapping[str, float],
    size: Callable[[Item], int],
    taken: dict[str, int],
) -> Iterator[Item]:
    """Items of all streams, until one that is due has no more: nothing is read twice to fill a share.

    Always from the stream that is furthest behind its weight (of several, the first). So at every moment the sizes taken
    are as the weights within one item: for streams i and j, `|taken_i / weight_i - taken_j / weight_j|` is at most the
    largest of one item's `size / weight`. An item of size 0 goes through and counts for nothing. `taken` holds the sizes
    so far, 0 at the start.
    """
    while True:
        due = min(streams, key=lambda name: taken[name] / weights[name])
        item = next(streams[due], None)
        if item is None:
            return
        taken[due] += size(item)
        yield item


def drawn(texts: Iterable[Text], seed: str) -> Iterator[Text]:
    """All texts in an order by chance, the same for the same seed: the next is drawn from a pool that is filled in order.

    With it the first N are a sample that is spread over what lies near in a file, at the memory of a pool.
    """
    chance, pool, held = random.Random(seed), list[Text](), 0
    for text in texts:
        pool.append(text)
        held += len(text)
        while len(pool) > POOL_TEXTS or (held > POOL_BYTES and len(pool) > 1):
            at = int(chance.random() * len(pool))
            pool[at], pool[-1] = pool[-1], pool[at]
            held -= len(pool[-1])
            yield pool.pop()
    chance.shuffle(pool)
    yield from pool
