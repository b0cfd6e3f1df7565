"""How does an exported folder become a GGUF file? By llama.cpp's own converter, where it is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

CONVERTER = "convert_hf_to_gguf.py"
KINDS = ("f32", "f16", "bf16", "q8_0")  # of its --outtype; llama-quantize makes the others of one of these


def require_converter(kind: str, converter: str | None) -> Path:
    """Where the converter is: the one that is named, or that of PATH. ValueError where there is none, and for another kind."""
    if kind not in KINDS:
        raise ValueError(
            f"gguf is {kind!r}: choose one of {list(KINDS)}; llama-quantize of llama.cpp makes others of bf16"
        )
    found = shutil.which(CONVERTER, mode=os.R_OK) if converter is None else converter
    if found is None or not Path(found).expanduser().is_file():
        looked = "PATH" if converter is None else repr(converter)
        raise ValueError(
            f"gguf={kind} is made by llama.cpp's {CONVERTER}, and it is not in {looked}: git clone "
            f"https://github.com/ggml-org/llama.cpp, pip install gguf, and set converter=llama.cpp/{CONVERTER}; or leave gguf out"
        )
    return Path(found).expanduser()


def convert(converter: Path, folder: Path, kind: str, name: str) -> None:
    """Add `<name>-<kind>.gguf` to a folder of transformers. ValueError with the last line that the converter wrote, where it fails."""
    made = folder / f"{name}-{kind}.gguf"
    command = [sys.executable, str(converter), str(folder), "--outfile", str(made), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not made.is_file():
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["it wrote no file"]
        raise ValueError(
            f"{str(converter)!r} made no GGUF file of the target ({said[-1].strip()}): leave gguf out, and convert the folder with "
            "a llama.cpp that knows its architecture"
        )
