"""Ctrl-C ends a command by a line and the status that shells give it, whoever has answered it before."""

import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from knowfuse.commands.interrupted import ending_at_ctrl_c
from knowfuse.importing import INTERRUPTED


@pytest.fixture(autouse=True)
def _hears() -> Iterator[None]:
    """As of a terminal, also where the tests are a job in the background, which a shell lets ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted() -> None:
    signal.raise_signal(signal.SIGINT)


def as_lightning_does() -> None:
    try:
        interrupted()
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize("block", [interrupted, as_lightning_does])
@pytest.mark.parametrize(
    ("config_name", "words", "more"),
    [
        ("train", ["lm_weight=0.5"], " with ckpt_path=last"),
        ("train", ["ckpt_path=last"], ""),
        ("train", ["-m", "lm_weight=0.5,0.6"], ""),
        ("evaluate", [], ""),
    ],
)
def test_it_says_how_to_go_on(
    block: Callable[[], None], config_name: str, words: list[str], more: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, ending_at_ctrl_c(config_name, words):
        block()
    assert end.value.code == INTERRUPTED == 130
    said = f"interrupted: what is done is kept, and the same command{more} does the rest\n"
    assert capsys.readouterr().err == said
    interrupted()  # a second one is not heard


def test_a_probe_keeps_none_of_its_fits_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), ending_at_ctrl_c("probe", []):
        interrupted()
    assert "the fits of a probe are not kept, and the same command begins anew" in capsys.readouterr().err


def test_with_its_stack_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(KeyboardInterrupt), ending_at_ctrl_c("train", []):
        interrupted()


@pytest.mark.parametrize("status", [1, 143])
def test_any_other_end_stays_what_it_is(status: int) -> None:
    with pytest.raises(SystemExit) as end, ending_at_ctrl_c("train", []):
        sys.exit(status)
    assert end.value.code == status
