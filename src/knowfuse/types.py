"""What passes between the rooms: the types every part agrees on, and the position convention.

Letters: B sequences, S sources, T target tokens, U source tokens, K kept tokens, V vocabulary.

**Position convention.** Row t of every array speaks of the NEXT token, `input_ids[t + 1]`. Labels are already
shifted: `labels[t] == input_ids[t + 1]`. The last row of a document predicts nothing and is masked. A BOS is a
token of zero bytes that ends at byte 0, so its row predicts the first token like any other; an EOS follows the
last byte.

Documents live in numpy (store, alignment), batches in torch (fusion, loss). The annotations are checked at
construction in the tests (jaxtyping's import hook).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import (
    Any,
    Generic,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

ArrayT = TypeVar("ArrayT", np.ndarray, Tensor)

IGNORE = -100  # the label of a row that predicts nothing
# Where the probability of an aligned row went: to a target token that takes all of a candidate's bytes, to one that takes
# the first of them, along the gold chain; what no slot holds: candidates that end where the row begins, candidates that
# no target token begins, and what the source did not keep.
MASS_CLASSES = ("exact", "prefix", "chained", "ambiguous", "unmapped", "tail")
OWN = "auto"  # in place of the text of a special token: the tokenizer's own
EMPTY = float("-inf")  # the log-probability of an empty slot of a TopK


@dataclass
class TopK(Generic[ArrayT]):
    """A sparse distribution over a vocabulary: its most probable tokens.

    `log_probs` are natural logs normalised over the FULL vocabulary, so `1 - sum(exp(log_probs))` is the true
    tail. `-inf` marks an empty slot, whose id means nothing.
    """

    ids: Int[ArrayT, "*rows K"]
    log_probs: Float32[ArrayT, "*rows K"]


@dataclass
class TokenizedDocument:
    """One document in one vocabulary: ids, and the byte offset at which each token ends."""

    input_ids: Int[np.ndarray, " T"]
    ends: Int[np.ndarray, " T"]


@dataclass
class SourceTrace:
    """What one source LLM said about one document, in its own vocabulary, at its own positions.

    `ends` are byte offsets into the document. `nll` is in nats: what the source paid for the token after each
    row; its last value is 0.
    """

    input_ids: Int[np.ndarray, " U"]
    ends: Int[np.ndarray, " U"]
    topk: TopK[np.ndarray]  # [U, K], the source's vocabulary
    nll: Float32[np.ndarray, " U"]


@dataclass
class AlignedSource:
    """One source's word on each row of a target document, in the target's vocabulary.

    `tail` is the probability that no slot of `topk` holds. `nll` is the nats the source spent on the bytes of the
    next target token, and `source_tokens` the number of its own tokens that those bytes took (both fractional
    where a boundary falls inside a source token). Where `is_aligned` is False the other fields mean nothing.
    `budget` sums to 1 over the `MASS_CLASSES`; None where the method has no such classes. `is_by_rank`: the ids are not
    tokens but ranks among the target LLM's own next tokens, the most probable first.
    """

    topk: TopK[np.ndarray]  # [T, K]
    tail: Float32[np.ndarray, " T"]
    nll: Float32[np.ndarray, " T"]
    source_tokens: Float32[np.ndarray, " T"]
    is_aligned: Bool[np.ndarray, " T"]
    budget: Float64[np.ndarray, "T 6"] | None = None
    is_by_rank: bool = False


@runtime_checkable
class Aligner(Protocol):
    """What an alignment method makes of a pair of tokenizers: called once per document, with the document's bytes."""

    def __call__(self, trace: SourceTrace, target: TokenizedDocument, data: bytes) -> AlignedSource: ...


@dataclass
class AlignedSources:
    """The words of S sources on the same rows; the fields of `AlignedSource` with a source axis.

    `budget` is summed over each source's aligned rows.
    """

    topk: TopK[Tensor]  # [*B, S, T, K]
    tail: Float32[Tensor, "*B S T"]
    nll: Float32[Tensor, "*B S T"]
    source_tokens: Float32[Tensor, "*B S T"]
    is_aligned: Bool[Tensor, "*B S T"]
    budget: Float32[Tensor, "*B S 6"] | None = None
    is_by_rank: bool = False


@dataclass
class FusionBatch:
    """A batch of packed blocks.

    `document_ids` number the documents inside each block from 1; 0 is padding. Attention stays inside a document,
    and `position_ids` start at 0 in each. `label_bytes` counts the bytes of the token that each row predicts.
    `sources` is None where nothing is fused (validation, plain CLM).
    """

    input_ids: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    document_ids: Int[Tensor, "B T"]
    label_bytes: Int[Tensor, "B T"]
    sources: AlignedSources | None = None  # leading B

    def pin_memory(self) -> "FusionBatch":
        """The same in page-locked memory, from which a GPU copies beside its work; DataLoaders look for this name."""
        return apply_to_collection(self, Tensor, Tensor.pin_memory)


@dataclass
class FusedTarget:
    """The one sparse distribution per row that the sources became, and who made it.

    `topk` has unique ids; `tail` is the mass outside them; `weights` are the sources' shares of each row and sum to
    1 where `has_target`, to 0 elsewhere.
    """

    topk: TopK[Tensor]  # [B, T, K']
    tail: Float32[Tensor, "B T"]
    weights: Float32[Tensor, "B S T"]
    has_target: Bool[Tensor, "B T"]


@dataclass(frozen=True)
class Recipe:
    """How to make a small LLM from nothing: its tokenizer family, its shape, its domain and its training."""

    architecture: Literal["llama", "mpt"]
    tokenizer_family: Literal["sentencepiece_bpe", "byte_level_bpe", "unigram"]
    domain: str  # it learns from the documents of this domain's split "sources"
    vocabulary_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    context_length: int  # tokens
    max_steps: int
    batch_tokens: int
    learning_rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        require_choices(type(self), vars(self))
        require_types(type(self), vars(self))
        for name in ("vocabulary_size", "hidden_size", "num_layers", "num_heads", "context_length", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"a recipe's {name} is {getattr(self, name)}: it must be at least 1")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"a recipe's hidden_size {self.hidden_size} is no multiple of its num_heads {self.num_heads}: choose one"
            )


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

    A source may be served elsewhere, by vLLM or SGLang: then `path` names only its tokenizer and configuration, no weight
    comes here, and `dtype` and `revision` say what the server has loaded, which does not say so itself.
    """

    path: str | None = None
    recipe: Recipe | None = None
    gguf_file: str | Sequence[str] | None = None
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["8bit", "4bit"] | None = None
    tokenizer: str | None = None
    bos: str | None = OWN
    eos: str | None = OWN
    trust_remote_code: bool = False
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
        if (self.path is None) == (self.recipe is None):
            raise ValueError(
                f"an LLM comes from either a path or a recipe, got path={self.path!r} and recipe={self.recipe!r}: "
                "set exactly one of the two"
            )


NOT_SERVED = ("recipe", "gguf_file", "quantization")  # what a server has decided itself when it loaded the LLM


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


_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def require_types(called: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """ValueError where a setting is not of the plain type that its parameter has; other types are not looked at."""
    for name, kind in get_type_hints(called).items():
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        if name not in settings or not all(isinstance(k, type) and k in _PLAIN for k in kinds):
            continue
        value = settings[name]
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            wanted = " or ".join(_PLAIN[k] for k in kinds)
            raise ValueError(f"{name} is {value!r}: it must be {wanted}")


def require_choices(called: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """ValueError where a setting is none of the values that its parameter's Literal lists; it names both."""
    for name, kind in get_type_hints(called).items():
        choices = [value for part in (kind, *get_args(kind)) if get_origin(part) is Literal for value in get_args(part)]
        if choices and settings.get(name) is not None and settings[name] not in choices:
            raise ValueError(f"{name} is {settings[name]!r}: choose one of {choices}")
