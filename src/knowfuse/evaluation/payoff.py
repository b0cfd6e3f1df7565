"""Will fusing pay, and by how much, by what plain CLM will reach on the text and what its sources know?

The rule: fusing pays where the oracle over the sources lies below what plain CLM reaches on the fusion text, by a share of the bits
between them that grows with the passes over that text. Where CLM reaches below the oracle, its sources have nothing to teach it.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from knowfuse.evaluation.learning_curve import Estimate

# Of the quickstart at twelve places of 1 to 8 passes over 22,000 to 114,000 tokens, by least squares of the logarithms (docs/log.md).
ONE_PASS = 0.13
MORE_PASSES = 0.7  # the power by which the share grows
UNSURE = 0.3  # of the share: its standard deviation
SEEN = 8.0  # passes, beyond which the share is that of so many
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


def share_after(passes: float) -> Estimate:
    """Of what lies between CLM and the oracle, which share fusing gains with so many passes over the fusion text."""
    share = ONE_PASS * min(passes, SEEN) ** MORE_PASSES
    return Estimate(share, UNSURE * share)


def payoff(clm: Estimate, oracle: Estimate, passes: float) -> Payoff:
    """The gain over CLM that ends at `clm` after so many passes, in bits per byte on the same text as the oracle.

    It is `share_after` them of how far CLM ends above the oracle, and none where it ends below: the mean and the standard deviation of
    that, where the distance is normal with the errors of both, and the share with its own.
    """
    share = share_after(passes)
    mean, error = clm.value - oracle.value, max(math.hypot(clm.error, oracle.error), 1e-9)
    normal = NormalDist()
    above, density = normal.cdf(mean / error), normal.pdf(mean / error)
    distance = mean * above + error * density  # of max(distance, 0)
    square = (mean**2 + error**2) * above + mean * error * density
    gain = share.value * distance
    spread = (share.value**2 + share.error**2) * square - gain**2
    return Payoff(Estimate(gain, math.sqrt(max(spread, 0.0))), above)
