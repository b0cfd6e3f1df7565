"""FLOPs, hours, disk and the shapes of LLMs, against the published figures and real files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments_for_tests import ROOT, documents, trace_store
from test_memory import FULL
from tokenizers_for_tests import surface
from transformers import PretrainedConfig

from knowfuse.llms.known import llm_config
from knowfuse.llms.shapes import build, shapes_only
from knowfuse.plan.gpus import GPUS, gpu_named
from knowfuse.plan.memory import training
from knowfuse.plan.simulate import size_of
from knowfuse.plan.work import corpus_bytes, hours, reading, training_flops
from knowfuse.traces.codec import expected_layout
from knowfuse.types import LLMSpec

PUBLISHED = {  # parameters
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "openlm-research/open_llama_7b_v2": 6_738_415_616,
    "mosaicml/mpt-7b": 6_649_286_656,
}


def kept(path: str) -> PretrainedConfig:
    return llm_config("target", LLMSpec(path=path), ROOT / "conf")


@pytest.mark.parametrize("path", PUBLISHED)
def test_the_parameters_are_the_published_ones(path: str) -> None:
    with shapes_only():
        assert size_of(build(kept(path), torch.bfloat16, None)).parameters == PUBLISHED[path]


def test_training_llama_takes_six_flops_a_parameter_and_token() -> None:
    """Source: Kaplan et al., arXiv 2001.08361, 2.1: 6 N a token, N without the embedding, and attention 12 L T H.

    Of a Llama-2-7B with four layers, which are like the others.
    """
    shape = replace(FULL, weights=torch.bfloat16, trained=torch.bfloat16, compute=torch.bfloat16, block_tokens=2048)
    shape = replace(shape, document_tokens=2048, batch_blocks=1)  # as long as a block
    llama = kept("meta-llama/Llama-2-7b-hf")
    llama.num_hidden_layers = layers = 4
    planned = training(llama, shape)
    tokens = planned.shape.tokens
    matrices = layers * (4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096) + 4096 + 32000 * 4096
    assert planned.size.parameters == matrices + 32000 * 4096
    # Attention's backward is 5 products for 2: the scores are made again.
    formula = tokens * (6 * matrices + (2 + 5) / 2 * 4 * layers * 2048 * 4096)
    assert training_flops(planned) == pytest.approx(formula, rel=0.01)
    twice = training(llama, replace(shape, is_checkpointed=True))
    assert 1.2 < training_flops(twice) / training_flops(planned) < 1.34


def test_reading_takes_two_flops_a_parameter_and_token() -> None:
    config = kept("openlm-research/open_llama_7b_v2")
    r = reading(config, LLMSpec(path="x", dtype="bfloat16"), 10, 8192, 1024, 1e6)
    matrices = r.parameters - 32000 * 4096
    assert r.flops == pytest.approx(1e6 * (2 * matrices + 4 * 32 * 1024 * 4096), rel=0.01)
    assert r.memory > 2 * r.parameters
    assert r.disk == 1e6 * expected_layout(10, 32000).row_bytes


def test_the_disk_is_that_of_a_real_shard(tmp_path: Path) -> None:
    """Within a byte a token, beside what a document and a file take."""
    texts = documents(200)
    store = trace_store(tmp_path, "llama", texts)
    tokens = sum(len(store.read(d.id).ends) for d in texts)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    row = expected_layout(8, surface("llama").vocabulary_size).row_bytes
    overhead = np.dtype(np.int64).itemsize * len(texts) + 1024
    assert row - 1 <= (size - overhead) / tokens <= row + 1


def test_hours_are_flops_over_the_peak() -> None:
    assert hours(312e12 * 3600 * 8 * 0.4, GPUS["a100_80gb"], 8, 0.4) == pytest.approx(1.0)


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gpu is 'a100': choose one of a100_40gb"):
        gpu_named("a100")
    with pytest.raises(ValueError, match=r"no folder here with a config\.json.*llm_configs/nobody--nothing/"):
        llm_config("target", LLMSpec(path="nobody/nothing"), tmp_path)
    with pytest.raises(ValueError, match="corpus_bytes="):
        corpus_bytes({"_target_": "knowfuse.text.mixture.hub_dataset", "path": "nobody/nothing"}, {})


def test_data_sets_that_are_known_are_counted() -> None:
    """All of them, where there are no files beside them."""
    corpus = {
        "_target_": "knowfuse.text.chat.chat",
        "datasets": {"a": {"path": "some/one"}, "b": {"path": "some/other"}},
    }
    assert corpus_bytes(corpus, {"some/one": 1000, "some/other": 500}) == 1500
    for unknown in ({"files": {"c": ["c.jsonl"]}}, {"datasets": {"a": {"path": "some/third"}}}):
        with pytest.raises(ValueError, match="corpus_bytes="):
            corpus_bytes({**corpus, **unknown}, {"some/one": 1000, "some/other": 500})


def test_a_local_corpus_is_counted(tmp_path: Path) -> None:
    """So far as sizes on disk say how much text there is: packed files and columns do not, nor do weights."""
    for name in ("a.txt", "b.py", "c.py", "d.jsonl.gz", "e.parquet"):
        (tmp_path / name).write_text("x" * 1000)
    corpus = {"_target_": "knowfuse.text.mixture.text_files", "validation_share": 0.05, "test_share": 0.05}
    corpus |= {"text_field": "text", "weights": None, "files": {"a": [f"{tmp_path}/a.txt"], "b": [f"{tmp_path}/*.py"]}}
    assert corpus_bytes(corpus, {}) == 2700
    for unknown in ({"weights": {"a": 1, "b": 1}}, *({"files": {"a": [f"{tmp_path}/{n}"]}} for n in ("d.*", "e.*"))):
        with pytest.raises(ValueError, match="corpus_bytes="):
            corpus_bytes({**corpus, **unknown}, {})
