"""What a model card says of its licence, and which licences are named before a target is shared."""

from pathlib import Path

import pytest

from knowfuse.llms.licences import concerns, licence_of, page_of
from knowfuse.types import LLMSpec, Recipe

RECIPE = Recipe("llama", "unigram", "code", 400, 32, 1, 2, 64, 1, 64, 1e-3)


def card(folder: Path, text: str) -> LLMSpec:
    folder.mkdir()
    (folder / "README.md").write_text(text)
    return LLMSpec(path=str(folder))


@pytest.mark.parametrize(
    ("metadata", "concern"),
    [
        ("license: apache-2.0", None),
        ("license: llama2", "is under llama2, which forbids to improve LLMs other than Llama 2 with its outputs"),
        ("license: llama3", "is under llama3, which forbids to improve LLMs other than Llama 3"),
        ("license: llama3.2", "is under llama3.2, which asks that the name"),
        ("license: gemma", "is under gemma, which holds for every LLM that is trained on its outputs too"),
        ("license: cc-by-nc-4.0", "is under cc-by-nc-4.0, which forbids commercial use"),
        ("license: other\nlicense_name: mine-1\nlicense_link: https://mine", "is under a licence of its own, mine-1"),
        ("license: other", "is under a licence of its own, which its card does not name"),
        ("license: [mit, apache-2.0]", None),
        ("language: en", "says no licence (the metadata of its README.md have none)"),
        ("license: {", "says no licence (the metadata of its README.md cannot be read)"),
        ("- a list", "says no licence (the metadata of its README.md cannot be read)"),
    ],
)
def test_a_licence_that_asks_for_something_is_named(tmp_path: Path, metadata: str, concern: str | None) -> None:
    spec = card(tmp_path / "llm", f"---\n{metadata}\n---\n# It")
    named = concerns({"one": spec})
    assert len(named) == (concern is not None)
    if concern is not None:
        assert named[0].startswith(f"source one: llm {concern}")
        link = "https://mine" if "https" in metadata else "where it came from"
        assert named[0].endswith(f"; nothing is blocked, read it ({link}) before you share the target")


def test_where_a_card_is_looked_for(tmp_path: Path) -> None:
    """In the folder, then in the notes by its id; an LLM made here has none and needs none."""
    (tmp_path / "org--it").mkdir()
    (tmp_path / "org--it" / "README.md").write_text("---\nlicense: MIT\n---\n")
    found = licence_of(LLMSpec(path="org/it"), tmp_path)
    assert found is not None
    assert (found.name, found.concern, page_of(LLMSpec(path="org/it"))) == (
        "mit",
        None,
        "https://huggingface.co/org/it",
    )
    assert licence_of(LLMSpec(recipe=RECIPE)) is None
    assert page_of(LLMSpec(recipe=RECIPE)) is page_of(LLMSpec(path=str(tmp_path))) is None
    gone = concerns(
        {"a": LLMSpec(path=str(tmp_path / "gone")), "b": LLMSpec(path="org/it"), "c": LLMSpec(recipe=RECIPE)}
    )
    assert [line.partition(";")[0] for line in gone] == [
        "source a: gone says no licence (there is no README.md of it on this machine)",
        "source b: org/it says no licence (there is no README.md of it on this machine)",
    ]
    assert "(https://huggingface.co/org/it)" in gone[1]
