"""What is a server asked about a document's tokens, and what does its answer say? The forms of vLLM and of SGLang.

vLLM: `prompt_logprobs` of its completions API, tested against vLLM 0.32 itself. SGLang: its own `/generate`, tested on answers
of its documented form alone; nobody of us has run it. Both say for every token of a prompt of ids the M most probable ones at
its place and the true one; the token that they are made to generate says the same for the row after the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int

from knowfuse.types import EMPTY

Kind = Literal["vllm", "sglang"]
# Tokens of the context that a document may not take: the one that is generated; SGLang keeps five more.
RESERVED: dict[Kind, int] = {"vllm": 1, "sglang": 6}
LEAST_LOG_PROB = -9999.0  # vLLM's -inf, which JSON does not have


@dataclass
class Said:
    """What a server said of a document: the M most probable tokens of each row, in falling order, and the true next one's nats.

    Row t speaks of token t + 1; the last row has no true next token, and 0 nats.
    """

    ids: Int[np.ndarray, "U M"]
    log_probs: Float32[np.ndarray, "U M"]
    nll: Float32[np.ndarray, " U"]


def question(kind: Kind, model: str, input_ids: Sequence[int], most: int) -> tuple[str, dict[str, Any]]:
    """The path below the server's root, and the body, of a request for the `most` most probable tokens of each row."""
    if kind == "sglang":
        sampling = {"max_new_tokens": 1, "temperature": 0}
        body = {"input_ids": input_ids, "sampling_params": sampling, "return_logprob": True, "logprob_start_len": 0}
        return "/generate", body | {"top_logprobs_num": most}
    body = {"model": model, "prompt": input_ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": most}
    return "/v1/completions", body | {"logprobs": most, "return_token_ids": True, "return_tokens_as_token_ids": True}


def read_answer(kind: Kind, answer: Any, input_ids: Sequence[int], most: int) -> Said:
    """What an answer says. ValueError where it is of another form, of other tokens, or says less than was asked."""
    try:
        echoed, paid, rows = (_of_sglang if kind == "sglang" else _of_vllm)(answer)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"its answer is not of the form of {kind} ({type(error).__name__}: {error})") from error
    _require_asked(echoed, rows, input_ids, most)
    ids, log_probs = _falling(rows, most)
    total = float(np.exp(log_probs, dtype=np.float64).sum(-1).max(initial=0.0))
    if total > 1.001:
        raise ValueError(
            f"the probabilities of a token's row sum to {total:.4g}, so they are none: start vLLM with --logprobs-mode "
            "raw_logprobs, its default"
        )
    nll = -np.asarray([*paid, 0.0], dtype=np.float32)
    return Said(ids, log_probs, np.where(nll >= -LEAST_LOG_PROB, np.float32(np.inf), nll))


def _require_asked(echoed: Sequence[int], rows: Sequence["Row"], input_ids: Sequence[int], most: int) -> None:
    """ValueError unless an answer is about these tokens, and says as much of each as was asked."""
    if len(echoed) != len(input_ids) or len(rows) != len(input_ids):
        raise ValueError(
            f"it answered for {len(echoed)} tokens in {len(rows)} rows where {len(input_ids)} tokens were sent"
        )
    for place, (its, ours) in enumerate(zip(echoed, input_ids, strict=True)):
        if its != ours:
            raise ValueError(f"it answered for token {its} where {ours} was sent, at place {place}")
    if (fewest := min(map(len, rows))) < most:
        raise ValueError(f"it returned {fewest} log-probabilities for a token where {most} were asked for")


Row = list[tuple[int, float]]  # a token id and its log-probability


def _of_vllm(answer: Any) -> tuple[list[int], list[float], list[Row]]:
    """The tokens it speaks of, the log-probability of each but the first, and the rows.

    A row is {"<id>": {"logprob": x, ...}, ...}, with the true token in it; the generated one's {"token_id:<id>": x, ...}.
    """
    choice = answer["choices"][0]
    echoed, (first, *prompt) = choice["prompt_token_ids"], choice["prompt_logprobs"]
    if first is not None:
        raise TypeError("the first token has log-probabilities")
    rows = [[(int(i), float(entry["logprob"])) for i, entry in row.items()] for row in prompt]
    paid = [float(row[str(token)]["logprob"]) for row, token in zip(prompt, echoed[1:], strict=True)]
    (last,) = choice["logprobs"]["top_logprobs"]
    return echoed, paid, [*rows, [(int(i.removeprefix("token_id:")), float(x)) for i, x in last.items()]]


def _of_sglang(answer: Any) -> tuple[list[int], list[float], list[Row]]:
    """The same: a token is [x, <id>, <text or null>], a row a list of such."""
    about = answer["meta_info"]
    if about["finish_reason"]["type"] == "abort":
        raise ValueError(about["finish_reason"]["message"])
    tokens = about["input_token_logprobs"]
    echoed, paid = [int(token) for _, token, _ in tokens], [float(x) for x, _, _ in tokens[1:]]
    tops = [
        *(about.get("input_top_logprobs") or [None] * len(tokens))[1:],
        *(about.get("output_top_logprobs") or [None]),
    ]
    return echoed, paid, [[(int(token), float(x)) for x, token, _ in row or ()] for row in tops]


def _falling(rows: Sequence[Row], most: int) -> tuple[Int[np.ndarray, "U M"], Float32[np.ndarray, "U M"]]:
    """The `most` most probable entries of each row; of equal ones the lower id first."""
    counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    is_filled = np.arange(counts.max()) < counts[:, None]
    ids, log_probs = np.zeros(is_filled.shape, dtype=np.int64), np.full(is_filled.shape, EMPTY, dtype=np.float32)
    ids[is_filled] = [i for row in rows for i, _ in row]
    log_probs[is_filled] = [x for row in rows for _, x in row]
    log_probs[log_probs <= LEAST_LOG_PROB] = EMPTY
    order = np.lexsort((ids, -log_probs), axis=-1)[:, :most]
    return np.take_along_axis(ids, order, -1), np.take_along_axis(log_probs, order, -1)
