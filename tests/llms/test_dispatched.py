"""A source that accelerate spreads over devices, memory and disk says what it says on one device, bit for bit."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures_for_tests import tiny
from experiments_for_tests import TRACING, composed, documents, forward_passes, local_llm, started_by_torchrun
from filelock import FileLock
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from tokenizers_for_tests import llama
from transformers import LlamaConfig

from knowfuse.evaluation import DocumentScores, cached_scores
from knowfuse.llms.dispatched import FOLDER, input_device, offload_folder
from knowfuse.llms.head import output_head
from knowfuse.llms.isolation import require_read_alone
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.plan.__main__ import make_plan, warnings
from knowfuse.runs.prepared import prepare
from knowfuse.text.corpus import Corpus
from knowfuse.traces.tracing import read_documents
from knowfuse.types import LLMSpec, SourceTrace

TEXTS = documents(12)
TOP_K = 5


def spread(llm: LocalLLM, share: float, **more: Any) -> LocalLLM:
    """The same LLM where the CPU's memory has room for this share of its weights; the rest stays on disk."""
    size = sum(p.numel() * p.element_size() for p in llm.load().parameters())
    spec = replace(llm.spec, device_map="auto", max_memory={"cpu": int(share * size)}, **more)
    return localize(llm.name, spec)


def traced(llm: LocalLLM, cache: Path) -> list[SourceTrace]:
    store = read_documents(llm, llm.surface(), TEXTS, TOP_K, cache, TRACING)
    return [store.read(d.id) for d in TEXTS]


def scored(llm: LocalLLM, cache: Path) -> DocumentScores:
    return cached_scores(llm, llm.surface(), TEXTS, cache)


def require_equal(got: list[SourceTrace], want: list[SourceTrace]) -> None:
    for one, other in zip(got, want, strict=True):
        for name in ("input_ids", "ends", "nll"):
            assert (getattr(one, name) == getattr(other, name)).all()
        assert (one.topk.ids == other.topk.ids).all()
        assert (one.topk.log_probs == other.topk.log_probs).all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> LocalLLM:
    return local_llm(tmp_path_factory.mktemp("llms") / "llama")


def experts(folder: Path) -> LocalLLM:
    """A mixture of experts, which transformers holds in another form than its files do."""
    tokenizer = llama()
    tiny("qwen3_moe", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return localize(folder.name, LLMSpec(path=str(folder)))


@pytest.mark.parametrize(
    ("architecture", "share"),
    [
        *(("llama", share) for share in (0.0, 0.9, 2.0)),
        *((architecture, 0.9) for architecture in ("mpt", "qwen3_moe")),
        *(
            pytest.param(architecture, share, marks=pytest.mark.long)
            for architecture in ("mpt", "qwen3_moe")
            for share in (0.0, 2.0)
        ),
    ],
)
def test_a_source_says_the_same_wherever_its_weights_lie(
    tmp_path: Path, architecture: str, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """All on disk, some of them, none: traces, nats and key to the last bit, and nothing stays in the cache."""
    make = experts if architecture == "qwen3_moe" else lambda folder: local_llm(folder, architecture)
    plain = make(tmp_path / architecture)
    llm = spread(plain, share)
    assert llm.fingerprint == plain.fingerprint
    want = traced(plain, tmp_path / "plain")
    capsys.readouterr()
    require_equal(traced(llm, tmp_path / "spread"), want)
    places = {0.0: r"\d+ on disk", 0.9: r"\d+ in the CPU's memory, \d+ on disk", 2.0: "1 in the CPU's memory"}
    assert re.search(rf"^LLM {architecture}: {places[share]}$", capsys.readouterr().out, re.MULTILINE)
    assert scored(llm, tmp_path / "spread") == scored(plain, tmp_path / "plain")
    assert not list((tmp_path / "spread" / FOLDER).iterdir())
    with forward_passes() as passes:  # where weights lie is no part of the key
        require_equal(traced(llm, tmp_path / "plain"), want)
        assert scored(llm, tmp_path / "plain") == scored(plain, tmp_path / "plain")
    assert not passes


def test_its_head_and_its_documents_are_checked_as_those_of_others(whole: LocalLLM, tmp_path: Path) -> None:
    """Weights on `meta`: no module that is asked from outside sees them, nor is a token sent there."""
    with spread(whole, 0.0).to_read(tmp_path) as model:
        assert {p.device.type for p in model.parameters()} == {"meta"}
        assert input_device(model) == torch.device("cpu")
        head = output_head(model, model.config.vocab_size)
        for packing in ("blocks", "one_document"):
            require_read_alone(model, head, packing, 64, 30)


def test_weights_that_were_written_are_gone_after_an_exception_and_after_a_kill(tmp_path: Path) -> None:
    """Experts are written anew. What a process that was killed left, and no other's, is removed by the next."""
    place = tmp_path / FOLDER
    llm = spread(experts(tmp_path / "experts"), 0.0)
    written: list[str] = []

    def stopped() -> None:
        with llm.to_read(tmp_path):
            written.extend(path.name for path in place.glob("*/*.safetensors"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert any("experts" in name for name in written)
    assert not list(place.iterdir())
    for name in ("killed", "running"):
        (place / name).mkdir()
        (place / name / "weights.safetensors").touch()
    (place / "killed.lock").touch()
    with FileLock(place / "running.lock"), offload_folder(tmp_path, "mine") as mine:
        assert {path.name for path in place.iterdir() if path.is_dir()} == {"running", mine.name}


def test_one_process_reads_it_whoever_has_started_how_many(whole: LocalLLM, tmp_path: Path) -> None:
    """It takes all devices of the machine: the first rank reads and scores all, the others find it done."""
    llm = spread(whole, 0.9)
    want = traced(whole, tmp_path / "plain"), scored(whole, tmp_path / "plain")
    for rank in (0, 1):
        with started_by_torchrun(rank, 2), forward_passes() as passes:
            require_equal(traced(llm, tmp_path / "spread"), want[0])
            assert scored(llm, tmp_path / "spread") == want[1]
            assert bool(passes) is (rank == 0)


def test_in_4_bits_it_is_spread_where_transformers_can(tmp_path: Path) -> None:
    """On the CPU where there is room for all of it."""
    plain = local_llm(tmp_path / "llama", width=64)
    quantised = localize("llama", replace(plain.spec, quantization="4bit"))
    require_equal(traced(spread(plain, 4.0, quantization="4bit"), tmp_path / "a"), traced(quantised, tmp_path / "b"))


# ---- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_memory": {"cpu": "1GiB"}}, r"^max_memory is set and device_map is not: set device_map to auto as well"),
        ({"device_map": "auto", "max_memory": {}}, r"^max_memory is \{\}: give GPUs by their number and the CPU by"),
        ({"device_map": "auto", "max_memory": {"disk": 1}}, r"^max_memory names a device 'disk': give GPUs by their"),
        ({"device_map": "auto", "max_memory": {"0": 1}}, r"^max_memory names a device '0': give GPUs by their number"),
        ({"device_map": "auto", "max_memory": {0: "70 gb"}}, r"^max_memory gives device 0 '70 gb': give bytes, or a"),
        (
            {"device_map": "auto", "max_memory": {"cpu": -1}},
            r"^max_memory gives device 'cpu' -1: give bytes, or a size",
        ),
        ({"device_map": "auto", "server": "http://a:1/v1"}, r"^an LLM has both server and device_map: what is served"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LLMSpec(path="mine", **settings)


def test_settings_as_a_user_writes_them() -> None:
    spec = "++sources.llama2.device_map=auto", "++sources.llama2.max_memory={0: 70GiB, cpu: 1.5 GB}"
    source = instantiate(composed("train", "sources=fusellm_7b", *spec).sources, _convert_="all")["llama2"]
    assert (source.device_map, source.max_memory) == ("auto", {0: "70GiB", "cpu": "1.5 GB"})


def test_what_is_trained_is_not_spread() -> None:
    """Said by an experiment before anything is made."""
    message = r"the target has device_map=auto, by which .* set trainer=fsdp, which trains it in shards over all GPUs"
    overrides = ["target=llama2_7b", "sources=fusellm_7b", "+target.device_map=auto"]
    with pytest.raises(InstantiationException, match=message):
        instantiate(composed("train", *overrides), _convert_="all")


def test_hooks_are_not_compiled(whole: LocalLLM, tmp_path: Path) -> None:
    specs = {"big": replace(whole.spec, device_map="auto")}
    message = r"^tracing\.compile=true, and source 'big' has a device_map, .*: set tracing\.compile=false"
    with pytest.raises(ValueError, match=message):
        prepare(Corpus.of("tiny", TEXTS), whole.spec, specs, TOP_K, tmp_path, replace(TRACING, compile=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("layers", "lower"), [(4, "set "), (3, "set tracing.batch_tokens lower, ")])
def test_the_plan_names_what_reads_a_source_that_no_gpu_holds(layers: int, lower: str) -> None:
    """A batch takes some too: where the weights alone fit, a smaller one may. What is spread already is no fault."""
    config = LlamaConfig(hidden_size=16384, intermediate_size=40960, num_hidden_layers=layers, num_attention_heads=128)
    paper = ["experiment=fusellm_7b", "trainer=fsdp", "trainer.devices=8", "gpu=rtx4090_24gb"]

    def said(*overrides: str) -> list[str]:
        cfg = composed("plan", *paper, *overrides)
        small = LlamaConfig(num_hidden_layers=1, hidden_size=64, intermediate_size=64)
        plan = make_plan(cfg, small, {"llama2": config, "openllama": small, "mpt": small})
        return [line for line in warnings(plan, cfg, small) if line.startswith("source")]

    (line,) = said()
    message = (
        rf"^source llama2 needs [\d.]+ GiB and one GPU holds 20\.1: {lower}\+\+sources\.llama2\.device_map=auto to spread it "
        r"over all GPUs, CPU memory and disk, or \+\+sources\.llama2\.quantization=4bit; or serve it where it fits and set "
        r"\+\+sources\.llama2\.server=http"
    )
    assert re.search(message, line)
    assert not said("++sources.llama2.device_map=auto")
