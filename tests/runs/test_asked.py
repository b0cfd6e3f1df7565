"""What an evaluation is asked for: one thing, nothing passed over, nothing overwritten."""

from pathlib import Path

import pytest
from experiments_for_tests import composed

from knowfuse.runs.asked import LEFT, require_asked, require_new


def asked(*overrides: str) -> str:
    names = [override.partition("=")[0] for override in overrides]
    return require_asked(composed("evaluate", *overrides), names)


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["run=a", "split=validation"], "score"),
        (["run=a", "corpus.files={x: [b.txt]}", "corpus.text_field=body", "trainer=cpu"], "score"),
        (["run=a", "tasks=[piqa]", "limit=3"], "answer"),
        (["run=a", "evaluation=commonsense"], "answer"),
        (["model=a", "tasks=[piqa]", "run_code=true"], "answer"),
        (["compare=[a,b]", "baseline=mpt"], "compare"),
    ],
)
def test_what_is_asked(overrides: list[str], kind: str) -> None:
    assert asked(*overrides) == kind


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "say what to evaluate: run=outputs/<name>/<date_time>, model=<folder or hub id> with tasks=, or compare="),
        (["run=a", "compare=[b]"], "say what to evaluate"),
        (["run=a", "model=b"], "say what to evaluate"),
        (
            ["compare=[a]", "split=validation"],
            "split is set, which goes with run= alone and not with compare=: leave it out, or",
        ),
        (
            ["compare=[a]", "corpus.files={x: [b.txt]}"],
            "corpus is set, which goes with run= alone and not with compare=",
        ),
        (["compare=[a]", "tasks=[piqa]"], "tasks is set, which goes with tasks= and not with compare="),
        (
            ["run=a", "corpus.max_document_bytes=512"],
            r"corpus\.max_document_bytes is set, and says how other text is read, of which none is named: leave it out, or add",
        ),
        (
            ["run=a", "tasks=[piqa]", "cache=b"],
            "cache is set, and a run has its own: leave it out; it goes with model=",
        ),
        (["run=a", "corpus=null"], r"corpus is null: leave it out, or set what is in it, such as corpus\.files="),
        (["run=a", "completions=null"], r"completions is null: leave it out, or set .* completions\.domains=\[code\]"),
        (["run=a", "limit=5"], "limit is set, which goes with tasks= and not with run= alone: leave it out"),
        (
            ["model=a", "tasks=[piqa]", "corpus.files={x: [b.txt]}"],
            "corpus is set, which goes with run= alone and not with tasks=",
        ),
        (["compare=a"], r"compare is 'a': give a list, compare=\[a\]"),
        (["run=a", "tasks=piqa"], r"tasks is 'piqa': give a list, tasks=\[piqa\]"),
        (["model=a"], r"model= answers tasks, and none is named: add tasks=\[\.\.\.\] or evaluation=commonsense"),
        (
            ["run=a", "completions.domains=code"],
            r"completions\.domains is 'code': give a list of domains, such as \[code\]",
        ),
        (["run=a", "completions.domains=[]"], r"completions\.domains is \[\]: give a list"),
        (
            ["run=a", "completions.documents=5"],
            r"completions\.documents is set, and no domain is: add completions\.domains=",
        ),
        (
            ["run=a", "completions.domains=[code]", "completions.documents=0"],
            r"completions\.documents is 0: it must be an integer, at least 1",
        ),
        (
            ["run=a", "tasks=[piqa]", "completions.domains=[code]"],
            "completions is set, which goes with run= alone and not",
        ),
        (["run=a", "split=fusion"], r"split is 'fusion': choose one of \['validation', 'test'\]"),
        (
            ["run=a", "split=test", "corpus.files={x: [b.txt]}"],
            "split is a side of the run's own text, and corpus.files is other",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(*overrides)


@pytest.mark.parametrize("left", LEFT)
def test_a_run_or_an_evaluation_is_never_overwritten(tmp_path: Path, left: str) -> None:
    require_new(tmp_path)
    (tmp_path / "evaluate.log").touch()
    require_new(tmp_path)
    (tmp_path / left).touch()
    with pytest.raises(
        ValueError, match=rf"holds {left} of a run, an evaluation or a probe, and nothing is overwritten"
    ):
        require_new(tmp_path)
