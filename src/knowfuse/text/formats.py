"""Which texts, or conversations, does one file hold? `.txt`, `.jsonl`, `.parquet`, and any other as one text; bytes as they are."""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from knowfuse.text.conversations import WANTED
from knowfuse.text.document import Conversation
from knowfuse.text.findings import EMPTY, Findings
from knowfuse.text.rows import Rows, TextRows
from knowfuse.text.unpacked import DAMAGED, opened, suffix_of

LARGEST_WHOLE = 2**24  # bytes of a file that is read as one text: a larger one is data, not what somebody wrote
ROWS = 1024  # of a Parquet file, held at a time
BLANK = b" \t\r\n"  # what a blank line may hold
CONVERT = "convert it first, such as iconv -f LATIN1 -t UTF-8"

Texts = Iterator[str | Conversation]


def texts_in(path: Path, rows: Rows, is_named: bool, findings: Findings) -> Texts:
    """The texts of a file, in its order, holding one of them at a time (of Parquet, ROWS rows).

    A `.txt` file holds texts between blank lines; a `.jsonl` file an object a line and a `.parquet` file a row, of which
    `rows` makes something; any other is one text. `is_named` says that the user wrote its name and no pattern that it
    fits: then it must hold text.
    """
    place = f"corpus file {str(path)!r}"
    count = 0
    faults, skipped = findings.num_faults(), findings.skipped.copy()
    with findings.one_place():
        try:
            read = FORMATS.get(suffix_of(path), _whole)
            if rows.holds != "text" and read not in (_jsonl, _parquet):
                findings.fault(place, "is a text, not a file of conversations", "give .jsonl or .parquet files")
                return
            for text in read(path, place, rows, findings):
                count += 1
                yield text
        except DAMAGED as error:
            is_damaged = getattr(error, "errno", None) is None  # or the system would not let us read it
            what = "is cut off or damaged" if is_damaged else "cannot be read"
            findings.fault(place, f"{what} ({type(error).__name__}: {error})", "make or fetch it again")
    if count or findings.num_faults() > faults:
        return
    if is_named:
        left_out = ", ".join(f"{n:,} {reason}" for reason, n in (findings.skipped - skipped).items())
        what = f"is empty: it has no {rows.holds} in it{f' ({left_out})' if left_out else ''}"
        findings.fault(place, what, "leave it out of corpus.files, or give it text")
    elif findings.skipped == skipped:
        findings.skip(EMPTY, place)


def _txt(path: Path, place: str, rows: Rows, findings: Findings) -> Texts:
    """Documents between blank lines; the end of the last line is not part of one, every other byte is."""
    with opened(path) as file:
        for number, start, data in _paragraphs(file):
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                line = number + data.count(b"\n", 0, error.start)
                what = f"is not UTF-8 (byte {start + error.start})"
                findings.fault(f"{place}, line {line},", what, CONVERT, place)
                continue
            if text.isspace():  # of the kinds that ASCII does not have
                findings.skip(EMPTY, f"{place}, line {number}")
            else:
                yield text


def _paragraphs(file: Iterable[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Runs of lines that are not blank: the number of the first line, its byte in the file, and the bytes."""
    held: list[bytes] = []
    first = start = at = 0
    for number, line in enumerate(file, 1):
        if number == 1 and line.startswith(codecs.BOM_UTF8):  # editors of Windows begin a file with it
            at, line = len(codecs.BOM_UTF8), line[len(codecs.BOM_UTF8) :]
        if line.strip(BLANK):
            if not held:
                first, start = number, at
            held.append(line)
        elif held:
            yield first, start, _without_end(b"".join(held))
            held = []
        at += len(line)
    if held:
        yield first, start, _without_end(b"".join(held))


def _without_end(data: bytes) -> bytes:
    return data.removesuffix(b"\n").removesuffix(b"\r") if data.endswith(b"\n") else data


def _jsonl(path: Path, place: str, rows: Rows, findings: Findings) -> Texts:
    """A JSON object a line. Lines end at newlines alone; blank ones are passed over."""
    place = f"{place}, line"
    loads = json.JSONDecoder().decode
    start = 0
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            data = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not data.isspace() and data:
                try:
                    record = loads(data.decode())
                except UnicodeDecodeError as error:
                    byte = start + len(line) - len(data) + error.start
                    findings.fault(f"{place} {number},", f"is not UTF-8 (byte {byte})", CONVERT, place)
                except (ValueError, RecursionError) as error:
                    said = (
                        f"{error.msg} at column {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
                    )
                    remedy = "mend it, or remove that line"
                    findings.fault(f"{place} {number},", f"is not JSON: {said}", remedy, place)
                else:
                    text = _of_line(record, rows, place, number, findings)
                    if text is not None:
                        yield text
            start += len(line)


def _of_line(record: object, rows: Rows, place: str, number: int, findings: Findings) -> str | Conversation | None:
    if isinstance(record, dict):
        return rows.of(record, place, number, findings)
    findings.fault(
        f"{place} {number},", f"is no JSON object, but {type(record).__name__}", "write an object a line", place
    )
    return None


def _parquet(path: Path, place: str, rows: Rows, findings: Findings) -> Texts:
    """A row a text, of which some columns are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() != ".parquet":
        findings.fault(place, "is a packed Parquet file", "unpack it: Parquet packs its columns itself")
        return
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            if not _has_rows(file.schema_arrow, rows, place, findings):
                return
            for batch in file.iter_batches(ROWS, columns=rows.columns(file.schema_arrow.names)):
                for record in batch.to_pylist():
                    text = rows.of(record, f"{place}, row", row, findings)
                    row += 1
                    if text is not None:
                        yield text
    except UnicodeDecodeError as error:
        findings.fault(f"{place}, among the {ROWS} rows from {row}", f"is not UTF-8 ({error})", "write it as UTF-8")
    except pa.ArrowException as error:
        raise EOFError(str(error)) from error


def _has_rows(schema, rows: Rows, place: str, findings: Findings) -> bool:
    """Whether a table has the columns that are read, of text where a text is made of them; a fault for each it has not."""
    if isinstance(rows, TextRows):
        return _are_texts(schema, rows, place, findings)
    if rows.columns(schema.names):
        return True
    what = f"has no conversations: its columns are {', '.join(map(repr, schema.names))}, wanted are {WANTED}"
    findings.fault(place, what, f"name the columns {WANTED}")
    return False


def _are_texts(schema, rows: TextRows, place: str, findings: Findings) -> bool:
    import pyarrow as pa

    remedy = "set corpus.text_field to a column of text"
    before = findings.num_faults()
    for field in rows.fields:
        if field not in schema.names:
            findings.fault(place, f"has no column {field!r}, it has {', '.join(map(repr, schema.names))}", remedy)
            continue
        kind = schema.field(field).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_null(kind):
            findings.fault(place, f"has nothing but nulls in column {field!r}", remedy)
        elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            findings.fault(place, f"has no text in column {field!r}, but {kind}", remedy)
    return findings.num_faults() == before


def _whole(path: Path, place: str, rows: Rows, findings: Findings) -> Texts:
    """One text; a file that is none, such as a picture that lies among code, is counted and passed over."""
    with opened(path) as file:
        data = file.read(LARGEST_WHOLE + 1).removeprefix(codecs.BOM_UTF8)
    if len(data) > LARGEST_WHOLE:
        findings.skip(f"file larger than {LARGEST_WHOLE // 2**20} MiB", place)
    elif b"\0" in data:
        findings.skip("binary file", place)
    else:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            findings.skip("file that is not UTF-8", place)
        else:
            if text and not text.isspace():
                yield text
            else:
                findings.skip(EMPTY, place)


FORMATS: dict[str, Callable[[Path, str, Rows, Findings], Texts]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
