"""Which real text does every machine with the requirements have? The quickstart's three domains."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from knowfuse.text.corpus import Corpus, Texts, build_corpus
from knowfuse.text.document import RawDocument, Split

PROSE_PACKAGES = ("torch", "numpy", "sympy")
SKIPPED_FOLDERS = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "__pycache__", "testing"}


def quickstart_corpus(
    max_document_bytes: int,
    bytes_per_domain: int,
    fusion_bytes: int,
    validation_bytes: int,
    test_bytes: int,
    cache: str,
) -> Corpus:
    """Real text that every machine with the requirements has, in three domains.

    `code`: the standard library's source without its docstrings; `docs`: `pydoc_data.topics` and the standard
    library's docstrings; `prose`: the docstrings of torch, numpy and sympy. Each has `fusion_bytes` on its `fusion`
    side, `validation_bytes` and `test_bytes` on those, and the rest of `bytes_per_domain` on `sources`. Cached
    under `cache`, keyed by what made it.
    """
    quotas: dict[Split, int] = {"test": test_bytes, "validation": validation_bytes, "fusion": fusion_bytes}
    texts = _Quickstart(bytes_per_domain, quotas)
    corpus = build_corpus("quickstart", texts, {}, max_document_bytes, Path(cache))
    return corpus.require({"sources": 1, "fusion": 1, "validation": 1, "test": 1})


class _Quickstart(Texts):
    """The texts of all domains, each on the side that its quota fills; they are those of these versions of the packages."""

    def __init__(self, bytes_per_domain: int, quotas: dict[Split, int]) -> None:
        super().__init__()
        self.bytes_per_domain, self.quotas = bytes_per_domain, quotas

    @property
    def key(self) -> str:
        settings = [self.bytes_per_domain, self.quotas, sys.version]
        settings += [importlib.metadata.version(name) for name in PROSE_PACKAGES]
        return hashlib.sha256(json.dumps(["quickstart", *settings]).encode()).hexdigest()

    def __iter__(self) -> Iterator[RawDocument]:
        for domain, texts in _collect_quickstart(self.bytes_per_domain).items():
            chosen = sorted({t for t in texts if len(t) >= 100}, key=_digest)
            for split, side in _fill(chosen, self.quotas, self.bytes_per_domain).items():
                yield from (RawDocument(text, domain, split) for text in side)


def _collect_quickstart(bytes_per_domain: int) -> dict[str, list[str]]:
    """At least so much text of each domain, where there is so much."""
    library = _modules(_python_files(Path(sysconfig.get_paths()["stdlib"])))
    packages = _modules([path for name in PROSE_PACKAGES for path in _python_files(_package_folder(name))])
    code: list[str] = []
    docs = _topics()
    for module in library:
        code += module.definitions
        docs += module.docstrings
        if _size(code) >= bytes_per_domain and _size(docs) >= bytes_per_domain:
            break
    prose: list[str] = []
    for module in packages:
        prose += module.docstrings
        if _size(prose) >= bytes_per_domain:
            break
    return {"code": code, "docs": docs, "prose": prose}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _size(texts: list[str]) -> int:
    return sum(map(len, texts))


def _fill(texts: list[str], quotas: dict[Split, int], total: int) -> dict[Split, list[str]]:
    """Whole documents in the order of their hashes: each side takes what fills its quota, `sources` the rest."""
    sides: dict[Split, list[str]] = {}
    remaining = iter(texts)
    for split, quota in [*quotas.items(), ("sources", total - sum(quotas.values()))]:
        side: list[str] = []
        filled = 0
        while filled < quota and (text := next(remaining, None)) is not None:
            side.append(text)
            filled += len(text)
        sides[split] = side
    return sides


def _topics() -> list[str]:
    from pydoc_data.topics import topics

    return list(topics.values())


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the quickstart reads the docstrings of {name!r}, which is not installed: pip install -r requirements.txt"
        )
    return Path(spec.origin).parent


def _python_files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*.py") if not SKIPPED_FOLDERS & set(p.relative_to(root).parts[:-1]))


@dataclass
class _Module:
    definitions: list[str]  # top-level functions and classes, docstrings left out
    docstrings: list[str]


def _modules(paths: list[Path]) -> Iterator[_Module]:
    """The modules that parse, in an order that does not depend on their names."""
    for path in sorted(paths, key=lambda p: _digest(p.name)):
        source = path.read_text(encoding="utf-8", errors="ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        lines, docstrings = source.splitlines(keepends=True), []
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if text := ast.get_docstring(node):
                docstrings.append(text)
                for n in range(node.body[0].lineno - 1, node.body[0].end_lineno or 0):
                    lines[n] = ""
        tops = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        yield _Module(["".join(lines[n.lineno - 1 : n.end_lineno]) for n in tops], docstrings)
