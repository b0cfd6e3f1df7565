"""What a run says at its end."""

import time

from knowfuse.runs.summary import Stages, asked_for


def test_stages_are_all_of_the_time() -> None:
    start = time.monotonic()
    stages = Stages()
    stages.end("one")
    stages.end("another")
    assert 0 <= sum(stages.seconds.values()) <= time.monotonic() - start
    stages.seconds = {"one": 3661.0, "another": 1.0}
    assert str(stages) == "time: one 1:01:01, another 0:00:01; 1:01:02 in all"


def test_settings_can_be_typed_again() -> None:
    assert asked_for([]) == "settings: the defaults"
    assert asked_for(["fusion=avg_ce", "learning_rates=[1e-3]"]) == (
        "settings: fusion=avg_ce 'learning_rates=[1e-3]', and the defaults"
    )
