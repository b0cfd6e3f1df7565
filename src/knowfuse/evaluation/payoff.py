"""Will fusing pay, and by how much, by what plain CLM will reach on the text and what its sources know?

The rule: fusing pays where the oracle over the sources lies below what plain CLM reaches on the fusion text, and about as much
as a fixed share of the bits between them. Where CLM reaches below the oracle, its sources have nothing to teach it.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from knowfuse.evaluation.learning_curve import Estimate

# Of the quickstart with 20 and 100 kB of text a domain, and with weak sources: 0.39, 0.38 and 0.57 (docs/log.md); so few say little.
SHARE = Estimate(0.45, 0.2)
SURE = 0.9  # from which probability on the answer is yes, and below which complement it is no


@dataclass(frozen=True)
class Payoff:
    """What is expected of fusing, in bits per byte below plain CLM."""

    gain: Estimate
    probability: float  # that CLM ends above the oracle, where there is something to gain

    @property
    def answer(self) -> str:
        """`yes`, `no`, or `open` where the figures do not tell."""
        return "yes" if self.probability >= SURE else "no" if self.probability <= 1.0 - SURE else "open"


def payoff(clm: Estimate, oracle: Estimate) -> Payoff:
    """The gain over CLM that ends at `clm`, both in bits per byte on the same text.

    It is `SHARE` of how far CLM ends above the oracle, and none where it ends below: the mean and the standard deviation of
    that, where the distance is normal with the errors of both, and the share with its own.
    """
    mean, error = clm.value - oracle.value, max(math.hypot(clm.error, oracle.error), 1e-9)
    normal = NormalDist()
    above, density = normal.cdf(mean / error), normal.pdf(mean / error)
    distance = mean * above + error * density  # of max(distance, 0)
    square = (mean**2 + error**2) * above + mean * error * density
    gain = SHARE.value * distance
    spread = (SHARE.value**2 + SHARE.error**2) * square - gain**2
    return Payoff(Estimate(gain, math.sqrt(max(spread, 0.0))), above)
