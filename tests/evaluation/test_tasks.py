"""Tasks of lm-evaluation-harness from files: what the gold answers cost against asking by hand, and what is refused."""

import json
import math
from pathlib import Path

import pytest
import torch
from experiments_for_tests import ROOT, composed
from models_for_tests import tiny_llm
from tokenizers_for_tests import llama

from knowfuse.evaluation import Answers, Tasks

QUESTIONS = [
    {"query": "The sky is", "choices": ["blue", "made of cheese and wine", "old"], "gold": 1},
    {"query": "Water is", "choices": ["wet", "dry"], "gold": 0},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
doc_to_text: "Q: {{{{query}}}}"
{rest}
"""
CHOICE = """
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
CHOICE_BY_TEXT = CHOICE.replace("doc_to_target: gold", 'doc_to_target: "{{choices[gold]}}"')
CHOICE_IN_THE_TEXT = """
output_type: multiple_choice
doc_to_text: gold
doc_to_choice: ["{{query}} {{choices[0]}}", "{{query}} {{choices[1]}}"]
doc_to_target: "and so it stays"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
WRITTEN = """
output_type: generate_until
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["."], max_gen_toks: 3, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def task(folder: Path, name: str, rest: str) -> str:
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, file=folder / "questions.jsonl", rest=rest))
    return str(folder / f"{name}.yaml")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("kind", "metric"),
    [(CHOICE, "acc"), (CHOICE_BY_TEXT, "acc"), (WRITTEN, "exact_match")],
    ids=["choice", "text", "written"],
)
def test_what_gold_answers_cost_against_asking_one_by_one(tmp_path: Path, kind: str, metric: str) -> None:
    """float32 sums: 1e-5 relative. Both kinds of a task have the same gold answers, and the same bits."""
    tokenizer = llama()
    model = tiny_llm("llama", len(tokenizer))
    tasks = Tasks([task(tmp_path, "mine", kind)])
    got = tasks.ask(model, tokenizer, "tiny", 512, batch_size=2)
    assert list(got) == ["mine"]
    assert got["mine"].questions == 2
    assert list(got["mine"].metrics) == [metric]
    each = []
    for question in QUESTIONS:
        context, answer = f"Q: {question['query']}", f" {question['choices'][question['gold']]}"
        ids = tokenizer(context + answer).input_ids
        first = len(tokenizer(context).input_ids)
        with torch.no_grad():
            log_probs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nats = -sum(float(log_probs[t - 1, ids[t]]) for t in range(first, len(ids)))
        each.append(nats / (math.log(2) * len(answer.encode())))
    assert got["mine"].gold_bits_per_byte == pytest.approx(sum(each) / 2, rel=1e-5)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("kind", "run_code"),
    [
        (
            'output_type: loglikelihood_rolling\ndoc_to_target: "{{query}}"\nmetric_list: [{metric: bits_per_byte}]\n',
            False,
        ),
        (WRITTEN + "unsafe_code: true\n", True),
        (CHOICE_IN_THE_TEXT, False),
    ],
    ids=["a text as a whole", "code that tests the answer", "choices within the text"],
)
def test_a_task_without_a_text_for_its_gold_answer_has_no_bits_of_one(
    tmp_path: Path, kind: str, run_code: bool
) -> None:
    tokenizer = llama()
    tasks = Tasks([task(tmp_path, "mine", kind)], run_code=run_code)
    got = tasks.ask(tiny_llm("llama", len(tokenizer)), tokenizer, "tiny", 512, batch_size=2)["mine"]
    assert (got.questions, got.gold_bits_per_byte) == (2, None)
    assert got.metrics


@pytest.mark.usefixtures("no_network")
def test_a_metric_by_several_filters_is_a_figure_of_each(tmp_path: Path) -> None:
    """What begins with any word, and what is a number, as GSM8K has a strict and a lenient one; the gold answers as without."""
    filters = """
filter_list:
  - {name: any, filter: [{function: regex, regex_pattern: "(.*)"}, {function: take_first}]}
  - {name: numbers, filter: [{function: regex, regex_pattern: "([0-9]{9})"}, {function: take_first}]}
"""
    tokenizer = llama()
    model = tiny_llm("llama", len(tokenizer))

    def asked(rest: str) -> Answers:
        return Tasks([task(tmp_path, "mine", rest)]).ask(model, tokenizer, "tiny", 512, batch_size=2)["mine"]

    got, plain = asked(WRITTEN + filters), asked(WRITTEN)
    assert (list(got.metrics), list(got.errors)) == (["exact_match, any", "exact_match, numbers"],) * 2
    assert (got.questions, got.gold_bits_per_byte) == (plain.questions, plain.gold_bits_per_byte)


@pytest.mark.usefixtures("no_network")
def test_texts_that_an_llm_cannot_hold_are_counted_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A question loses its beginning; an answer that is too long by itself has nothing left to be asked."""
    tokenizer = llama()
    model = tiny_llm("llama", len(tokenizer))
    tasks = Tasks([task(tmp_path, "mine", CHOICE)])
    longest = max(len(tokenizer(f" {choice}").input_ids) for q in QUESTIONS for choice in q["choices"])
    tasks.ask(model, tokenizer, "tiny", longest, 1)
    assert f"texts are longer than its {longest} tokens, and were asked without their beginning" in " ".join(
        capsys.readouterr().out.split()
    )
    with pytest.raises(ValueError, match=r"LLM 'tiny', which can hold 1 tokens, cannot answer tasks \['mine'\] "):
        tasks.ask(model, tokenizer, "tiny", 1, 1)


@pytest.mark.usefixtures("no_network")
def test_a_limit_is_of_questions(tmp_path: Path) -> None:
    tokenizer = llama()
    got = Tasks([task(tmp_path, "mine", CHOICE)], limit=1).ask(
        tiny_llm("llama", len(tokenizer)), tokenizer, "tiny", 512, 1
    )
    assert isinstance(got["mine"], Answers)
    assert got["mine"].questions == 1


@pytest.mark.parametrize("choice", [path.stem for path in sorted((ROOT / "conf" / "evaluation").glob("*.yaml"))])
def test_every_suite_is_of_tasks_that_the_harness_knows(choice: str) -> None:
    assert Tasks(composed("evaluate", f"evaluation={choice}").tasks).names


def test_what_is_no_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"tasks has 'arc_eazy', which lm-evaluation-harness does not know: do you mean arc_easy"
    ):
        Tasks(["arc_eazy"])
    with pytest.raises(ValueError, match=r"tasks has 'gone\.yaml', and there is no such file"):
        Tasks(["gone.yaml"])
    with pytest.raises(ValueError, match=r"tasks is empty: name some, such as tasks=\[arc_easy,piqa\]"):
        Tasks([])
    for limit in (0, -3):
        with pytest.raises(
            ValueError, match=rf"limit is {limit}: it must be at least 1 question of each task, or null"
        ):
            Tasks(["arc_easy"], limit=limit)
    (tmp_path / "other.yaml").write_text("a: [\n")
    with pytest.raises(ValueError, match=r"other\.yaml' is no task of lm-evaluation-harness \(.*Error"):
        Tasks([str(tmp_path / "other.yaml")])
    (tmp_path / "other.yaml").write_text("no_task: 1\n")
    with pytest.raises(
        ValueError, match=r"other\.yaml' is no task of lm-evaluation-harness \(it does not say task: <name>\)"
    ):
        Tasks([str(tmp_path / "other.yaml")])


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("name", "run_code"), [("piqa", False), ("humaneval", True)])
def test_questions_that_are_elsewhere_are_named(monkeypatch: pytest.MonkeyPatch, name: str, run_code: bool) -> None:
    """Of HumanEval the metric too, which is loaded from the hub when its own code is."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    tokenizer = llama()
    with pytest.raises(
        ValueError, match=rf"the questions of tasks \['{name}'\] cannot be had .*run it once with a network, or give"
    ):
        Tasks([name], limit=1, run_code=run_code).ask(tiny_llm("llama", len(tokenizer)), tokenizer, "tiny", 512, 1)


def test_without_the_harness_its_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowfuse.evaluation.answers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tasks= needs lm-evaluation-harness, .*: pip install -e '\.\[eval\]'"):
        Tasks(["piqa"])
