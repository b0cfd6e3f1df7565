"""Traces that leave a store: those of the documents that are asked for, and a stranger reads them by the code on their card."""

import re
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from experiments_for_tests import documents, trace_store
from huggingface_hub import DatasetCard
from tokenizers_for_tests import random_trace, surface

from knowfuse.export.trace_card import trace_card
from knowfuse.text.documents import Documents
from knowfuse.traces.copied import copy_documents
from knowfuse.traces.drawing import drawn_trace
from knowfuse.traces.manifest import TraceKey
from knowfuse.traces.store import TraceStore
from knowfuse.types import LLMSpec, TokenizedDocument

TEXTS = documents(12)
NAMES = Documents.of(TEXTS).names
SETTINGS = {"top_k": 8, "corpus": {"files": {"code": ["/home/me/code.txt"]}, "datasets": {"web": {"path": "org/web"}}}}
# Numpy alone: knowfuse, safetensors and torch cannot be imported.
STRANGER = "import sys\nsys.modules |= dict.fromkeys(('knowfuse', 'safetensors', 'torch'))\n"


def drawn_store(folder: Path) -> TraceStore:
    """Five draws a row of three ids, of documents whose tokens are those of `trace_store`."""
    store, random = (
        TraceStore(folder, TraceKey("neox", "random", "neox", top_k=3, kept="sampled")),
        np.random.default_rng(0),
    )
    traces = {}
    for n, text in enumerate(TEXTS):
        said = random_trace(surface("neox"), text.text, 3, seed=n)
        draws = random.multinomial(5, [0.5, 0.5, 0.0], len(said.ends))
        others = (np.append(said.input_ids[1:], 0)[:, None] + [1, 2, 3]) % surface("neox").vocabulary_size
        traces[text.id] = drawn_trace(TokenizedDocument(said.input_ids, said.ends), others, draws, said.nll)
    store.write(traces)
    return store


@pytest.mark.parametrize("kept", ["topk", "sampled"])
def test_a_stranger_reads_them_with_numpy_alone(tmp_path: Path, kept: str) -> None:
    """By the code on the card, letter for letter; nats and log-probabilities to the last digit of float32."""
    store = trace_store(tmp_path / "all", "neox", TEXTS) if kept == "topk" else drawn_store(tmp_path / "all")
    out = tmp_path / "out"
    copied = copy_documents(store, NAMES, out / store.key.folder_name)
    card = trace_card(SETTINGS, {"neox": LLMSpec(path="org/neox")}, {"neox": (store, copied)})
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    script = f"{STRANGER}{code}    np.savez(document, input_ids, ends, nll, kept, log_probs)\n"
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == NAMES
    for name in NAMES:
        said, read = store.read(name), np.load(out / f"{name}.npz")
        input_ids, ends, nll, ids, log_probs = (read[key] for key in read.files)
        assert np.array_equal(input_ids, said.input_ids)
        assert np.array_equal(ends, said.ends)
        np.testing.assert_allclose(nll, said.nll, rtol=2e-7, atol=0)
        slots = slice(0, None) if kept == "topk" else slice(1, None)  # knowfuse puts the true next token first
        assert np.array_equal(ids, said.topk.ids[:, slots])
        np.testing.assert_allclose(log_probs, said.topk.log_probs[:, slots], rtol=1e-6, atol=1e-7)
        assert np.isfinite(log_probs[:-1]).any(1).all()


def test_only_the_documents_that_are_asked_for_are_copied_as_they_are_coded(tmp_path: Path) -> None:
    """Of shards of several layouts; a document that the source could not read stays named."""
    store = TraceStore(tmp_path / "all", TraceKey("neox", "random", "neox", top_k=8))
    for n, text in enumerate(TEXTS[:6]):
        said = random_trace(surface("neox"), text.text * (1 + n % 2 * 3), 8, seed=n)
        store.write({text.id: said})
    store.put_aside({NAMES[6]: "too long", NAMES[7]: "other"})
    wanted = [*NAMES[:5], NAMES[6]]
    copied = copy_documents(store, wanted, tmp_path / "copy")
    copy = TraceStore(tmp_path / "copy", store.key)
    assert not copy.missing(Documents.of(TEXTS[:5]).ids).any()
    assert copy.missing(Documents.of(TEXTS[5:6]).ids).all()
    assert copy.set_aside == {NAMES[6]: "too long"}
    for name in wanted[:5]:
        (rows, layout), (its, layout_there) = copy.coded(name), store.coded(name)
        assert np.array_equal(rows, its)
        assert layout == layout_there
    rows = [store.coded(name)[0] for name in wanted[:5]]
    assert astuple(copied) == (5, sum(map(len, rows)), sum(its.nbytes for its in rows), 1)
    with pytest.raises(KeyError):
        copy_documents(store, NAMES[8:], tmp_path / "other")


def test_the_card_says_what_is_there(tmp_path: Path) -> None:
    store = trace_store(tmp_path / "all", "neox", TEXTS)
    copied = copy_documents(store, NAMES[:3], tmp_path / "copy")
    card = DatasetCard(trace_card(SETTINGS, {"neox": LLMSpec(path="org/neox")}, {"neox": (store, copied)}))
    assert card.data.get("source_datasets") == ["org/web"]
    tokens = sum(len(store.read(name).ends) for name in NAMES[:3])
    row = f"| neox | `{store.key.folder_name}` | 3 | 0 | {tokens:,} | 8 | bits-1 | {copied.num_bytes / tokens:.1f} |"
    assert row in card.text
    assert "- source neox: org/neox says no licence" in card.text
    assert "- code.txt" in card.text
    assert "/home/me" not in card.text
