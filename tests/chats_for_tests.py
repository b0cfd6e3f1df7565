"""Conversations, and tiny LLMs that write them each in its own way: as ChatML, Gemma, Llama 2, Llama 3, and one that trims."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from models_for_tests import tiny_llm
from tokenizers import AddedToken
from tokenizers_for_tests import gemma, llama, neox, unigram
from transformers import PreTrainedTokenizerFast

from knowfuse.surface import Surface, surface_of
from knowfuse.surface.conversations import chat_surface, in_tokens
from knowfuse.surface.templates import template_of
from knowfuse.text.document import Document, Learn, Message, Role
from knowfuse.types import SourceTrace, TokenizedDocument, TopK

Said = list[tuple[Role, str]]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are tiny.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] + '<end_of_turn>\n' }}"
    "{% endfor %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'system' %}{{ '<<SYS>>\n' + m['content'] + '\n<</SYS>>\n\n' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token + 'Today: ' + strftime_now('%d %b %Y') }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
)
TRIMS = LLAMA3.replace("m['content']", "m['content'] | trim")
# name -> the tokenizer, its template, and the special tokens that it adds
KINDS = {
    "chatml": (neox, CHATML, ["<|im_start|>", "<|im_end|>"]),
    "gemma": (gemma, GEMMA, ["<start_of_turn>", "<end_of_turn>"]),
    "llama2": (llama, LLAMA2, []),
    "llama3": (neox, LLAMA3, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "trims": (unigram, TRIMS, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
}
ENDS = {
    "chatml": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "llama2": "</s>",
    "llama3": "<|eot_id|>",
    "trims": "<|eot_id|>",
}
SAID: Said = [
    ("user", "What does wrap do?"),
    ("assistant", "It wraps a text at its width,\n\tas h\u00e9 said."),
    ("user", "And \U0001f600?"),
    ("assistant", "def wrap(text):\n    return text"),
]


@cache
def chat_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """One of the tiny tokenizers, with a chat template; made once, since a Unigram is trained otherwise each time."""
    make, template, special = KINDS[kind]
    tokenizer = make()
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    if tokenizer.bos_token is None and "bos_token" in template:
        tokenizer.add_special_tokens({"bos_token": "<|begin_of_text|>"})
    tokenizer.chat_template = template
    return tokenizer


@cache
def chat(kind: str, template: str | None = None) -> Surface:
    """The surface of conversations; of its own template, or of another as a spec names it."""
    tokenizer = chat_tokenizer(kind)
    return chat_surface(surface_of(tokenizer, kind), tokenizer, template_of(tokenizer, kind, template, None))


def conversation(said: Said, learn: Learn = "assistant") -> Document:
    """A document of these messages."""
    messages = tuple(Message(role, len(content.encode())) for role, content in said)
    return Document("".join(content for _, content in said), "chat", "fusion", messages=messages, learn=learn)


def tokens_of(llm: Surface, document: Document) -> TokenizedDocument:
    (tokens,) = in_tokens(llm, [document])
    assert isinstance(tokens, TokenizedDocument)
    return tokens


def trace_of(llm: Surface, document: Document, k: int = 8) -> SourceTrace:
    """Random words on a conversation, mostly right about the next token."""
    tokens = tokens_of(llm, document)
    random = np.random.default_rng(0)
    logits = random.normal(size=(len(tokens.ends), llm.usable)) * 2
    gold = np.append(tokens.input_ids[1:], 0)
    logits[np.arange(len(gold)), gold] += 6 * random.random(len(gold))
    log_probs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    nll = -log_probs[np.arange(len(gold)), gold]
    nll[-1] = 0.0
    ids = np.argsort(-log_probs, axis=-1)[:, :k]
    return SourceTrace(tokens.input_ids, tokens.ends, TopK(ids, np.take_along_axis(log_probs, ids, -1)), nll)


def chat_llm(folder: Path, kind: str, seed: int = 0) -> Path:
    """A folder of a tiny LLM with such a tokenizer."""
    tokenizer = chat_tokenizer(kind)
    tiny_llm("llama", len(tokenizer), seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
