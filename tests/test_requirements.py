"""What may be installed: never the two malicious releases of lightning, and the pins are within the bounds."""

import tomllib

import pytest
from experiments_for_tests import ROOT
from packaging.requirements import Requirement

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BOUNDS = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}
FILES = sorted(path.name for path in ROOT.glob("requirements*.txt"))


def pinned(file: str) -> list[Requirement]:
    lines = [line.partition("#")[0].strip(" \\") for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
@pytest.mark.parametrize("release", ["2.6.2", "2.6.3"])
def test_malicious_releases_cannot_be_resolved(name: str, release: str) -> None:
    """GHSA-w37p-236h-pfx3: neither by name nor, since lightning asks for pytorch-lightning without bounds, through it."""
    assert not BOUNDS[name].specifier.contains(release, prereleases=True)
    assert BOUNDS[name].specifier.contains("2.6.6")
    for file in FILES:
        assert not [r for r in pinned(file) if r.name == name and r.specifier.contains(release, prereleases=True)], file


def test_what_is_pinned_is_within_the_bounds() -> None:
    """Exact versions of our own requirements, so that today's figures are tomorrow's; those with hashes are the same."""
    pins = {r.name: r for r in pinned("requirements.txt")}
    hashed = {r.name: r for r in pinned("requirements-hashes.txt")}
    assert len(pins) > 20
    assert pins.keys() <= BOUNDS.keys() <= hashed.keys()
    assert all(hashed[name].specifier == pin.specifier for name, pin in pins.items())
    for name, pin in pins.items():
        (version,) = [s.version for s in pin.specifier if s.operator == "=="]
        assert BOUNDS[name].specifier.contains(version, prereleases=True), name
