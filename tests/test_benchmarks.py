"""Benchmarks run in miniature, and what of their figures does not depend on the machine is what they are for."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gpu
import pytest
import startup
from chats_for_tests import chat_llm, write_jsonl
from commands_for_tests import stand_in
from experiments_for_tests import ROOT, TINY_TRAINING, run_python
from models_for_tests import tiny_llm
from tokenizers_for_tests import llama

KEYS = {
    "time_vs_ce",
    "peak_memory_vs_ce",
    "time_vs_matmul_floor",
    "time_vs_dense",
    "peak_memory_vs_dense",
    "max_relative_gradient_error",
}


def test_the_loss_and_memory_that_does_not_grow_with_rows(tmp_path: Path) -> None:
    """In miniature. From 512 rows, one chunk, to 4096: cross-entropy needs eight times as much, we the hidden states' gradient."""
    size = ["--rows", "1024", "--width", "16", "--vocabulary", "16384", "--rounds", "1"]
    figures = json.loads(run_python("benchmarks/loss.py", *size, cache=tmp_path).splitlines()[-1])
    assert set(figures) >= KEYS
    assert figures["max_relative_gradient_error"] < 1e-4
    assert figures["peak_memory_vs_ce"] < 0.5, "half the rows are alive"
    one, eight = (figures["peak_megabytes"][f"{rows} x 4096"] for rows in (512, 4096))
    assert eight["ours"] < 1.3 * one["ours"]
    assert {"divergence=reverse_kl", "temperature=2", "balance=match_clm", "completion=set"} < figures[
        "options_vs_default"
    ].keys()
    assert eight["cross_entropy"] > 7 * one["cross_entropy"]


def test_a_packed_step_and_the_same_documents_alone(tmp_path: Path) -> None:
    """The same loss, no mask beyond those of one document, and logits of documents as alone, windows among them."""
    size = ["--block-tokens", "512", "--rounds", "1", "--width", "64", "--vocabulary", "2048"]
    some = ["--architectures", "llama", "gemma3", "gpt_oss"]
    figures = json.loads(run_python("benchmarks/attention.py", *size, *some, cache=tmp_path).splitlines()[-1])
    assert figures["extra_mask_bytes"] == 0
    assert figures["packed_vs_alone_max_difference"] < 1e-5
    assert figures["loss_difference_nats"] < 1e-5
    assert figures["packed_vs_alone_time"] > 0


def test_a_step_from_disk_to_optimizer(tmp_path: Path) -> None:
    """Three readers of traces, a fused fit and both CLM fits, through the Trainer."""
    size = ["--rounds", "1", "--steps", "1", "--texts", "3", "--width", "64", "--vocabulary", "8192"]
    figures = json.loads(run_python("benchmarks/step.py", *size, cache=tmp_path).splitlines()[-1])
    assert figures.keys() >= {"fused_step_vs_clm_step", "data_wait_share"}
    assert 0 < figures["data_wait_share"] < 1


@pytest.mark.long
def test_a_start_that_opens_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """600 documents, in this process; a second run finds all made. What an index takes for a token is no machine's matter."""

    def here(step: str, documents: int, cache: Path) -> dict[str, float]:
        steps.append(step)
        made = startup.make(documents, cache) if step == "make" else startup.start(documents, cache, time.time())
        return json.loads(json.dumps(made))

    steps: list[str] = []
    monkeypatch.setattr(startup, "fresh", here)
    monkeypatch.setattr(sys, "argv", ["startup.py", "--documents", "600", "--starts", "1", "--cache", str(tmp_path)])
    for _ in range(2):
        startup.main()
        figures = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert figures.keys() >= {"seconds_to_first_batch_0.06k", "seconds_to_first_batch_0.6k", "rss_mib_0.6k"}
        assert figures["manifest_bytes_written_per_token"] < 0.1
        assert figures["build_documents_per_s"] > 0
    assert steps == ["make", "start", "make", "start", "start", "start"]


SHORT = ["trainer.max_steps=1", "trainer.val_check_interval=1"]


@pytest.mark.long
def test_the_gpu_script_runs_its_parts_and_names_those_that_fail(tiny_cache: Path, tmp_path: Path) -> None:
    """On the CPU: a part with its figures; one that cannot be, with its last words, which the exit status says too."""
    path = f"{stand_in().parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "KNOWFUSE_CACHE": str(tiny_cache), "STEPS": "1", "TMPDIR": str(tmp_path)}
    command = ["benchmarks/gpu.sh", "--accelerator", "cpu", "--parts", "quickstart nonsense"]
    done = subprocess.run([*command, *TINY_TRAINING, *SHORT], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures.keys() == {"machine", "failed", "quickstart"}
    assert list(figures["failed"]) == ["nonsense"]
    assert "exit status 2: " in figures["failed"]["nonsense"]
    assert "invalid choice: 'nonsense'" in figures["failed"]["nonsense"]
    assert {"target clm", "target fused"} <= figures["quickstart"]["bits_per_byte"].keys()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "part", ["tracing", *(pytest.param(part, marks=pytest.mark.long) for part in ("steps", "attention", "qlora"))]
)
def test_a_part_of_the_gpu_script(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """On the folder of a model, which is target and source."""
    monkeypatch.setenv("KNOWFUSE_CACHE", str(tiny_cache))
    tiny_llm("llama", len(llama())).save_pretrained(tmp_path)
    llama().save_pretrained(tmp_path)
    overrides = [o for o in TINY_TRAINING if not o.startswith("sources.")]
    overrides += ["finetune.alpha=32.0"] if part == "qlora" else []  # the tests' type checker takes no whole number
    found = gpu.PARTS[part](gpu.Asked("cpu", str(tmp_path), 1, overrides))
    if part == "attention":
        assert list(found) == list(gpu.KERNELS)
        assert all(found[kernel]["tokens_per_second"] > 0 for kernel in gpu.ALWAYS)
        assert (
            "'target' cannot attend by flash_attention_2: the package flash_attn is"
            in found["flash_attention_2"]["refused"]
        )
        assert (
            "'target' cannot attend by flex_attention: on the CPU it has no backward"
            in found["flex_attention"]["refused"]
        )
    elif part == "steps":
        clm, fused = found["clm"], found["fused"]
        assert found["fused_step_vs_clm_step"] == fused["step_seconds"] / clm["step_seconds"]
        assert fused["planned_bytes"] > 0
    else:
        assert found["tokens_per_second"] > 0


def test_chat_llms_lose_little_in_one_anothers_templates(tmp_path: Path) -> None:
    """In miniature: three tiny LLMs of three templates, of which one refuses a system prompt."""
    kinds = {"smollm2": "chatml", "gemma3": "llama3", "qwen": "gemma"}
    for name, kind in kinds.items():
        chat_llm(tmp_path / name, kind)
    sums = [{"question": f"What is {n} + 1?", "answer": f"It is {n + 1}."} for n in range(20)]
    facts = [{"query": f"Which is {n}?", "choices": [str(n), "none"], "gold": 0} for n in range(20)]
    texts = [
        ("--math", str(write_jsonl(tmp_path / "math.jsonl", list(sums)))),
        ("--facts", str(write_jsonl(tmp_path / "facts.jsonl", list(facts)))),
    ]
    size = ["--number", "8", "--models", str(tmp_path), *(part for text in texts for part in text)]
    figures = json.loads(run_python("benchmarks/chat.py", *size, cache=tmp_path / "cache").splitlines()[-1])
    pairs = {(p["source"], p["target"]): p for p in figures["pairs"]}
    assert len(pairs) == 6
    assert figures["plain_template"] == []
    for (source, target), pair in pairs.items():
        assert pair["turn_end_aligned"] == pair["coverage"] == pair["top1_fidelity"] == 1.0
        assert pair["set_aside_share"] == (0.25 if "qwen" in (source, target) else 0.0), "Gemma's has no system prompt"
