"""How is a document named? By 12 bytes of a content hash: 24 hex digits where people read, arrays of fixed width inside."""

from collections.abc import Iterable

import numpy as np

ID_BYTES = 12
ID = np.dtype(f"V{ID_BYTES}")


def id_array(names: Iterable[str]) -> np.ndarray:
    """Hex names as an array of ids, [D]; ValueError where one is not 24 hex digits."""
    listed = list(names)
    if wrong := [name for name in listed if len(name) != 2 * ID_BYTES]:
        raise ValueError(f"a document is named {wrong[0]!r}: an id is {2 * ID_BYTES} hex digits")
    return np.frombuffer(bytes.fromhex("".join(listed)), ID)


def hex_names(ids: np.ndarray) -> list[str]:
    """The ids as hex names, in their order."""
    digits, width = ids.tobytes().hex(), 2 * ID_BYTES
    return [digits[start : start + width] for start in range(0, len(digits), width)]


class IdIndex:
    """Where each of many ids stands: sorted once, then looked up by bisection; 16 bytes an id beside the ids themselves."""

    def __init__(self, ids: np.ndarray) -> None:
        keys = _heads(ids)
        self._ids, self._order = ids, np.argsort(keys, kind="stable")
        self._heads = keys[self._order]

    def __len__(self) -> int:
        return len(self._ids)

    def places(self, wanted: np.ndarray) -> np.ndarray:
        """The place of each wanted id among the ids, -1 where it is not there; of an id that is there twice, the first."""
        found = np.full(len(wanted), -1, dtype=np.int64)
        if not len(self._ids):
            return found
        heads = _heads(wanted)
        asked = np.argsort(heads)  # a sorted question is answered ten times faster
        at = np.searchsorted(self._heads, heads[asked])
        while len(asked):  # more than once only where two ids share their first 8 bytes
            is_inside = at < len(self._order)
            asked, at = asked[is_inside], at[is_inside]
            has_head = self._heads[at] == heads[asked]
            asked, at = asked[has_head], at[has_head]
            places = self._order[at]
            is_it = self._ids[places] == wanted[asked]
            found[asked[is_it]] = places[is_it]
            asked, at = asked[~is_it], at[~is_it] + 1
        return found

    def place(self, name: str) -> int:
        """The place of one hex name, -1 where it is not there: a few microseconds."""
        wanted = bytes.fromhex(name)
        head = np.uint64(int.from_bytes(wanted[:8]))
        at = int(np.searchsorted(self._heads, head))
        while at < len(self._heads) and self._heads[at] == head:
            if self._ids[self._order[at]].tobytes() == wanted:
                return int(self._order[at])
            at += 1
        return -1


def _heads(ids: np.ndarray) -> np.ndarray:
    """The first 8 bytes of each id as numbers that sort as the bytes do, uint64 [D]."""
    rows = np.frombuffer(ids.tobytes(), np.uint8).reshape(-1, ID_BYTES)
    return rows[:, :8].copy().view(">u8")[:, 0].astype(np.uint64)
