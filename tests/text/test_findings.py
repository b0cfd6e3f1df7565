"""One check of what a text is; what is left out is counted, and what cannot be read is told at once."""

import pytest

from knowfuse.text.findings import HOPELESS, Findings, is_whole


def told(findings: Findings) -> str:
    with pytest.raises(ValueError, match=r"set|mend|convert") as caught:
        findings.require_no_faults()
    return str(caught.value)


def text_of(findings: Findings, record: dict[str, object], *fields: str) -> str | None:
    return findings.text_of(record, fields or ["text"], "file 'a', line", 7, "corpus.text_field")


@pytest.mark.parametrize("text", ["a", " a\r\n", "x\ry", "\u20ac\r\rb", "\0", "\ufeffa", "\U0001f600"])
def test_a_text_is_left_as_it_is(text: str) -> None:
    findings = Findings()
    assert text_of(findings, {"text": text, "other": 3}) == text
    findings.require_no_faults()
    assert not findings.skipped


def test_nulls_empty_cells_and_half_pairs_are_counted_and_the_first_is_named() -> None:
    findings = Findings()
    for value in (None, float("nan"), "", " \n", "half \ud83d", "half \ude00 too"):
        assert text_of(findings, {"text": value}) is None
    assert findings.skipped == {"null": 2, "empty": 2, "half a surrogate pair": 2}
    assert findings.first["half a surrogate pair"] == "file 'a', line 7"
    findings.require_no_faults()


def test_several_fields_are_one_text_of_those_that_have_one() -> None:
    findings = Findings()
    assert text_of(findings, {"q": "why?", "a": "so", "b": ""}, "q", "a") == "why?\nso"
    assert text_of(findings, {"q": None, "a": "so"}, "q", "a") == "so"
    assert text_of(findings, {"q": None, "a": " "}, "q", "a") is None
    assert text_of(findings, {"q": "half \ud83d", "a": "so"}, "q", "a") is None
    assert findings.skipped == {"null": 2, "empty": 1, "half a surrogate pair": 1}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": 3}, "file 'a', line 7 has no text in field 'text', but int 3: set corpus.text_field to a field that"),
        ({"text": ["a"]}, "has no text in field 'text', but list ['a']: set"),
        ({"text": {"a": "b" * 99}}, "but dict {'a': 'bbbbb"),
        ({"body": "x", "id": 3}, "file 'a', line 7 has no text field 'text', it has 'body', 'id': set"),
        ({}, "it has none"),
    ],
)
def test_what_is_no_text_is_a_fault(record: dict[str, object], message: str) -> None:
    findings = Findings()
    assert text_of(findings, record) is None
    assert message in told(findings)
    assert len(told(findings)) < 250


def test_ten_faults_are_listed_and_the_others_counted() -> None:
    findings = Findings()
    for line in range(1, 11):
        findings.fault(f"line {line}", "is not JSON", "mend it")
    assert told(findings).splitlines() == [
        "the text has 10 places that cannot be read",
        *(f"  line {line} is not JSON" for line in range(1, 11)),
        "mend it",
    ]
    findings.fault("line 11", "is not UTF-8", "convert it")
    assert told(findings).splitlines()[-2:] == ["  and 1 more", "mend it"]


def test_a_hopeless_place_is_left_and_the_next_is_looked_at() -> None:
    findings = Findings()
    read: list[tuple[str, int]] = []
    for place in ("a", "b"):
        with findings.one_place():
            for line in range(HOPELESS + 5):
                findings.fault(f"{place} {line}", "is not JSON", "mend it", place)
                read.append((place, line))
    assert len(read) == 2 * (HOPELESS - 1)
    assert "  and at least 1,990 more\n" in told(findings)


def test_half_a_pair_cannot_be_written() -> None:
    assert is_whole("\U0001f600 \ud7ff \ue000")
    assert not is_whole("\ud83d")
    assert not is_whole("\ude00\ud83d")
