"""Curves whose ends are known, told from their beginnings."""

import numpy as np
import pytest

from knowfuse.evaluation.learning_curve import extrapolated

NOISE = 0.004


def curve(n: float, floor: float, scale: float, power: float, shape: float = 1.0, before: float = 3.0) -> float:
    return floor + (before - floor) * (1.0 + (n / scale) ** shape) ** -power


@pytest.mark.parametrize(
    "numbers",
    [
        (1.0, 2e4, 0.4),
        (0.0, 5e3, 0.12),
        (2.2, 4e4, 1.0),
        (2.7, 1e3, 0.6),
        (0.5, 5e5, 0.5, 0.6),
        (1.5, 1e5, 1.0, 0.7),
    ],
)
def test_a_curve_goes_on_as_it_began(numbers: tuple[float, ...]) -> None:
    """From the first sixteenth to the half of a text, without noise: its end lies within the error that is told, which is small."""
    parts = {n: curve(n, *numbers) for n in (6_000, 12_000, 25_000, 50_000)}
    found = extrapolated(3.0, parts, 100_000, NOISE)
    assert abs(found.value - curve(100_000, *numbers)) < 2 * found.error
    assert found.error < 0.025


def test_the_quickstart_from_its_first_half() -> None:
    """What `python -m knowfuse.probe` measured of it on 99 documents; on all of validation it fell by 0.419 to its end."""
    parts = {5_801: 3.104, 11_431: 3.055, 24_263: 2.998, 48_482: 2.901}
    found = extrapolated(3.177, parts, 98_174, 0.005)
    assert abs(found.value - (3.177 - 0.419)) < 2 * found.error < 0.05


def test_the_error_is_as_large_as_the_miss_is() -> None:
    """Over curves and noise by chance: of the ends nine in ten lie within two errors, and the errors are not all-embracing."""
    rng = np.random.default_rng(0)
    misses, errors = [], []
    for _ in range(40):
        numbers = rng.uniform(0.5, 2.6), np.exp(rng.uniform(np.log(3e3), np.log(1e5))), rng.uniform(0.1, 1.0)
        numbers = (*numbers, rng.uniform(0.5, 1.0))
        parts = {n: curve(n, *numbers) + NOISE * rng.standard_normal() for n in (6_000, 12_000, 25_000, 50_000)}
        found = extrapolated(3.0, parts, 100_000, NOISE)
        misses.append(abs(found.value - curve(100_000, *numbers)))
        errors.append(found.error)
    within = np.mean(np.array(misses) < 2 * np.array(errors))
    assert within >= 0.9
    assert np.mean(errors) < 0.03


def test_further_is_less_certain_and_more_parts_are_surer() -> None:
    parts = {n: curve(n, 1.5, 2e4, 0.5) for n in (6_000, 12_000, 25_000, 50_000)}
    near, far = (extrapolated(3.0, parts, to, NOISE).error for to in (100_000, 1_000_000))
    assert NOISE < near < far
    three = {n: parts[n] for n in (6_000, 12_000, 25_000)}
    assert extrapolated(3.0, three, 100_000, NOISE).error > near


def test_what_no_curve_fits_has_a_large_error() -> None:
    """Figures that jump by 0.2, where 0.004 were expected."""
    jumps = {6_000: 2.6, 12_000: 2.8, 25_000: 2.5, 50_000: 2.7}
    assert extrapolated(3.0, jumps, 100_000, NOISE).error > 0.05


def test_too_few_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="a curve needs 3 parts of the text, got 2"):
        extrapolated(3.0, {10: 2.5, 20: 2.4}, 100, NOISE)


def test_an_llm_that_learns_nothing_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"below the 3\.000 bits per byte that it paid before: there is no curve; set lea"
    ):
        extrapolated(3.0, {10: 3.1, 20: 3.05, 40: 3.0}, 100, NOISE)
