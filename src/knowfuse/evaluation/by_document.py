"""What do named LLMs pay on each document? The figures that every comparison is made of, as a file that anyone reads."""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from knowfuse.files import undamaged, write_csv
from knowfuse.text.document import Document
from knowfuse.text.documents import Documents

DOCUMENTS = "documents.csv"  # in the folder of a run, and of an evaluation
COLUMNS = ["document", "domain", "bytes"]
SCORE_AGAIN = "python evaluate.py run=<its run> makes it anew, in a folder of its own"


@dataclass
class ByDocument:
    """Nats on the text of D documents, by the name of the LLM; NaN where it cannot read one. The EOS is no text."""

    ids: list[str]
    domains: list[str]  # of each document
    num_bytes: Int64[np.ndarray, " D"]
    nats: dict[str, Float64[np.ndarray, " D"]]

    def shared(self) -> "ByDocument":
        """Of the documents that all of these LLMs can read."""
        return self.take(np.flatnonzero(np.isfinite(np.stack(list(self.nats.values()))).all(0)))

    def take(self, rows: Int64[np.ndarray, " d"]) -> "ByDocument":
        ids, domains = ([column[row] for row in rows] for column in (self.ids, self.domains))
        return ByDocument(ids, domains, self.num_bytes[rows], {name: paid[rows] for name, paid in self.nats.items()})

    @property
    def alone(self) -> list[str]:
        """Domains of which there is one document, so that no interval says anything of others like it."""
        return [domain for domain, count in Counter(self.domains).items() if count == 1]

    def bits_per_byte(self, name: str) -> dict[str, float]:
        """By domain, in the order of their names."""
        of, paid = np.array(self.domains), self.nats[name]
        return {
            domain: math.fsum(paid[of == domain]) / (math.log(2) * int(self.num_bytes[of == domain].sum()))
            for domain in sorted(set(self.domains))
        }

    def over_all_bytes(self, name: str) -> float:
        """Bits per byte of all domains together, as validation counts while a target trains."""
        return math.fsum(self.nats[name]) / (math.log(2) * int(self.num_bytes.sum()))


def by_document(nats: Mapping[str, Mapping[str, float]], documents: Sequence[Document]) -> ByDocument:
    """Of named LLMs' nats by document id, in the order of these documents."""
    those = Documents.of(documents)
    ids, table = those.names, those.table
    domains = [table.domains[code] for code in table.domain_codes[those.rows]]
    paid = {name: np.array([mine.get(i, math.nan) for i in ids]) for name, mine in nats.items()}
    return ByDocument(ids, domains, those.num_bytes.astype(np.int64), paid)


def write_by_document(path: Path, scores: ByDocument) -> None:
    """A CSV file: `document`, `domain`, `bytes`, and the nats of each LLM under its name, to the last digit; none: empty."""
    nats = [["" if math.isnan(n) else repr(n) for n in paid.tolist()] for paid in scores.nats.values()]
    columns = [scores.ids, scores.domains, scores.num_bytes.tolist(), *nats]
    write_csv(path, [[*COLUMNS, *scores.nats], *zip(*columns, strict=True)])


def read_by_document(path: Path, rows: Mapping[str, Mapping[str, float]] | None = None) -> ByDocument:
    """The inverse; ValueError for a damaged file, FileNotFoundError where there is none.

    `rows` are bits per byte by the LLM's name and domain that must come out of it, over the documents that all can read.
    """
    with undamaged(path, SCORE_AGAIN), path.open(newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file)) or [[]]
        if header[: len(COLUMNS)] != COLUMNS or {len(line) for line in lines} != {len(header)}:
            raise EOFError(f"it is no table of documents with {', '.join(COLUMNS)} and the nats of each LLM")
        ids, domains, sizes, *nats = zip(*lines, strict=True)
        try:
            paid = {
                name: np.array([float(n) if n else math.nan for n in column])
                for name, column in zip(header[3:], nats, strict=True)
            }
            found = ByDocument(list(ids), list(domains), np.array(sizes, dtype=np.int64), paid)
        except ValueError as error:
            raise EOFError(f"it has what is no number: {error}") from error
        if rows is not None:
            _require_rows(found.shared(), rows)
        return found


def _require_rows(shared: ByDocument, rows: Mapping[str, Mapping[str, float]]) -> None:
    for name, bits in rows.items():
        its = shared.bits_per_byte(name)
        if not all(
            math.isclose(its.get(domain, math.nan), bits[domain], rel_tol=1e-6) for domain in bits.keys() - {"mean"}
        ):
            raise EOFError(
                f"of its {len(shared.ids)} documents {name!r} pays {its}, and results.json beside it says {dict(bits)}"
            )
