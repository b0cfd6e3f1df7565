"""What each kind of file gives, compared with what was written into it, byte for byte."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowfuse.text import formats
from knowfuse.text.findings import Findings
from knowfuse.text.formats import texts_in
from knowfuse.text.rows import TextRows

TEXTS = ["one\r\ntwo", "a\rb", "  indented\nand not", "caf\u00e9 \u2028 \u0085 \U0001f600", "last"]


def read(path: Path, *fields: str, named: bool = True) -> tuple[list[str], Findings]:
    findings = Findings()
    return list(texts_in(path, TextRows(list(fields) or ["text"], "corpus.text_field"), named, findings)), findings


def error(path: Path, *fields: str) -> str:
    findings = read(path, *fields)[1]
    with pytest.raises(ValueError, match="corpus file") as caught:
        findings.require_no_faults()
    return str(caught.value)


def packed(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data[:10]) + gzip.compress(data[10:])  # as `cat a.gz b.gz` makes them
    if suffix == ".zst":
        return b"".join(pa.compress(part, "zstd", asbytes=True) for part in (data[:10], data[10:]))
    return data


def write(path: Path, data: bytes | str, suffix: str = "") -> Path:
    path = path.with_name(path.name + suffix)
    path.write_bytes(packed(data.encode() if isinstance(data, str) else data, suffix))
    return path


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".GZ"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_texts_are_as_they_were_written(tmp_path: Path, suffix: str, mark: str) -> None:
    """Whatever ends their lines; of a byte order mark only the one at the start of the file is none of the text."""
    texts = [*TEXTS, "\ufeffinner mark"]
    suffix_made = suffix.lower()
    lines = "\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts)
    for name, content in {
        "unix.txt": "\n\n".join(texts) + "\n",
        "windows.txt": "\r\n\r\n".join(texts) + "\r\n",
        "mixed.txt": "\r\n \t\r\n\n".join(texts),
        "a.jsonl": lines,
        "b.jsonl": lines.replace("\n", "\r\n\r\n") + "\r\n",
    }.items():
        path = write(tmp_path / name, mark + content, suffix_made)
        path = path.rename(path.with_name(f"{name}{suffix}"))
        got, findings = read(path)
        assert got == texts, name
        findings.require_no_faults()
        assert not findings.skipped


@given(
    st.lists(st.lists(st.text(st.sampled_from("ab \u00e9\r"), min_size=1).filter(str.strip), min_size=1), min_size=1)
)
def test_texts_between_blank_lines(tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]]) -> None:
    """Whatever is no blank line is kept, to the byte; a carriage return at the end of a text's last line is its end."""
    path = tmp_path_factory.mktemp("txt") / "a.txt"
    path.write_bytes("\n\n".join("\n".join(lines) for lines in texts).encode() + b"\n")
    assert read(path)[0] == ["\n".join(lines).removesuffix("\r") for lines in texts]


def test_a_text_ends_before_the_end_of_its_line_alone(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.txt", "a \r\n\r\nb\t\n\n\x0c\nc\r"))[0] == ["a ", "b\t", "\x0c\nc\r"]


def test_rows_of_columns(tmp_path: Path) -> None:
    """Several row groups; kinds of text columns; nulls and empty cells are counted."""
    texts = [*TEXTS * 100, None, " "]
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()):
        table = pa.table({"body": pa.array(texts, kind), "n": list(range(len(texts)))})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=64)
        got, findings = read(tmp_path / "a.parquet", "body")
        assert got == TEXTS * 100
        assert findings.skipped == {"null": 1, "empty": 1}
        assert findings.first["null"].endswith("a.parquet', row 500")
    pq.write_table(pa.table({"q": ["why?", None], "a": ["so", "yes"]}), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet", "q", "a")[0] == ["why?\nso", "yes"]


def test_another_file_is_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies among code and is no text is counted and passed over."""
    assert read(write(tmp_path / "a.py", "\ufeffx = 1\r\n\r\n\n"), named=False)[0] == ["x = 1\r\n\r\n\n"]
    monkeypatch.setattr(formats, "LARGEST_WHOLE", 2**20)
    findings = Findings()
    for name, data in {
        "b.png": b"\x89PNG\0",
        "c.py": "caf\u00e9".encode("latin-1"),
        "__init__.py": b"",
        "d.log": b"x" * (2**20 + 1),
        "e.txt": b" \n",
        "f.jsonl": b"",
    }.items():
        assert list(texts_in(write(tmp_path / name, data), TextRows(["text"], "x"), False, findings)) == []
    findings.require_no_faults()
    assert findings.skipped == {"binary file": 1, "file that is not UTF-8": 1, "empty": 3, "file larger than 1 MiB": 1}


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_ten_bad_lines_are_told_at_once(tmp_path: Path, name: str, suffix: str) -> None:
    """With the byte of each in the unpacked file, a byte order mark counted; what is good is read."""
    good = "caf\u00e9" if name == "a.txt" else '{"text": "caf\u00e9"}'
    bad = b"caf\xe9" if name == "a.txt" else b'{"text": "caf\xe9"}'
    end = b"\r\n\r\n" if name == "a.txt" else b"\r\n"
    data = b"\xef\xbb\xbf" + end.join([good.encode(), bad] * 10)
    path = write(tmp_path / name, data, suffix)
    got, findings = read(path)
    assert len(got) == 10
    at = [n for n in range(len(data)) if data[n : n + 1] == b"\xe9"]
    lines = [4 * n + 3 for n in range(10)] if name == "a.txt" else [2 * n + 2 for n in range(10)]
    with pytest.raises(ValueError, match="10 places") as caught:
        findings.require_no_faults()
    assert str(caught.value).splitlines() == [
        "the text has 10 places that cannot be read",
        *(
            f"  corpus file {str(path)!r}, line {line}, is not UTF-8 (byte {byte})"
            for line, byte in zip(lines, at, strict=True)
        ),
        "convert it first, such as iconv -f LATIN1 -t UTF-8",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": ', r"line 2, is not JSON: Expecting value at column 11: mend it"),
        ("[" * 99_999, r"line 2, is not JSON: "),
        ('{"n": ' + "9" * 5000 + "}", r"line 2, is not JSON: "),
        ('["text"]', r"line 2, is no JSON object, but list: write an object a line"),
        ('{"body": "x"}', r"line 2 has no text field 'text', it has 'body': set corpus.text_field"),
        ('{"text": 3}', r"line 2 has no text in field 'text', but int 3: set corpus.text_field"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    assert message in error(write(tmp_path / "a.jsonl", f'{{"text": "x"}}\n{line}\n'))


def test_half_a_surrogate_pair_sets_its_line_aside(tmp_path: Path) -> None:
    lines = ['{"text": "a"}', '{"text": "b \\ud83d"}', '{"text": null}', '{"text": "\\ud83d\\ude00"}']
    got, findings = read(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert got == ["a", "\U0001f600"]
    assert findings.skipped == {"half a surrogate pair": 1, "null": 1}
    assert findings.first["half a surrogate pair"].endswith("a.jsonl', line 2")
    findings.require_no_faults()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"body": ["x"], "id": [1]},
            "has no column 'text', it has 'body', 'id': set corpus.text_field to a column of text",
        ),
        ({"text": pa.nulls(3)}, "has nothing but nulls in column 'text'"),
        ({"text": pa.array([None, None], pa.string())}, "is empty: it has no text in it (2 null)"),
        ({"text": [["a"], ["b"]]}, "has no text in column 'text', but list<"),
        ({"text": [1.5]}, "has no text in column 'text', but double"),
        ({"text": [b"x"]}, "has no text in column 'text', but binary"),
        ({"text": pa.array([], pa.string())}, "is empty: it has no text in it"),
    ],
)
def test_a_column_that_is_no_text(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert message in error(tmp_path / "a.parquet")


def cut_off(data: bytes) -> bytes:
    return data[: len(data) // 2]


def overwritten(data: bytes) -> bytes:
    return data[:20] + b"\xff" * 40 + data[60:]


@pytest.mark.parametrize("damage", [cut_off, overwritten])
@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.zst", "a.parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / name
    rows = [json.dumps({"text": f"{n * 7919 % 1000} some text that is packed"}) for n in range(300)]
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": rows}), path, compression="zstd")
    else:
        path.write_bytes(packed("\n".join(rows).encode(), path.suffix))
    path.write_bytes(damage(path.read_bytes()))
    assert "is cut off or damaged (" in error(path)
    assert "make or fetch it again" in error(path)


def test_a_file_that_is_not_what_its_name_says(tmp_path: Path) -> None:
    for name in ("a.txt.gz", "a.jsonl.zst", "a.parquet"):
        assert "is cut off or damaged" in error(write(tmp_path / name, "plain text\n\nof two paragraphs"))
    assert "is a packed Parquet file: unpack it" in error(write(tmp_path / "a.parquet", "x", ".gz"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("content", ["", "\n\n \r\n\n", "\ufeff"])
def test_an_empty_file_that_was_named(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path / Path(name).with_suffix("").name, content, ".gz") if name.endswith("gz") else None
    path = path or write(tmp_path / name.removesuffix(".zst"), content, ".zst" if name.endswith("zst") else "")
    assert f"corpus file {str(path)!r} is empty: it has no text in it" in error(path)
