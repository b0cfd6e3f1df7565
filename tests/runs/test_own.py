"""An alignment that asks for the target's own words gets them from the source that is the target, or is refused."""

from functools import partial

import pytest

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.optimal_transport import optimal_transport
from knowfuse.runs.refusals import require_own
from knowfuse.types import LLMSpec

TARGET, OTHER = LLMSpec(path="target"), LLMSpec(path="other")


def test_a_target_that_is_no_source_is_refused() -> None:
    require_own(partial(byte_exact), TARGET, {"other": OTHER})
    require_own(partial(optimal_transport, width=3), TARGET, {"other": OTHER, "same": LLMSpec(path="target")})
    with pytest.raises(
        ValueError,
        match=r"alignment 'optimal_transport' moves .* and none of the sources \['other'\] is the target: add it to sources",
    ):
        require_own(partial(optimal_transport), TARGET, {"other": OTHER})
