"""What of a completion is Python, against a search for an ending; what an LLM says, against reading all again for each token."""

import ast
import textwrap
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from experiments_for_tests import documents, local_llm

from knowfuse.evaluation import completed, prompts_of
from knowfuse.evaluation.completions import MOST_BYTES, Prompt, is_python, went_on
from knowfuse.evaluation.told import Beginnings, go_on
from knowfuse.llms.head import row_logits
from knowfuse.runs.completing import code_prompts
from knowfuse.text.document import Document, cut

CLOSE = ["", ")", "]", "}", '"""', "'''", ":", "x", "\n            pass\n", "\nexcept A:\n    pass\n"]


def parsed(text: str) -> str | None:
    """The tree without its places."""
    try:
        return ast.dump(ast.parse(text))
    except (SyntaxError, ValueError, MemoryError):
        return None


def slow(prompt: str, completion: str) -> bool:
    """Some ending makes the whole lines Python, and so many of them are Python that say more than the prompt does."""
    lines = (prompt + completion).split("\n")[:-1]
    text = "\n".join(lines)
    goes_on = any(parsed(text + "".join(end)) for end in product(CLOSE, repeat=3))
    said = [parsed("\n".join(lines[: n + 1]) + "\n") for n in range(prompt.count("\n"), len(lines))]
    return goes_on and any(tree is not None and tree != parsed(prompt + "\n") for tree in said)


@pytest.mark.parametrize(
    ("prompt", "completion", "want"),
    [
        ("def f(x):", "\n    return x\n", True),
        ("def f(x):", "\n    return x", False),  # cut: perhaps not the whole line
        ("def f(x):", "\n    return x\n    if x", True),
        ("def f(x):", "\nreturn x\n", False),
        ("def f(x):", "\n    return = x\n", False),
        ("def f(x):", "\n    return x\n  y = 1\nz", False),
        ("x = f(1,", "\n      2)\ny = (3,\n", True),
        ("x = f(1,", "\n      2\n", False),
        ("x = f(1,", "\n      2]\n", False),
        ("x = 1", "\n# only\n\n   # this\n", False),
        ("x = 1", "\ny = 2\n# and this\n", True),
        ("x = a", ".b\n", True),
        ("x = a", "", False),
        ("class A:", '\n    """Never\n    closed\n', False),
        ("class A:", '\n    x = 1\n    """Never\n    closed\n', True),
        ("try:\n    x", "\n    y\n", False),
        ("try:\n    x", "\n    y\nexcept A:\n    z\n", True),
        ("é = 'ü'", "\nö = é\n", True),
        ("x = 1", "\ny = \0\n", False),
        ("x = 1", f"\ny = {'(' * 300}\n", False),
    ],
)
def test_a_completion_is_python_where_some_ending_makes_it_so(prompt: str, completion: str, want: bool) -> None:
    assert is_python(prompt, completion) == slow(prompt, completion) == want


def test_a_prompt_from_within_blocks_may_leave_them() -> None:
    """To any column that is not deeper, as nobody says which they were; but not to between two lines of its own."""
    for indentation in ("        ", "\t\t"):
        prompt = f"{indentation}x = 1"
        assert is_python(prompt, f"\n{indentation}y\n{indentation[1:]}z\nw\n")
        assert not is_python(prompt, f"\n{indentation} y\n")
        assert not is_python(f"{prompt}\n{indentation}if x:\n{indentation}  y", f"\n{indentation} z\n")


def whole_prompts() -> Iterator[tuple[Document, Prompt]]:
    texts = {d.id: d for d in (Document(t, "code", "test") for t in cut(Path(textwrap.__file__).read_text(), 384))}
    yield from ((texts[prompt.id], prompt) for prompt in prompts_of(list(texts.values()), 1000))


def test_documents_that_pass_are_begun_in_whole_lines() -> None:
    """Half of an end of theirs; most of a real module's pieces do."""
    found = list(whole_prompts())
    assert len(found) > 20
    for document, prompt in found:
        before, _, rest = document.text.partition(prompt.text)
        assert before == "" or before.endswith("\n")
        assert rest.startswith("\n")
        assert len(rest.encode()) / len((prompt.text + rest).encode()) > 0.4
        assert prompt.num_bytes == min(len(rest.encode()), MOST_BYTES)
        assert is_python(prompt.text, rest.encode()[: prompt.num_bytes].decode(errors="ignore"))
    texts = [document for document, _ in found]
    assert [p.id for p in prompts_of(texts, 3)] == [texts[n * len(texts) // 3].id for n in range(3)]


def test_text_that_is_no_python_is_refused() -> None:
    prose = [Document("It was a dark night.\nAnd so it went on.\n" * 4, "prose", "test")]
    with pytest.raises(ValueError, match=r"none of 1 documents of domains \['prose'\] is Python that could be begun"):
        prompts_of(prose, 5)
    with pytest.raises(ValueError, match=r"domains has 'cod', which is no domain of the text: choose from \['prose'\]"):
        code_prompts(prose, {"domains": ["cod"], "documents": 5})


@pytest.mark.parametrize("architecture", ["llama", "mpt"])
def test_an_llm_goes_on_with_what_is_most_probable(architecture: str, tmp_path: Path) -> None:
    """For as many bytes, up to its EOS, and no further than it can read; random weights write no Python."""
    llm = local_llm(tmp_path / architecture, architecture)
    model, surface = llm.load(), llm.surface()
    prompts = [Prompt(d.id, d.text, 9) for d in documents(3)]
    for prompt in prompts:
        ids = torch.from_numpy(surface.tokenize(prompt.text, is_complete=False).input_ids)[None]
        asked = Beginnings([prompt.id], ids, surface.usable, surface.eos_id, 9)
        said = go_on(row_logits(model), asked, torch.device("cpu"))[prompt.id]
        want = b"".join(surface.token_bytes[i] or b"" for i in said)
        assert went_on(model, surface, prompt, 512) == want[:9].decode(errors="ignore")
        (first, *_) = said
        short = went_on(model, surface, prompt, ids.shape[1] + 1)
        assert short == (surface.token_bytes[first] or b"")[:9].decode(errors="ignore")
    its = completed(model, surface, prompts, 512)
    assert (its.prompts, its.accepted, its.share, its.error) == (3, 0, 0.0, 0.0)
