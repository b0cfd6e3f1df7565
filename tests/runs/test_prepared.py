"""Corpus, LLMs and traces are made once, whatever is added, killed or asked for twice."""

import errno
import multiprocessing
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from experiments_for_tests import TRACING, documents, forward_passes, local_llm, started_by_torchrun
from models_for_tests import tiny_llm
from tokenizers import normalizers
from tokenizers_for_tests import neox

from knowfuse.files import written_through
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.ranks import Ranks
from knowfuse.runs.prepared import Prepared, prepare
from knowfuse.text.corpus import Corpus
from knowfuse.text.document import Document
from knowfuse.text.documents import Documents
from knowfuse.traces.tracing import read_documents, share_of
from knowfuse.types import LLMSpec

TEXTS = documents(24)


def corpus(fusion: list[Document]) -> Corpus:
    return Corpus.of("tiny", [*fusion, *documents(3, "validation")])


@pytest.fixture(scope="module")
def llms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LocalLLM]:
    folder = tmp_path_factory.mktemp("llms")
    return {name: local_llm(folder / name, name) for name in ("llama", "mpt")}


def make(
    llms: dict[str, LocalLLM], cache: Path, fusion: list[Document] = TEXTS, top_k: int = 5, **tracing: Any
) -> Prepared:
    specs = {name: llm.spec for name, llm in llms.items()}
    return prepare(corpus(fusion), next(iter(specs.values())), specs, top_k, cache, replace(TRACING, **tracing))


@pytest.mark.parametrize(("bits", "share"), [("8bit", 0.05), ("4bit", 0.5)])
def test_a_quantised_source_is_traced(tmp_path: Path, bits: Any, share: float) -> None:
    """Nats against the same LLM in float32, as a share of what another LLM's differ (1.9 nats): random weights amplify, and
    were measured at 0.03 and 0.32. Its traces are its own, and found again without a forward pass."""
    whole, other = local_llm(tmp_path / "llm", width=64), local_llm(tmp_path / "other" / "llm", width=64, seed=5)
    llm = localize("llm", replace(whole.spec, quantization=bits))
    assert llm.fingerprint != whole.fingerprint

    def nats(source: LocalLLM) -> np.ndarray:
        store = read_documents(source, source.surface(), TEXTS, 5, tmp_path, TRACING)
        return np.concatenate([store.read(d.id).nll[:-1] for d in TEXTS])

    want = nats(whole)
    assert 0 < np.abs(nats(llm) - want).mean() < share * np.abs(nats(other) - want).mean()
    with forward_passes() as passes:
        nats(llm)
    assert not passes


def test_a_4_bit_source_says_what_its_own_weights_say(tmp_path: Path) -> None:
    """Against a plain LLM in float32 of the weights that the 4 bits stand for: 1e-4 of log-probabilities of a few nats."""
    whole = local_llm(tmp_path / "llm", width=64)
    llm = localize("llm", replace(whole.spec, quantization="4bit"))
    plain = whole.load()
    for name, layer in llm.load().named_modules():
        if isinstance(layer, Linear4bit):
            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            plain.get_submodule(name).weight.data.copy_(weight)  # type: ignore[operator, union-attr]
    plain.save_pretrained(tmp_path / "llm")
    same = localize("llm", whole.spec)
    one, its = (read_documents(x, x.surface(), TEXTS, 5, tmp_path, TRACING) for x in (llm, same))
    for trace, want in ((one.read(d.id), its.read(d.id)) for d in TEXTS):
        np.testing.assert_allclose(trace.topk.log_probs, want.topk.log_probs, rtol=0.0, atol=1e-4)
        np.testing.assert_allclose(trace.nll, want.nll, rtol=0.0, atol=1e-4)


def normalising_llm(folder: Path, normalizer: normalizers.Normalizer) -> LocalLLM:
    """A tiny LLM whose byte-level tokenizer changes a text before it cuts it."""
    llm = local_llm(folder, "mpt")
    tokenizer = neox()
    tokenizer.backend_tokenizer.normalizer = normalizer
    tokenizer.save_pretrained(folder)
    return localize(folder.name, llm.spec)


def shards(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}


def test_everything_is_made_once(llms: dict[str, LocalLLM], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second call runs no LLM, touches no shard and says so; a target equal to a source is that source."""
    prepared = make(llms, tmp_path)
    assert prepared.target is prepared.sources["llama"].llm
    for source in prepared.sources.values():
        source.store.require(Documents.of(TEXTS).ids)
        assert source.store.read(TEXTS[0].id).topk.ids.shape[-1] == 5
    before = shards(tmp_path)
    assert len(before) == 2
    with forward_passes() as passes:
        make(llms, tmp_path)
    assert not passes
    assert shards(tmp_path) == before
    said = capsys.readouterr().out
    assert "traces llama: read before" in said
    assert "traces mpt: read before" in said


@pytest.mark.parametrize("verify", ["when_read", "now"])
def test_filled_caches_need_no_lock(
    llms: dict[str, LocalLLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: str
) -> None:
    """They may be on a read-only file system; documents that a source cannot hold are known too."""
    some = [*TEXTS, Document("word after word " * 200, "code", "fusion")]
    make(llms, tmp_path, some)
    monkeypatch.setattr("knowfuse.traces.tracing.lock_file", None)
    make(llms, tmp_path, some, verify=verify).sources["mpt"].store.require(Documents.of(some).ids)
    with pytest.raises(TypeError, match="not callable"):
        make(llms, tmp_path / "empty", some)


@pytest.mark.parametrize("place", ["/proc/traces", "taken", "file://{folder}/taken"])
def test_a_place_that_takes_no_traces_is_refused_before_a_source_reads(
    llms: dict[str, LocalLLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    place = place.format(folder=tmp_path)
    with (
        forward_passes() as passes,
        pytest.raises(OSError, match=rf"source 'llama' to '{place}/llama-.*\): set another folder$"),
    ):
        make(llms, tmp_path / "cache", place=place)
    assert not passes


def test_duplicates_are_said(llms: dict[str, LocalLLM], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, more = llms["mpt"].spec, Corpus.of("tiny", corpus(TEXTS).documents, duplicates=7)
    prepare(more, spec, {}, 5, tmp_path, TRACING)
    assert "corpus tiny: 27 documents, domains code; left out: 7 duplicates" in capsys.readouterr().out


def test_text_that_the_target_cannot_learn_is_refused_before_a_source_reads_it(
    llms: dict[str, LocalLLM], tmp_path: Path
) -> None:
    def refuse(prepared: Prepared) -> None:
        assert not prepared.sources
        raise ValueError("no block")

    specs = {name: llm.spec for name, llm in llms.items()}
    with forward_passes() as passes, pytest.raises(ValueError, match="no block"):
        prepare(corpus(TEXTS), specs["mpt"], specs, 5, tmp_path, TRACING, require_blocks=refuse)
    assert not passes


def test_another_source_leaves_the_first_alone(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    make({"llama": llms["llama"]}, tmp_path)
    before = shards(tmp_path)
    with forward_passes() as passes:
        make(llms, tmp_path)
    assert {type(llm).__name__ for llm in passes} == {"MptModel"}
    assert before.items() < shards(tmp_path).items()


def test_more_documents_leave_the_first_alone(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    """Only the new ones are read, into a shard of their own; they are the same as if read together."""
    make(llms, tmp_path / "grown", TEXTS[:20])
    before = shards(tmp_path / "grown")
    grown = make(llms, tmp_path / "grown")
    after = shards(tmp_path / "grown")
    assert before.items() < after.items()
    assert len(after) == 4
    whole = make(llms, tmp_path / "whole")
    for name, source in grown.sources.items():
        for document in TEXTS:
            one, other = source.store.read(document.id), whole.sources[name].store.read(document.id)
            assert one.input_ids.tolist() == other.input_ids.tolist()
            # Another batch has other shapes of matrix products: float32.
            assert one.nll == pytest.approx(other.nll, rel=1e-4, abs=1e-5)


def test_another_k_is_another_store(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    one, other = make(llms, tmp_path), make(llms, tmp_path, top_k=7)
    assert one.sources["mpt"].store.folder != other.sources["mpt"].store.folder


PROBES = 2  # forward passes that ask an LLM whether it is causal, and what its head does
SMALL: dict[str, Any] = {"batch_tokens": 150, "shard_tokens": 100}  # every batch is a shard


def test_a_source_killed_half_way_goes_on(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    """Three batches of small shards are kept; the second call reads the rest, and all documents are there."""
    one = {"llama": llms["llama"]}
    with forward_passes() as all_of_them:
        whole = make(one, tmp_path / "whole", **SMALL)
    with pytest.raises(KeyboardInterrupt), forward_passes(stop=PROBES + 3):
        make(one, tmp_path / "cache", **SMALL)
    kept = shards(tmp_path / "cache")
    assert 0 < len(kept) <= 3 < len(all_of_them)
    with forward_passes() as rest:
        resumed = make(one, tmp_path / "cache", **SMALL)
    assert PROBES < len(rest) <= len(all_of_them) - len(kept)
    assert kept.items() < shards(tmp_path / "cache").items()
    for document in TEXTS:
        its, want = (p.sources["llama"].store.read(document.id) for p in (resumed, whole))
        assert its.nll == pytest.approx(
            want.nll, rel=1e-4, abs=1.1e-3
        )  # batches of other shapes: one step of the codec


def test_a_disk_that_fills_up_while_tracing(
    llms: dict[str, LocalLLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third shard cannot be written: the error of the writing thread ends the forward passes, two shards are kept."""
    one = {"llama": llms["llama"]}

    def full(path: Path, write: Callable[[BinaryIO], object]) -> AbstractContextManager[None]:
        if path.name.startswith("shard-00002"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return written_through(path, write)

    with monkeypatch.context() as patch, forward_passes() as passes:
        patch.setattr("knowfuse.traces.place.written_through", full)
        with pytest.raises(OSError, match=r"cannot write 'shard-00002.*No space left.*in 2 shards written before stay"):
            make(one, tmp_path, **SMALL)
    kept = shards(tmp_path)
    assert len(kept) == 2
    with forward_passes() as rest:
        make(one, tmp_path, verify="now", **SMALL).sources["llama"].store.require(Documents.of(TEXTS).ids)
    assert kept.items() < shards(tmp_path).items()
    with forward_passes() as at_once:
        make(one, tmp_path / "whole", **SMALL)
    assert len(passes) < len(at_once)
    assert len(rest) == len(at_once) - 2


def test_documents_of_a_broken_shard_are_read_again_only_when_asked(
    llms: dict[str, LocalLLM], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(llms, tmp_path, **SMALL)
    path = next(p for p in sorted(tmp_path.rglob("shard-00001.safetensors")) if "llama" in str(p))
    before = {p: t for p, t in shards(tmp_path).items() if p != path}
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with forward_passes() as passes:
        make(llms, tmp_path, **SMALL)
        with pytest.raises(ValueError, match=r"'shard-00001\.safetensors' of source 'llama' in .* is not what was"):
            make(llms, tmp_path, verify="now", **SMALL)
    assert not passes
    with forward_passes() as passes:
        prepared = make(llms, tmp_path, verify="read_again", **SMALL)
    assert len(passes) == PROBES + 1
    assert before.items() < shards(tmp_path).items()
    assert "traces llama: shard-00001.safetensors is broken, its documents are read again" in capsys.readouterr().out
    prepared.sources["llama"].store.verify()
    assert not prepared.sources["llama"].store.missing(Documents.of(TEXTS).ids).any()


def test_traces_behind_a_url(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    """Nothing of them is in the cache until it is read; a second call reads none of the documents."""
    one, place = {"llama": llms["llama"]}, f"memory://{tmp_path}/bucket"
    make(one, tmp_path, place=place)
    assert not shards(tmp_path)
    with forward_passes() as passes:
        store = make(one, tmp_path, place=place).sources["llama"].store
    assert not passes
    here = make(one, tmp_path / "here").sources["llama"].store
    np.testing.assert_array_equal(store.read(TEXTS[0].id).topk.ids, here.read(TEXTS[0].id).topk.ids)
    assert len(shards(tmp_path / "copies")) == 1


def test_a_compiled_source_says_the_same(
    llms: dict[str, LocalLLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced by torch.compile, run without its C++ compiler, which takes half a minute."""
    compiled_with: list[torch.nn.Module] = []

    def compile_eagerly(module: torch.nn.Module, **options: Any) -> None:
        compiled_with.append(module)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    one = {"llama": llms["llama"]}
    compiled, eager = (make(one, tmp_path / str(c), compile=c).sources["llama"].store for c in (True, False))
    for document in TEXTS:
        got, want = compiled.read(document.id), eager.read(document.id)
        assert got.nll == pytest.approx(want.nll, rel=1e-4, abs=1.1e-3)  # one step of the codec
    assert [type(module).__name__ for module in compiled_with] == ["LlamaModel"]


def test_documents_that_a_source_cannot_hold_are_counted(
    llms: dict[str, LocalLLM], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line per source: how many of how many, the first and its reason; again where they were read before."""
    long = [Document(f"{n} word after word " * 200, "code", "fusion") for n in range(2)]
    line = (
        f"traces llama: 2 of 26 documents (7.7%) set aside; the first, {long[0].id}: "
        r"\d+ tokens, 'llama' can hold 512\s"
    )
    prepared = make({"llama": llms["llama"]}, tmp_path, [*TEXTS, *long])
    said = " ".join(capsys.readouterr().out.split()) + " "
    assert len(re.findall(line.replace("(7.7%)", r"\(7.7%\)"), said)) == 1
    assert long[1].id not in said
    assert set(prepared.sources["llama"].store.set_aside) == {d.id for d in long}
    with forward_passes() as passes:
        make({"llama": llms["llama"]}, tmp_path, [*TEXTS, *long])
    assert not passes, "they are not tried again"
    assert "2 of 26 documents (7.7%) set aside" in " ".join(capsys.readouterr().out.split())


def test_what_the_tokenizer_normalises_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llm = normalising_llm(tmp_path / "nfc", normalizers.NFC())
    make({"nfc": llm}, tmp_path / "cache", [*TEXTS, Document("cafe\u0301", "code", "fusion")])
    said = " ".join(capsys.readouterr().out.split())
    assert "traces nfc: 1 of 25 documents (4.0%) set aside; the first," in said
    assert (
        "tokenizer 'nfc' spells b'\\xc3\\xa9' where the text has b'e\\xcc\\x81' (byte 3); its tokenizer normalises: NFC"
        in said
    )


def test_a_source_that_can_read_nothing_is_refused(tmp_path: Path) -> None:
    """By name, before its LLM is loaded, and again at a second call; one more document that it reads is enough."""
    llm = normalising_llm(tmp_path / "lower", normalizers.Lowercase())
    capitals = [Document(f"Capital {n}", "code", "fusion") for n in range(3)]
    for _ in range(2):
        with forward_passes() as passes, pytest.raises(ValueError, match="can read none") as error:
            make({"lower": llm}, tmp_path / "cache", capitals)
        assert not passes
        assert re.fullmatch(
            r"source 'lower' can read none of the 3 documents; the first, [0-9a-f]{24}: tokenizer 'lower' spells "
            r"b'capital 0' where the text has b'Capital 0' \(byte 0\); its tokenizer normalises: Lowercase\. Leave it "
            r"out of `sources`, set its `tokenizer:` to one that keeps every byte, or cut the documents shorter "
            r"\(corpus\.max_document_bytes\)",
            str(error.value),
        )
    make({"lower": llm}, tmp_path / "cache", [*capitals, Document("small", "code", "fusion")])


def test_a_source_with_nan_is_named_with_the_document(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    llm = local_llm(tmp_path / "broken", "mpt")
    model = llm.load()
    model.get_input_embeddings().weight.data[:] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(
        ValueError, match=r"source 'broken' returned NaN or infinite logits on document [0-9a-f]{24}: check"
    ):
        make({**llms, "broken": llm}, tmp_path / "cache")


def test_more_kept_tokens_than_there_are(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"top_k is 9999, but source 'llama' can name (\d+) tokens .*: set top_k to at most \1$"
    ):
        make(llms, tmp_path, top_k=9999)
    assert not shards(tmp_path)


def test_a_target_of_its_own(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    """A target that no source is: it is loaded under its own name and leaves no traces."""
    prepared = prepare(corpus(TEXTS), llms["mpt"].spec, {"llama": llms["llama"].spec}, 5, tmp_path, TRACING)
    assert prepared.target.name == "target"
    assert prepared.target.fingerprint == llms["mpt"].fingerprint
    assert len(shards(tmp_path)) == 1


def test_two_processes_do_the_work_once(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    """Started at once, on an empty cache: one makes the traces, the other waits and finds them."""
    fork = multiprocessing.get_context("fork")
    start, counts = fork.Barrier(2), fork.Queue()

    def work() -> None:
        start.wait()
        with forward_passes() as passes:
            prepared = make({"llama": llms["llama"]}, tmp_path)
        prepared.sources["llama"].store.require(Documents.of(TEXTS).ids)
        counts.put(len(passes))

    processes = [fork.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    passes = sorted(counts.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert passes[0] == 0 < passes[1]
    assert len(shards(tmp_path)) == 1


def test_ranks_share_the_documents(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    """Two at once: each reads about half into shards of its own, both see all; another number of ranks reads nothing."""
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    long = Document("word after word " * 200, "code", "fusion")

    def work(rank: int) -> None:
        with started_by_torchrun(rank, 2), forward_passes() as passes:
            store = make({"llama": llms["llama"]}, tmp_path, [*TEXTS, long]).sources["llama"].store
        store.require(Documents.of(TEXTS).ids)
        answers.put((len(passes), sorted(store.set_aside), float(store.read(TEXTS[3].id).nll.sum())))

    processes = [fork.Process(target=work, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    one, other = (answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert one[1:] == other[1:]
    assert one[1] == [long.id]
    assert all(PROBES < passes <= PROBES + 3 for passes in (one[0], other[0])), "some batches each, as the lengths are"
    assert sorted(path.name for path in shards(tmp_path)) == [
        "shard-0000-of-0002-00000.safetensors",
        "shard-0001-of-0002-00000.safetensors",
    ]
    with forward_passes() as passes:
        store = make({"llama": llms["llama"]}, tmp_path, [*TEXTS, long], verify="now").sources["llama"].store
    assert not passes
    want = make({"llama": llms["llama"]}, tmp_path / "alone").sources["llama"].store
    for document in TEXTS:
        np.testing.assert_allclose(store.read(document.id).nll, want.read(document.id).nll, rtol=1e-4, atol=1.1e-3)


def test_what_a_killed_rank_left_is_read_by_whoever_comes(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    """Rank 1 of 2 is cut off after a shard; one process alone reads the rest, and its broken shards as well. A shard that the
    rank was killed over before its index was there goes."""
    one = {"llama": llms["llama"]}
    with pytest.raises(KeyboardInterrupt), started_by_torchrun(1, 2), forward_passes(stop=PROBES + 1):
        make(one, tmp_path, **SMALL)
    (kept,) = shards(tmp_path)
    unindexed = kept.with_name(kept.name.replace("00000", "00001"))
    shutil.copy(kept, unindexed)
    make(one, tmp_path, **SMALL)
    assert kept in shards(tmp_path)
    assert unindexed not in shards(tmp_path)
    kept.write_bytes(kept.read_bytes()[:-1] + b"\xff")
    with started_by_torchrun(0, 2), pytest.raises(ValueError, match=r"verify=read_again drops files that other ranks"):
        make(one, tmp_path, verify="read_again", **SMALL)
    with forward_passes() as passes:
        store = make(one, tmp_path, verify="read_again", **SMALL).sources["llama"].store
    assert len(passes) == PROBES + 1
    store.verify()
    store.require(Documents.of(TEXTS).ids)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_are_a_partition_of_equal_bytes(world: int) -> None:
    """Every document once; no rank has more than one large document above another."""
    texts = documents(60)
    forth, back = Documents.of(texts), Documents.of(texts[::-1])
    shares = [list(forth.take(share_of(forth, Ranks(rank, world)))) for rank in range(world)]
    assert sorted(d.id for share in shares for d in share) == sorted(d.id for d in texts)
    sizes = [sum(len(d.text.encode()) for d in share) for share in shares]
    assert max(sizes) - min(sizes) <= max(len(d.text.encode()) for d in texts)
    assert shares == [list(back.take(share_of(back, Ranks(rank, world))))[::-1] for rank in range(world)]


def test_a_spec_is_a_path_or_a_recipe() -> None:
    with pytest.raises(ValueError, match=r"either a path or a recipe, got path=None and recipe=None: set exactly one"):
        LLMSpec()


# ---- tokenizer and model of different vocabularies --------------------------------------------------------------


def with_rows(folder: Path, rows: int, architecture: str = "llama", **spec: Any) -> LocalLLM:
    """An LLM whose model was made for so many tokens, whatever its tokenizer has."""
    local_llm(folder, architecture)
    tiny_llm(architecture, rows).save_pretrained(folder)
    return localize(folder.name, LLMSpec(path=str(folder), **spec))


def largest_id(llm: LocalLLM, texts: list[Document]) -> int:
    return max(int(llm.surface().tokenize(d.text, d.is_complete).input_ids.max()) for d in texts)


@pytest.mark.parametrize(
    ("role", "split"),
    [
        ("source", "fusion"),
        ("source", "validation"),
        ("target", "fusion"),
        ("target", "test"),
        pytest.param("source", "test", marks=pytest.mark.long),
        pytest.param("target", "validation", marks=pytest.mark.long),
    ],
)
def test_a_text_that_needs_a_token_without_a_row_is_refused_before_anything_is_read(
    llms: dict[str, LocalLLM], tmp_path: Path, role: str, split: Any
) -> None:
    """Whichever side of the corpus it is on; the message names the LLM, the token and the rows."""
    other = Document("zzz{|}~ a text with the last of the letters", "code", split)
    needed = largest_id(llms["mpt"], [other])
    few = with_rows(tmp_path / "few", needed, "mpt")
    assert largest_id(few, [*TEXTS, *documents(3, "validation")]) != needed
    target, sources = (few, llms["llama"]) if role == "target" else (llms["llama"], few)
    texts = Corpus.of("tiny", [*(d for d in TEXTS if largest_id(few, [d]) < needed), other])
    message = f"^LLM '{'target' if role == 'target' else 'few'}': its tokenizer gives token id [0-9]+, but its model embeds only the ids below {needed}: set"
    with forward_passes() as passes, pytest.raises(ValueError, match=message):
        prepare(texts, target.spec, {sources.name: sources.spec}, 5, tmp_path / "cache", TRACING)
    assert not passes


def test_more_kept_tokens_than_the_model_has_rows_for(llms: dict[str, LocalLLM], tmp_path: Path) -> None:
    """A source of as many rows as its text needs, asked for more; before any source reads."""
    rows = largest_id(llms["mpt"], [*TEXTS, *documents(3, "validation")]) + 1
    few = with_rows(tmp_path / "few", rows, "mpt")
    message = rf"^top_k is {rows + 1}, but source 'few' can name {rows} tokens \(its tokenizer has \d+, its model rows for {rows}\): set top_k to at most {rows}$"
    with forward_passes() as passes, pytest.raises(ValueError, match=message):
        make({"llama": llms["llama"], "few": few}, tmp_path / "cache", top_k=rows + 1)
    assert not passes
    made = make({"llama": llms["llama"], "few": few}, tmp_path / "cache", top_k=rows)
    assert all(made.sources["few"].store.read(d.id).topk.ids.max() < rows for d in TEXTS)


def test_a_target_that_can_read_nothing_is_refused_before_the_sources_read(
    llms: dict[str, LocalLLM], tmp_path: Path
) -> None:
    lower = normalising_llm(tmp_path / "lower", normalizers.Lowercase())
    capitals = [Document(f"Capital {n}", "code", "fusion") for n in range(3)]
    with forward_passes() as passes, pytest.raises(ValueError, match="can read none") as error:
        prepare(corpus(capitals), lower.spec, {"mpt": llms["mpt"].spec}, 5, tmp_path / "cache", TRACING)
    assert not passes
    assert str(error.value).startswith("target 'target' can read none of the 3 documents; the first, ")
    assert "its tokenizer normalises: Lowercase. Set target= to another LLM, set its `tokenizer:` to" in str(
        error.value
    )


def test_what_the_target_sets_aside_is_said_as_of_sources(
    llms: dict[str, LocalLLM], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of how many, which share, and why the first: one is longer than the LLM's context."""
    long = Document("word after word " * 250, "code", "fusion")
    prepare(corpus([*TEXTS, long]), llms["llama"].spec, {"mpt": llms["mpt"].spec}, 5, tmp_path / "cache", TRACING)
    said = " ".join(capsys.readouterr().out.split())
    line = rf"target target: 1 of 25 documents \(4\.0%\) set aside; the first, {long.id}: \d+ tokens, 'target' can hold 512"
    assert re.search(line, said)


def test_a_target_that_cannot_learn_is_refused_before_a_source_is_made_or_read(
    llms: dict[str, LocalLLM], tmp_path: Path
) -> None:
    def require(target: LocalLLM) -> None:
        assert target.fingerprint == llms["llama"].fingerprint
        raise ValueError("it cannot learn so")

    nowhere = {"gone": LLMSpec(path=str(tmp_path / "nowhere")), "mpt": llms["mpt"].spec}
    with pytest.raises(ValueError, match="it cannot learn so"):
        prepare(corpus(TEXTS), llms["llama"].spec, nowhere, 5, tmp_path / "cache", TRACING, require)
    assert not shards(tmp_path / "cache")
