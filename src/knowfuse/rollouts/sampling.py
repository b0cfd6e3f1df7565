"""By which settings are documents written, and by which chance each?"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from knowfuse.settings import require_types
from knowfuse.traces.drawing import uniforms


@dataclass(frozen=True)
class Sampling:
    """So many documents from each prompt, at a temperature, by a seed.

    Of the run's texts a prompt is the first `prompt_tokens` tokens, BOS among them. A document is written for at most
    `new_tokens`, up to its EOS. ValueError for a value that cannot be.
    """

    n: int = 1
    temperature: float = 1.0
    prompt_tokens: int = 16
    new_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        require_types(type(self), vars(self))
        least = {"n": 1, "prompt_tokens": 2, "new_tokens": 1}
        for name, smallest in least.items():
            if (value := getattr(self, name)) < smallest:
                raise ValueError(f"{name} is {value}: it must be at least {smallest}")
        if not 0.0 < self.temperature < float("inf"):
            raise ValueError(
                f"temperature is {self.temperature}: it divides logits, and must be above 0; 1 draws as the target believes"
            )

    def seed_of(self, input_ids: tuple[int, ...], number: int) -> str:
        """Of document `number` from this prompt, in hex: of the prompt, the seed and the number, and of nothing else."""
        return hashlib.sha256(json.dumps([self.seed, number, input_ids]).encode()).hexdigest()

    def uniforms(self, input_ids: tuple[int, ...], number: int) -> Float64[np.ndarray, " N"]:
        """The random number of each of its tokens."""
        return uniforms(self.seed_of(input_ids, number), self.new_tokens)
