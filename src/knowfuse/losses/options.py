"""How may the loss be chosen, and what does not go together?"""

from dataclasses import dataclass
from typing import Literal

from knowfuse.losses.softened import LEAST, MOST
from knowfuse.settings import require_choices

Form = Literal["tail", "renormalised"]
Gate = Literal["none", "better"]
Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon"]
Completion = Literal["token", "set"]
Balance = Literal["fixed", "match_clm"]


@dataclass(frozen=True)
class LossOptions:
    """The choices of `fused_linear_loss`; ValueError for a value that does not exist and for two that exclude each other."""

    form: Form = "tail"
    gate: Gate = "none"
    divergence: Divergence = "forward_kl"
    beta: float = 0.5  # the fused target's share of the Jensen-Shannon mixture
    temperature: float = 1.0  # log-probabilities are divided by it
    balance: Balance = "fixed"
    completion: Completion = "token"

    def __post_init__(self) -> None:
        require_choices(type(self), vars(self))
        if not LEAST <= self.temperature <= MOST:
            raise ValueError(
                f"loss.temperature is {self.temperature}: it divides logits, and must lie between {LEAST:g} and {MOST:g}; 1 changes nothing"
            )
        if not 0.0 < self.beta < 1.0:
            raise ValueError(
                f"loss.beta is {self.beta}: it is the fused target's share of the Jensen-Shannon mixture, and must lie between "
                "0 and 1; at its ends set loss.divergence to forward_kl (0) or reverse_kl (1)"
            )
        if self.form == "renormalised" and self.divergence == "reverse_kl":
            raise ValueError(
                "loss.form=renormalised gives no probability outside the slots, where loss.divergence=reverse_kl would be "
                "infinite: set loss.form=tail, or loss.divergence to forward_kl or jensen_shannon"
            )
