"""How does an LLM go on from a beginning? By transformers' generate, one token after another: the most probable, or drawn ones.

A folder's generation_config.json has habits of its maker (penalties, a top-p): none of them is taken.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from knowfuse.llms.dispatched import input_device

BELOW = 1.0 - 1e-12  # keeps a rounded sum on its side of the end of a distribution


def generated(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "B P"],
    new_tokens: int,
    eos_id: int | None,
    processors: Sequence[LogitsProcessor] = (),
    stopping: Sequence[StoppingCriteria] = (),
) -> list[list[int]]:
    """Of each row the ids that the model goes on with, the most probable of what `processors` leave, up to its EOS, which is with them.

    The rows are of one length, so there is no padding: what is said of one does not depend on the others.
    """
    input_ids = input_ids.to(input_device(model))
    how = GenerationConfig(do_sample=False, max_new_tokens=new_tokens, eos_token_id=eos_id, pad_token_id=eos_id or 0)
    habits, model.generation_config = model.generation_config, GenerationConfig()
    try:
        with torch.inference_mode():
            whole = model.generate(  # pyright: ignore[reportCallIssue]
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=how,
                logits_processor=LogitsProcessorList(processors),
                stopping_criteria=StoppingCriteriaList(stopping),
            )
    finally:
        model.generation_config = habits
    said = whole[:, input_ids.shape[1] :].tolist()
    return [ids[: ids.index(eos_id) + 1] if eos_id in ids else ids for ids in said]


class Only(LogitsProcessor):
    """Leaves the tokens that may be said: the ids below `len(may)` where it is true."""

    def __init__(self, may: Bool[Tensor, " V"]) -> None:
        self.may = may

    def __call__(self, input_ids: Tensor, scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        may = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
        may[: len(self.may)] = self.may.to(scores.device)
        return scores.masked_fill(~may, -torch.inf)


class Drawn(LogitsProcessor):
    """Leaves one token of each row: drawn at this temperature by the row's own random number for that step, in [0, 1).

    It is the first whose cumulative probability is above the number, so a draw depends on nothing that another row draws. Sums
    are rounded otherwise in another batch: a number on the edge of two tokens may then meet the other. ValueError for logits
    that are not finite.
    """

    def __init__(self, uniforms: Float64[Tensor, "B N"], temperature: float, begun: int) -> None:
        self.uniforms, self.temperature, self.begun = uniforms, temperature, begun

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        ends = (scores.double() / self.temperature).softmax(-1).cumsum(-1)
        if not bool(torch.isfinite(ends[:, -1]).all()):
            raise ValueError("the target returned NaN or infinite logits: check its dtype and weights")
        uniform = self.uniforms[:, input_ids.shape[1] - self.begun, None].to(ends.device)
        drawn = torch.searchsorted(ends, BELOW * uniform * ends[:, -1:], right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)
