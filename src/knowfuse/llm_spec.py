"""Where does an LLM come from, and how is it to be loaded?"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from knowfuse.settings import require_choices, require_types

OWN = "auto"  # in place of the text of a special token: the tokenizer's own


@dataclass(frozen=True)
class Recipe:
    """How to make a small LLM from nothing: its tokenizer family, its shape, its domain and its training.

    With the architecture `like`, `like` is the config.json of any LLM, whose architecture it has in these sizes.
    """

    architecture: Literal["llama", "mpt", "like"]
    tokenizer_family: Literal["sentencepiece_bpe", "byte_level_bpe", "unigram"]
    domain: (
        str | None
    )  # it learns from the documents of this domain's split "sources"; None: from some that are fused on
    vocabulary_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    context_length: int  # tokens
    max_steps: int  # 0: its weights stay random
    batch_tokens: int
    learning_rate: float
    seed: int = 0
    like: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        require_choices(type(self), vars(self))
        require_types(type(self), vars(self))
        least = dict.fromkeys(("vocabulary_size", "hidden_size", "num_layers", "num_heads", "context_length"), 1)
        for name, value in {**least, "max_steps": 0}.items():
            if getattr(self, name) < value:
                raise ValueError(f"a recipe's {name} is {getattr(self, name)}: it must be at least {value}")
        if (self.architecture == "like") != (self.like is not None):
            raise ValueError(
                f"a recipe's architecture is {self.architecture!r} and its like is {self.like!r}: set like to a config.json, and "
                "architecture to like, or neither"
            )
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"a recipe's hidden_size {self.hidden_size} is no multiple of its num_heads {self.num_heads}: choose one"
            )


# Kernels of transformers by which an LLM attends.
Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]


@dataclass(frozen=True)
class LLMSpec:
    """Where an LLM comes from, and how it is loaded.

    `path` is a hub id, a local folder, or where `gguf_file` is, one file or all parts of one; with a `recipe` there is no
    path: the LLM is made on first use. `tokenizer` names another folder, hub id, tokenizer.json or GGUF file where the LLM's
    own lacks a fast tokenizer.

    `bos` and `eos` are the texts of the tokens that began and ended each text when the LLM was trained. `auto`: those of its
    tokenizer, and EOS for BOS where that has none, as GPT-2. An instruct LLM's EOS often ends a chat turn, and the one that
    ended its texts has another name, such as `<|endoftext|>`. `eos: null`: a text ends without a token. There is no
    `bos: null`: no row would predict the first token, and its bytes would count for some LLMs and not for others. They say
    how texts are read; an exported target keeps its tokenizer's own.

    `chat_template` is how it writes a conversation: a file of Jinja, as transformers reads it, or `plain` for an LLM that never
    learnt one; None: its tokenizer's own. `chat_variables` are what the template may ask for, such as {enable_thinking: false}.

    `attention` is the kernel by which it attends, here alone: as a source and as a target, packed blocks too. None is what
    transformers chooses. A kernel that this machine, the architecture or the dtype rules out is refused, never replaced.

    A source larger than one GPU is spread by accelerate with `device_map: auto`: over the GPUs of this machine, the memory of
    its CPU, and disk. `max_memory` says how much of a device its weights may take, a GPU by its number; a device that is not
    named then takes none. None of it changes what the LLM says.

    A source may be served elsewhere, by vLLM or SGLang: then `path` names only its tokenizer and configuration, no weight
    comes here, and `dtype` and `revision` say what the server has loaded, which does not say so itself.
    """

    path: str | None = None
    recipe: Recipe | None = None
    gguf_file: str | Sequence[str] | None = None
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["8bit", "4bit"] | None = None
    attention: Attention | None = None
    tokenizer: str | None = None
    bos: str | None = OWN
    eos: str | None = OWN
    chat_template: str | None = None
    chat_variables: Mapping[str, Any] | None = None
    trust_remote_code: bool = False
    device_map: Literal["auto"] | None = None
    max_memory: Mapping[int | str, int | str] | None = None  # such as {0: 70GiB, cpu: 200GiB}, or bytes
    server: str | None = None  # http://<host>:<port>/v1
    served_model: str | None = None  # its name there; None: the only one, or the one of this path
    server_kind: Literal["vllm", "sglang"] | None = None  # None: the server says
    server_key: str | None = None  # name of the environment variable that holds the server's API key

    def __post_init__(self) -> None:
        require_choices(type(self), vars(self))
        require_types(type(self), vars(self))
        if self.bos is None:
            raise ValueError(
                "bos is null: no row would predict a text's first token. Name the token that stood before each text when the "
                "LLM was trained, its EOS where texts followed one another, or leave it out: bos: auto"
            )
        _require_server(self)
        _require_placing(self)
        if (self.path is None) == (self.recipe is None):
            raise ValueError(
                f"an LLM comes from either a path or a recipe, got path={self.path!r} and recipe={self.recipe!r}: "
                "set exactly one of the two"
            )


# What a server has decided itself when it loaded the LLM.
NOT_SERVED = ("recipe", "gguf_file", "quantization", "attention", "device_map", "max_memory")
SIZE = re.compile(r"\d+(\.\d+)? ?[KMG]i?B")


def _require_placing(spec: LLMSpec) -> None:
    """ValueError for a `max_memory` that accelerate would not read, or that nothing asks for."""
    if spec.max_memory is None:
        return
    if spec.device_map is None:
        raise ValueError("max_memory is set and device_map is not: set device_map to auto as well")
    example = "give GPUs by their number and the CPU by its name, such as max_memory={0: 70GiB, cpu: 200GiB}"
    if not isinstance(spec.max_memory, Mapping) or not spec.max_memory:
        raise ValueError(f"max_memory is {spec.max_memory!r}: {example}")
    for device, size in spec.max_memory.items():
        if device != "cpu" and not (type(device) is int and device >= 0):
            raise ValueError(f"max_memory names a device {device!r}: {example}; what has no room there stays on disk")
        if not (type(size) is int and size >= 0) and not (isinstance(size, str) and SIZE.fullmatch(size)):
            raise ValueError(f"max_memory gives device {device!r} {size!r}: give bytes, or a size such as 70GiB")


def _require_server(spec: LLMSpec) -> None:
    """ValueError for a server that no address reaches, for what it cannot be told, and for a key that is written out."""
    if spec.server is None:
        if stray := [name for name in ("served_model", "server_kind", "server_key") if getattr(spec, name) is not None]:
            raise ValueError(f"{stray[0]} is set and server is not: set server to http://<host>:<port>/v1 as well")
        return
    if stray := [name for name in NOT_SERVED if getattr(spec, name) is not None]:
        raise ValueError(
            f"an LLM has both server and {stray[0]}: what is served was loaded by the server; set path to its tokenizer and "
            f"configuration and leave {stray[0]} out, or leave server out and load it here"
        )
    _require_address(spec.server)
    if spec.server_key is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", spec.server_key):
        raise ValueError(
            "server_key is not the name of an environment variable (capital letters, digits and _, such as "
            "KNOWFUSE_SERVER_KEY): put the key into one, since settings are saved with every run"
        )


def _require_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        _ = parts.port  # a ValueError where it is none
    except ValueError as error:
        raise ValueError(f"server is {address!r} ({error}): it must be http://<host>:<port>/v1") from error
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "server has a user name or a password in its address, and settings are saved with every run: set server_key to "
            "the name of an environment variable that holds the key"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"server is {address!r}: it must be http://<host>:<port>/v1")
    if not parts.path.rstrip("/").endswith("/v1"):
        raise ValueError(f"server is {address!r}: it must end with /v1, as in http://<host>:<port>/v1")
