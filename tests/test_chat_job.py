"""The main job on conversations: three LLMs of three templates, by the command that a user types; and what is scored of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from chats_for_tests import chat_llm, tokens_of, write_jsonl
from commands_for_tests import ROOT, ended, run_python
from experiments_for_tests import documents

from knowfuse.evaluation import read_by_document
from knowfuse.llms.local import localize
from knowfuse.surface.turns import learnt_rows
from knowfuse.text.chat import chat
from knowfuse.types import LLMSpec

KINDS = ("llama2", "chatml", "gemma")
SHARES = ["corpus.validation_share=0.2", "corpus.test_share=0.2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user has three LLMs, some conversations, of which some are none to Gemma, and the settings that name them."""
    folder = tmp_path_factory.mktemp("chat")
    for kind in KINDS:
        chat_llm(folder / kind, kind)
    texts = [d.text.strip() for d in documents(120, max_bytes=60) if d.text.strip()]
    rows = [
        {"messages": [{"role": "user", "content": f"{n} {ask}"}, {"role": "assistant", "content": tell}]}
        for n, (ask, tell) in enumerate(zip(texts[::2], texts[1::2], strict=False))
    ]
    brief, empty = ({"role": "system", "content": content} for content in ("be brief", ""))
    briefed = [{"messages": [said, *row["messages"]]} for said in (brief, empty) for row in rows[:20]]
    write_jsonl(folder / "chat.jsonl", [*rows, *briefed])
    for group in ("sources", "target"):
        (folder / "conf" / group).mkdir(parents=True)
    specs = [f"{kind}: {{_target_: knowfuse.types.LLMSpec, path: {folder / kind}}}" for kind in KINDS]
    (folder / "conf" / "sources" / "mine.yaml").write_text("\n".join(specs))
    (folder / "conf" / "target" / "mine.yaml").write_text("# @package _global_\ntarget: ${sources.llama2}\n")
    return folder


def settings(place: Path) -> list[str]:
    mine = [f"hydra.searchpath=[file://{place / 'conf'}]", "sources=mine", "target=mine", "data=chat", "top_k=8"]
    return [*mine, *SHARES, f"corpus.files={{mine: [{place / 'chat.jsonl'}]}}"]


def test_a_run_trains_and_scores_what_is_learnt_alone(place: Path, tmp_path: Path) -> None:
    small = [
        "block_tokens=256",
        "num_workers=0",
        "batch_blocks=2",
        "trainer.max_steps=2",
        "trainer.val_check_interval=1",
    ]
    run = tmp_path / "run"
    options = [*settings(place), *small, f"hydra.run.dir={run}", "trainer.log_every_n_steps=1", "warmup_steps=0"]
    said = run_python(str(ROOT / "train.py"), *options, cache=tmp_path / "cache", cwd=place)
    told = next(line for line in said.splitlines() if line.startswith("traces gemma: "))
    assert "set aside" in told
    assert "its chat template refuses a conversation of system, user, assistant: System role not supported" in told
    unsaid = "WARNING: source gemma: gemma says no licence (there is no README.md of it on this machine)"
    assert unsaid in said, "beside the headroom"
    scores = read_by_document(run / "documents.csv")
    assert {*KINDS, "target clm", "target fused"} <= set(scores.nats)
    files = {"mine": [str(place / "chat.jsonl")]}
    corpus = chat(files=files, cache=str(tmp_path / "cache"), validation_share=0.2, test_share=0.2)
    for kind in ("llama2", "chatml"):
        llm = localize(kind, LLMSpec(path=str(place / kind)))
        surface, model = llm.surface(is_chat=True), llm.load()
        for n, document in enumerate(corpus.split("test")):
            tokens = tokens_of(surface, document)
            ids = torch.from_numpy(tokens.input_ids)
            with torch.inference_mode():
                nats = -model(ids[None]).logits[0].double().log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]
            answer = document.contents[-1].encode()
            assert scores.num_bytes[n] == len(answer)
            is_text = torch.from_numpy(learnt_rows(tokens)[0][:-1])
            np.testing.assert_allclose(scores.nats[kind][n], float(nats[is_text].sum()), rtol=1e-4)
    assert json.loads((run / "results.json").read_text())


def test_an_llm_without_a_template_stops_the_command_with_what_to_set(place: Path, tmp_path: Path) -> None:
    base = place / "base"
    chat_llm(base, "llama2")
    for file in base.glob("chat_template*"):
        file.unlink()
    bare = [*settings(place), f"++sources.base={{_target_: knowfuse.types.LLMSpec, path: {base}}}"]
    failed = ended("-m", "knowfuse.prepare", *bare, cache=tmp_path / "cache", cwd=ROOT)
    assert failed.returncode != 0
    assert "LLM 'base': its tokenizer has no chat template" in failed.stderr
