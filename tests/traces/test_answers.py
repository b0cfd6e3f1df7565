"""What servers answered, word for word, and what is read from it."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from knowfuse.traces.answers import question, read_answer
from knowfuse.types import EMPTY

# vLLM 0.32.0 with SmolLM2-135M, asked `question("vllm", "m", [1, 300, 400], 2)`; what is not read is left out.
VLLM: dict[str, Any] = {
    "id": "cmpl-87a82d0149696090",
    "object": "text_completion",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "text": "er",
            "logprobs": {
                "text_offset": [0],
                "token_logprobs": [-1.4193968772888184],
                "tokens": ["token_id:259"],
                "top_logprobs": [{"token_id:259": -1.4193968772888184, "token_id:258": -2.718595027923584}],
            },
            "finish_reason": "length",
            "token_ids": [259],
            "prompt_logprobs": [
                None,
                {
                    "300": {"logprob": -14.154200553894043, "rank": 12329, "decoded_token": "om"},
                    "29": {"logprob": -0.9855020046234131, "rank": 1, "decoded_token": "-"},
                    "28": {"logprob": -2.0762059688568115, "rank": 2, "decoded_token": ","},
                },
                {
                    "400": {"logprob": -12.821561813354492, "rank": 11538, "decoded_token": "ld"},
                    "198": {"logprob": -1.5999853610992432, "rank": 1, "decoded_token": "\n"},
                    "28": {"logprob": -3.0427629947662354, "rank": 2, "decoded_token": ","},
                },
            ],
            "prompt_token_ids": [1, 300, 400],
        }
    ],
    "system_fingerprint": "vllm-0.32.0-250949e3",
}
# The same numbers in the form that SGLang documents for `/generate` with `return_logprob`; nobody of us has run it.
SGLANG: dict[str, Any] = {
    "text": "er",
    "output_ids": [259],
    "meta_info": {
        "id": "0",
        "finish_reason": {"type": "length", "length": 1},
        "prompt_tokens": 3,
        "completion_tokens": 1,
        "cached_tokens": 0,
        "input_token_logprobs": [[None, 1, None], [-14.154200553894043, 300, None], [-12.821561813354492, 400, None]],
        "output_token_logprobs": [[-1.4193968772888184, 259, None]],
        "input_top_logprobs": [
            None,
            [[-0.9855020046234131, 29, None], [-2.0762059688568115, 28, None]],
            [[-1.5999853610992432, 198, None], [-3.0427629947662354, 28, None]],
        ],
        "output_top_logprobs": [[[-1.4193968772888184, 259, None], [-2.718595027923584, 258, None]]],
    },
}
RECORDED = {"vllm": VLLM, "sglang": SGLANG}
IDS = [1, 300, 400]


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_row_t_speaks_of_token_t_plus_1(kind: Any) -> None:
    """The true next token, which is not among the most probable, fills no slot; its nats are kept; the last row pays none."""
    said = read_answer(kind, RECORDED[kind], IDS, 2)
    np.testing.assert_array_equal(said.ids, [[29, 28], [198, 28], [259, 258]])
    want = [[-0.98550200, -2.07620597], [-1.59998536, -3.04276299], [-1.41939688, -2.71859503]]
    np.testing.assert_allclose(said.log_probs, want, rtol=1e-6)
    np.testing.assert_allclose(said.nll, [14.15420055, 12.82156181, 0.0], rtol=1e-6)
    assert said.nll.dtype == said.log_probs.dtype == np.float32


def test_questions() -> None:
    path, body = question("vllm", "m", IDS, 2)
    assert path == "/v1/completions"
    assert body == {
        "model": "m",
        "prompt": IDS,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 2,
        "logprobs": 2,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    path, body = question("sglang", "m", IDS, 2)
    assert path == "/generate"
    assert body == {
        "input_ids": IDS,
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 2,
    }


def test_nothing_but_the_true_token() -> None:
    """As scores ask: vLLM lists it alone, SGLang leaves the lists of the most probable out."""
    vllm, sglang = deepcopy(VLLM), deepcopy(SGLANG)
    for row, token in zip(vllm["choices"][0]["prompt_logprobs"][1:], ("300", "400"), strict=True):
        for other in set(row) - {token}:
            del row[other]
    del sglang["meta_info"]["input_top_logprobs"], sglang["meta_info"]["output_top_logprobs"]
    for kind, answer in (("vllm", vllm), ("sglang", sglang)):
        said = read_answer(kind, answer, IDS, 0)  # type: ignore[arg-type]
        assert said.ids.shape == said.log_probs.shape == (3, 0)
        np.testing.assert_allclose(said.nll, [14.15420055, 12.82156181, 0.0], rtol=1e-6)


def test_of_equal_tokens_the_lower_id_comes_first_and_minus_9999_is_nothing() -> None:
    """vLLM writes -9999 for a probability of 0: no slot, and infinite nats."""
    answer = deepcopy(VLLM)
    row = answer["choices"][0]["prompt_logprobs"][1]
    row.update({"29": {"logprob": -2.5}, "28": {"logprob": -2.5}, "300": {"logprob": -9999.0}})
    said = read_answer("vllm", answer, IDS, 3 - 1)
    np.testing.assert_array_equal(said.ids[0], [28, 29])
    assert said.nll[0] == np.inf
    row["29"]["logprob"] = -9999.0
    assert read_answer("vllm", answer, IDS, 2).log_probs[0].tolist() == [-2.5, EMPTY]


def changed(kind: str, change: Any) -> dict[str, Any]:
    answer = deepcopy(RECORDED[kind])
    change(answer["choices"][0] if kind == "vllm" else answer["meta_info"])
    return answer


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("vllm", lambda c: c["prompt_logprobs"][2].pop("28"), "it returned 2 log-probabilities .* where 3 were asked"),
        ("vllm", lambda c: c["prompt_logprobs"].pop(), r"not of the form of vllm \(ValueError"),
        ("vllm", lambda c: c["prompt_logprobs"][1].pop("300"), r"not of the form of vllm \(KeyError: '300'\)"),
        ("vllm", lambda c: c.update(prompt_logprobs=None), r"not of the form of vllm \(TypeError"),
        ("vllm", lambda c: c.pop("prompt_token_ids"), r"not of the form of vllm \(KeyError: 'prompt_token_ids'\)"),
        (
            "vllm",
            lambda c: (
                c.update(prompt_token_ids=[1, 300, 401]),
                c["prompt_logprobs"][2].update({"401": {"logprob": -9}}),
            ),
            "it answered for token 401 where 400 was sent, at place 2",
        ),
        (
            "vllm",
            lambda c: (c["prompt_token_ids"].pop(), c["prompt_logprobs"].pop()),
            "it answered for 2 tokens in 2 rows where 3 tokens were sent",
        ),
        (
            "vllm",
            lambda c: c["prompt_logprobs"][1].update({"29": {"logprob": 3.5}}),
            "sum to 33.24, so they are none: start vLLM with --logprobs-mode raw_logprobs",
        ),
        ("sglang", lambda m: m["input_top_logprobs"][2].pop(), "it returned 1 log-probabilities .* where 3 were asked"),
        ("sglang", lambda m: m["input_token_logprobs"].pop(0), "it answered for 2 tokens in 3 rows"),
        (
            "sglang",
            lambda m: m.update(finish_reason={"type": "abort", "message": "Input too long"}),
            r"not of the form of sglang \(ValueError: Input too long\)",
        ),
    ],
)
def test_answers_to_another_question_are_refused(kind: Any, change: Any, message: str) -> None:
    """Three log-probabilities are what vLLM's rows have here, the true token's among them."""
    answer = changed(kind, change)
    with pytest.raises(ValueError, match=message):
        read_answer(kind, answer, IDS, 2 if "sum to" in message else 3)
