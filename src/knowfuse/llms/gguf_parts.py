"""Which files is a GGUF file made of, and how do they become one?

Two kinds of parts are served: the files of llama.cpp's gguf-split, each a GGUF file with some of the tensors, whose names
end in `-00001-of-00003.gguf`; and one file's bytes in pieces, in the order in which they are listed.
"""

import mmap
import os
import re
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, where a file does not say
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_NAME = re.compile(r"(?P<start>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def part_names(gguf_file: str | Sequence[str]) -> list[str]:
    """The files of a spec's `gguf_file`; of one that gguf-split named, the first or any other, all."""
    if not isinstance(gguf_file, str):
        return list(gguf_file)
    if not (found := _NAME.fullmatch(gguf_file)):
        return [gguf_file]
    count = int(found["count"])
    return [f"{found['start']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def stem(names: Sequence[str]) -> str:
    """What the files together are called."""
    name = Path(names[0]).name
    return found["start"] if (found := _NAME.fullmatch(name)) else name.partition(".gguf")[0]


def join(parts: Sequence[Path], whole: Path) -> None:
    """Write the parts as one GGUF file, the tensors' bytes and the settings of the first as they are.

    ValueError where a part is missing, twice there or cut off, or where the files are of neither kind.
    """
    starts = [_starts_a_file(part) for part in parts]
    if starts[0] and not any(starts[1:]):
        _join_pieces(parts, whole)
    elif all(starts):
        _join_splits(parts, whole)
    else:
        wrong = parts[starts.index(False)]
        raise ValueError(
            f"{wrong.name!r} does not begin as a GGUF file does: list the files of gguf-split, or the pieces of one file, the "
            "first of them first"
        )


def require_whole(path: Path) -> None:
    """ValueError for a file that says it is one part of several, or whose head is not that of a GGUF file."""
    header = _read_header(path)
    if header.settings.get("split.count", 1) > 1:
        raise ValueError(_missing([path], [header]))


@dataclass(frozen=True)
class _Header:
    """What stands before the data of a GGUF file; places are in bytes from its start."""

    version: int
    settings: dict[str, int]  # those that are whole numbers
    num_settings: int
    settings_end: int
    tensors: list[tuple[bytes, int]]  # what the table says of each up to its offset, and the offset into the data
    data_start: int

    @property
    def alignment(self) -> int:
        return self.settings.get("general.alignment", ALIGNMENT)


def _starts_a_file(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _join_pieces(parts: Sequence[Path], whole: Path) -> None:
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, out)


def _join_splits(parts: Sequence[Path], whole: Path) -> None:
    headers = [_read_header(part) for part in parts]
    if [h.settings.get("split.no") for h in headers] != list(range(headers[0].settings.get("split.count", 0))):
        raise ValueError(_missing(parts, headers))
    first = headers[0]
    align = first.alignment
    sizes = [_up(part.stat().st_size - h.data_start, align) for part, h in zip(parts, headers, strict=True)]
    before = [sum(sizes[:n]) for n in range(len(sizes))]
    table = b"".join(
        entry + struct.pack("<Q", start + offset)
        for h, start in zip(headers, before, strict=True)
        for entry, offset in h.tensors
    )
    with whole.open("wb") as out:
        out.write(MAGIC + struct.pack("<IQQ", first.version, sum(len(h.tensors) for h in headers), first.num_settings))
        with parts[0].open("rb") as file:
            file.seek(24)
            out.write(file.read(first.settings_end - 24))
        out.write(table)
        out.seek(_up(out.tell(), align))
        start = out.tell()
        for part, header, skipped in zip(parts, headers, before, strict=True):
            out.seek(start + skipped)
            with part.open("rb") as file:
                file.seek(header.data_start)
                shutil.copyfileobj(file, out)
        out.truncate(start + sum(sizes))


def _missing(parts: Sequence[Path], headers: Sequence[_Header]) -> str:
    """What is wrong with files of gguf-split that are not all of one."""
    count = headers[0].settings.get("split.count", 1)
    there = [h.settings.get("split.no", 0) for h in headers]
    missing = [n + 1 for n in range(count) if n not in there]
    name = parts[0].name
    if (found := _NAME.fullmatch(name)) and missing:
        name = f"{found['start']}-{missing[0]:05d}-of-{count:05d}.gguf"
    names = ", ".join(part.name for part in parts)
    if missing:
        return f"part {missing[0]} of {count} ({name}) is not among {names}: list all of them, in order, as its `gguf_file:`"
    return f"{names} are parts {', '.join(str(n + 1) for n in there)} of {count}: list each once, in order"


def _up(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment


def _read_header(path: Path) -> _Header:
    """ValueError for a file that is no GGUF file, or that ends within its header."""
    if os.path.getsize(path) == 0 or not _starts_a_file(path):
        raise ValueError(f"{path.name!r} does not begin as a GGUF file does")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _parsed(data)
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name!r} is cut off within its header ({error})") from error


def _parsed(data: mmap.mmap) -> _Header:
    version, num_tensors, num_settings = struct.unpack_from("<IQQ", data, 4)
    if version not in VERSIONS:
        raise ValueError(f"it is a GGUF file of version {version}, not {' or '.join(map(str, VERSIONS))}")
    place, settings = 24, {}
    for _ in range(num_settings):
        key, place = _string(data, place)
        kind = struct.unpack_from("<I", data, place)[0]
        if kind in _FORMATS and isinstance(value := struct.unpack_from(_FORMATS[kind], data, place + 4)[0], int):
            settings[key.decode()] = value
        place = _after(data, place + 4, kind)
    settings_end, tensors = place, []
    for _ in range(num_tensors):
        start = place
        _, place = _string(data, place)
        place += 4 + 8 * struct.unpack_from("<I", data, place)[0] + 4  # dimensions and the kind of block
        tensors.append((data[start:place], struct.unpack_from("<Q", data, place)[0]))
        place += 8
    alignment = settings.get("general.alignment", ALIGNMENT)
    return _Header(version, settings, num_settings, settings_end, tensors, _up(place, alignment))


def _string(data: mmap.mmap, place: int) -> tuple[bytes, int]:
    """The text that lies there, and where it ends."""
    end = place + 8 + struct.unpack_from("<Q", data, place)[0]
    if end > len(data):
        raise IndexError(f"a text would end at byte {end} of {len(data)}")
    return data[place + 8 : end], end


def _after(data: mmap.mmap, place: int, kind: int) -> int:
    """Where the value of this kind that begins there ends."""
    if kind == _STRING:
        return _string(data, place)[1]
    if kind == _ARRAY:
        inner, count = struct.unpack_from("<IQ", data, place)
        place += 12
        if inner in _FORMATS:
            return place + count * struct.calcsize(_FORMATS[inner])
        for _ in range(count):
            place = _after(data, place, inner)
        return place
    if kind not in _FORMATS:
        raise ValueError(f"it holds a value of kind {kind}, which GGUF does not have")
    return place + struct.calcsize(_FORMATS[kind])
