"""How much of what a chat LLM said survives on another's tokens, each in its own chat template?

    python benchmarks/chat.py --math gsm8k_train.jsonl --facts openbook_qa.jsonl [--models FOLDER]

Two hundred conversations of grade-school mathematics and of facts with a choice of answers, half of them of two turns, a quarter
with a system prompt. Every source reads them in its own template and is aligned with every other LLM as the target, in that one's:
`byte_exact`, K tokens kept, over the bytes of the answers. An LLM without a template, a base one, gets the plain one; the output
says which. Throughput: time to cut and align a byte of a conversation, all messages learnt, over that of the same bytes as plain texts,
the best of ten rounds in turns.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.turns import aligner
from knowfuse.evaluation import SeenDocument
from knowfuse.evaluation.alignment_quality import alignment_quality, certain_of_the_text
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.screen import quiet_libraries
from knowfuse.surface import Surface, UnspellableDocument
from knowfuse.surface.conversations import in_tokens
from knowfuse.text.document import Document, Message, Role
from knowfuse.traces.maps import MapStore
from knowfuse.traces.store import TraceStore
from knowfuse.traces.tracing import Tracing, read_documents
from knowfuse.types import Aligner, LLMSpec, SourceTrace, TokenizedDocument, TopK

NUMBER = 200
ROUNDS = 10
NAMES = ("smollm2", "gemma3", "qwen")
SYSTEM = "Answer in a few words."


def conversations(math: Path, facts: Path, number: int) -> list[Document]:
    """So many, half of each kind."""
    sums = [json.loads(line) for line in math.read_text(encoding="utf-8").splitlines()]
    known = [json.loads(line) for line in facts.read_text(encoding="utf-8").splitlines()]
    asked = [(row["question"], row["answer"]) for row in sums]
    told = [
        (f"{row['query']}\n" + "\n".join(f"- {c}" for c in row["choices"]), row["choices"][row["gold"]])
        for row in known
    ]
    documents = []
    for n in range(number):
        turns, kind = 1 + n // 2 % 2, (asked, told)[n % 2]
        said: list[tuple[Role, str]] = [("system", SYSTEM)] if n % 4 == 3 else []
        for question, answer in kind[2 * n : 2 * n + turns]:
            said += [("user", question.strip()), ("assistant", answer.strip())]
        messages = tuple(Message(role, len(content.encode())) for role, content in said)
        documents.append(Document("".join(content for _, content in said), "chat", "fusion", messages=messages))
    return documents


def folder_llm(folder: Path, cache: Path) -> LocalLLM:
    """The LLM of a folder, with the plain template where it has none."""
    llm = localize(folder.name, LLMSpec(path=str(folder)), cache)
    if llm.tokenizer().chat_template:
        return llm
    return replace(llm, spec=replace(llm.spec, chat_template="plain"))


def pair_figures(
    source: Surface, target: Surface, store: TraceStore, documents: Sequence[Document], cache: Path
) -> dict[str, float | str]:
    """What `byte_exact` keeps of a source's words on the target's tokens, over what is learnt."""
    pair = TokenizerPair(source, target, documents, MapStore(cache / "maps"))
    align = aligner(byte_exact, pair)
    readable = [d for d in documents if d.id not in store.set_aside]
    cut = zip(readable, in_tokens(target, readable), strict=True)
    seen = [SeenDocument(store.read(d.id), t, d.text.encode()) for d, t in cut if isinstance(t, TokenizedDocument)]
    quality = alignment_quality(align, seen, target.usable)
    ends = [end for document in seen for end in _turn_ends(align, document)]
    return {
        "source": source.name,
        "target": target.name,
        "alignment_loss_bits_per_byte": round(quality.loss_bits_per_byte, 5),
        "coverage": round(quality.coverage, 5),
        "top1_fidelity": round(quality.top1_fidelity, 5),
        "set_aside_share": round(1 - len(seen) / len(documents), 5),
        "turn_end_aligned": round(sum(ends) / len(ends), 5),
    }


def _turn_ends(align: Aligner, document: SeenDocument) -> list[bool]:
    """Of each turn whether a source that knows the text says the target's own token where it ends."""
    certain = align(certain_of_the_text(document.trace), document.target, document.data)
    best = np.take_along_axis(certain.topk.ids, certain.topk.log_probs.argmax(-1)[:, None], -1)[:, 0]
    rows = [turn.closes for turn in document.target.turns or ()]
    ids = document.target.input_ids
    return [r is not None and bool(certain.is_aligned[r] and best[r] == ids[r + 1]) for r in rows]


class Work:
    """Cutting documents for the target, and aligning with it a source that knows them."""

    def __init__(self, source: Surface, target: Surface, documents: Sequence[Document], cache: Path) -> None:
        self.align = aligner(byte_exact, TokenizerPair(source, target, documents, MapStore(cache / "maps")))
        self.target, self.documents = target, documents
        self.traces = [_certain(tokens) for tokens in in_tokens(source, documents)]
        self.num_bytes = sum(document.num_bytes for document in documents)

    def seconds_a_byte(self) -> float:
        start = time.perf_counter()
        for document, trace, cut in zip(
            self.documents, self.traces, in_tokens(self.target, self.documents), strict=True
        ):
            assert isinstance(cut, TokenizedDocument)
            self.align(trace, cut, document.text.encode())
        return (time.perf_counter() - start) / self.num_bytes


def _certain(tokens: TokenizedDocument | UnspellableDocument) -> SourceTrace:
    assert isinstance(tokens, TokenizedDocument)
    gold = np.append(tokens.input_ids[1:], 0)[:, None]
    nothing = np.zeros(len(gold), dtype=np.float32)
    return SourceTrace(tokens.input_ids, tokens.ends, TopK(gold, nothing[:, None]), nothing)


def throughput(llms: Mapping[str, LocalLLM], documents: Sequence[Document], cache: Path) -> dict[str, float]:
    """Of conversations, every message learnt, over that of the same bytes as plain texts: a text a message, a text a conversation."""
    source, target = (llms[name] for name in (NAMES[1], NAMES[0]))
    chats = [replace(d, learn="all") for d in documents]
    messages = [Document(content, "chat", "fusion") for document in documents for content in document.contents]
    wholes = [Document(document.text, "chat", "fusion") for document in documents]
    works = [Work(source.surface(is_chat=True), target.surface(is_chat=True), chats, cache)]
    works += [Work(source.surface(), target.surface(), texts, cache) for texts in (messages, wholes)]
    took = np.array(
        [[work.seconds_a_byte() for work in works] for _ in range(1 + ROUNDS)]
    )  # in turns: a busy machine slows all
    chat, message, whole = took[1:].min(0).tolist()  # the first round compiles
    return {
        "chat_us_a_byte": round(1e6 * chat, 3),
        "vs_a_text_a_message": round(chat / message, 3),
        "vs_a_text_a_conversation": round(chat / whole, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--math", type=Path, required=True, help="JSONL with question and answer")
    parser.add_argument("--facts", type=Path, required=True, help="JSONL with query, choices and gold")
    parser.add_argument("--models", type=Path, default=Path("~/.cache/knowfuse-models").expanduser())
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--number", type=int, default=NUMBER, help="of conversations (default: %(default)s)")
    arguments = parser.parse_args()
    quiet_libraries()
    cache = Path(os.environ.get("KNOWFUSE_CACHE", "~/.cache/knowfuse")).expanduser()
    documents = conversations(arguments.math, arguments.facts, arguments.number)
    llms = {name: folder_llm(arguments.models / name, cache) for name in NAMES}
    surfaces = {name: llm.surface(is_chat=True) for name, llm in llms.items()}
    tracing = Tracing(None, "when_read", batch_tokens=4096, shard_tokens=1_000_000, compile=False, server_requests=1)
    stores = {
        name: read_documents(llm, surfaces[name], documents, arguments.top_k, cache, tracing)
        for name, llm in llms.items()
    }
    pairs = [pair_figures(surfaces[a], surfaces[b], stores[a], documents, cache) for a, b in permutations(NAMES, 2)]
    for figures in pairs:
        print(figures)
    figures = {
        "conversations": len(documents),
        "plain_template": [name for name, llm in llms.items() if llm.spec.chat_template == "plain"],
        "throughput": throughput(llms, documents, cache),
        "pairs": pairs,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
