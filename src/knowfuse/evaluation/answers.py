"""Does an LLM know the answers? Tasks of lm-evaluation-harness, and what each gold answer costs it in bits per byte.

An accuracy moves when an answer becomes the likeliest, its bits per byte with every step towards that: on small LLMs, or few
questions, they tell two apart where accuracies cannot. Source: Heineman et al., arXiv 2508.13144.
"""

import difflib
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowfuse.evaluation.harness_files import WORD, HarnessFiles, harness_files
from knowfuse.screen import say

INSTALL = "pip install -e '.[eval]'"
SEED = 1234  # of the examples that a task shows before its questions
BOOTSTRAPS = 200  # for the error of a metric that is no mean


@dataclass
class Answers:
    """How an LLM did one task."""

    questions: int
    metrics: dict[str, float]  # lm-evaluation-harness's own, such as acc, by name, and by filter where it has several
    errors: dict[str, float]  # their standard errors, where it says them
    gold_bits_per_byte: float | None  # None: the task has no text for its gold answer, such as one whose code is run


class Tasks:
    """Tasks by the harness's names, and the user's own by their YAML files; found once, asked of several LLMs.

    ValueError where the harness is missing, for a name that is no task (the likeliest are named), and where the questions
    of one cannot be had.
    """

    def __init__(self, names: Sequence[str], limit: int | None = None, run_code: bool = False) -> None:
        if find_spec("lm_eval") is None:
            raise ValueError(f"tasks= needs lm-evaluation-harness, which is not installed: {INSTALL}")
        if limit is not None and not limit >= 1:
            raise ValueError(f"limit is {limit}: it must be at least 1 question of each task, or null for all")
        if not names:
            raise ValueError("tasks is empty: name some, such as tasks=[arc_easy,piqa]")
        files = [Path(name) for name in names if name.endswith((".yaml", ".yml"))]
        if missing := [str(path) for path in files if not path.is_file()]:
            raise ValueError(f"tasks has {missing[0]!r}, and there is no such file: give the YAML file of a task")
        self.names = [_task_of(Path(name)) if Path(name) in files else name for name in names]
        self.limit, self.run_code = limit, run_code
        self._links = TemporaryDirectory(prefix="knowfuse-tasks-")  # for as long as its tasks may be built
        others = [name for name in names if Path(name) not in files]
        self.manager = _manager(sorted({path.parent for path in files}), others, Path(self._links.name))
        known = set(self.manager.all_tasks)
        for name in self.names:
            if name not in known:
                near = difflib.get_close_matches(name, sorted(known | _its_own().names), 3)
                hint = f"do you mean {' or '.join(near)}? " if near else ""
                raise ValueError(
                    f"tasks has {name!r}, which lm-evaluation-harness does not know: {hint}lm-eval ls tasks lists them; a task of "
                    "your own is given by its YAML file"
                )

    def ask(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, max_tokens: int, batch_size: int
    ) -> dict[str, Answers]:
        """By task; texts begin as the LLM's tokenizer begins them, which is what the harness does for everyone.

        Of a text longer than `max_tokens` the harness leaves out the beginning: how many is said.
        """
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        how: dict[str, Any] = {"batch_size": batch_size, "max_length": max_tokens, "backend": "causal"}
        llm: Any = HFLM(model, tokenizer=tokenizer, **how)  # pyright: ignore[reportCallIssue]  (its registry hides the class)
        say(f"{name}: answers {', '.join(self.names)}")
        try:
            with _counting_cuts() as cuts:
                found: Any = simple_evaluate(
                    llm,
                    tasks=list(self.names),
                    task_manager=self.manager,
                    limit=self.limit,
                    bootstrap_iters=BOOTSTRAPS,
                    fewshot_random_seed=SEED,
                    confirm_run_unsafe_code=self.run_code,
                )
        except (AttributeError, ConnectionError, FileNotFoundError) as error:
            is_its_code = isinstance(error, AttributeError)
            if is_its_code and "has no function" not in str(error):
                raise
            reason = "its own code, which loads more" if is_its_code else f"{type(error).__name__}: {error}"
            raise ValueError(
                f"the questions of tasks {self.names} cannot be had ({reason}): the harness downloads "
                "them from the hub, so run it once with a network, or give a YAML file whose data_files are on this machine"
            ) from error
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            if "unsafe" in str(error).lower():
                raise ValueError(
                    f"a task of {self.names} runs the code that an LLM writes: where that is safe, set run_code=true"
                ) from error
            raise ValueError(
                f"LLM {name!r}, which can hold {max_tokens} tokens, cannot answer tasks {self.names} ({type(error).__name__}: "
                f"{error}): a question with its examples and its answer must fit; leave out the task that does not"
            ) from error
        if cuts.count:
            say(
                f"{name}: {cuts.count} texts are longer than its {max_tokens} tokens, and were asked without their beginning"
            )
        return {
            task: _answers(found["results"][task], samples, None if found["configs"][task].get("unsafe_code") else llm)
            for task, samples in found["samples"].items()
        }


def _manager(folders: Sequence[Path], names: Sequence[str], links: Path) -> Any:
    """What the harness knows of tasks: those in these folders, and those of its own that are among the names, or that they name.

    These are read by `links`, an empty folder.
    """
    from lm_eval.tasks import TaskManager  # here: it is an extra

    if names:
        its = _its_own()
        files = [file for folder in folders for file in folder.rglob("*.yaml")]
        named = {word for file in files for word in WORD.findall(file.read_text(encoding="utf-8", errors="replace"))}
        its.link({*names, *(named & its.names)}, links)
    return TaskManager(include_path=[links, *folders], include_defaults=False)


def _its_own() -> HarnessFiles:
    import lm_eval.tasks

    return harness_files(Path(lm_eval.tasks.__file__).parent)


def _task_of(path: Path) -> str:
    """The name that a task's file gives it."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        return load_yaml(path)["task"]
    except Exception as error:  # of several YAML libraries
        reason = "it does not say task: <name>" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{str(path)!r} is no task of lm-evaluation-harness ({reason}): see its docs/new_task_guide.md"
        ) from error


class _Cuts(logging.Handler):
    """Counts what the harness says of texts that it cuts, and hides how it defines its tasks."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "runcat" in record.getMessage()


@contextmanager
def _counting_cuts() -> Iterator[_Cuts]:
    logger, cuts = logging.getLogger("lm_eval"), _Cuts()
    before = logger.propagate
    logger.addHandler(cuts)
    logger.propagate = False
    try:
        yield cuts
    finally:
        logger.removeHandler(cuts)
        logger.propagate = before


def _answers(results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], llm: Any) -> Answers:
    """`llm` is asked what gold answers cost; None: what the task says of one is code that tests it."""
    filters = Counter(key.partition(",")[0] for key in results)
    figures: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in results.items():
        metric, _, chosen = key.partition(",")
        its = errors if metric.endswith("_stderr") else figures
        if isinstance(value, float):
            name = metric.removesuffix("_stderr")
            its[name if filters[metric] == 1 else f"{name}, {chosen}"] = value
    questions = {sample["doc_id"]: sample for sample in samples}  # once, where several filters look at its answers
    gold = None if llm is None else _gold_bits_per_byte(list(questions.values()), llm)
    return Answers(len(questions), figures, errors, gold)


def _gold_bits_per_byte(samples: Sequence[Mapping[str, Any]], llm: Any) -> float | None:
    """The mean over the questions of what the bytes of each gold answer cost, the space before it among them."""
    each = [bits for sample in samples if (bits := _gold_bits(sample, llm)) is not None]
    return sum(each) / len(each) if each else None


def _gold_bits(sample: Mapping[str, Any], llm: Any) -> float | None:
    """Of one question: of a choice what the harness has asked already; of an answer that is written, the gold one is asked."""
    asked, target = sample["arguments"], sample["target"]
    if len(asked[0]) < 2:  # a text as a whole, which answers nothing
        return None
    if all(isinstance(each[1], str) for each in asked):  # log-likelihoods of given texts
        gold = target if isinstance(target, int) else _place_of(target, asked)
        if gold is None or not 0 <= gold < len(asked):
            return None
        text, log_prob = asked[gold][1], sample["filtered_resps"][gold][0]
    elif isinstance(target, str) and target:
        text = target if target[0].isspace() else f" {target}"
        ((log_prob, _),) = llm.loglikelihood([_Request((asked[0][0], text))], disable_tqdm=True)
    else:
        return None
    return -float(log_prob) / (math.log(2) * len(text.encode()))


def _place_of(target: Any, asked: Sequence[tuple[str, str]]) -> int | None:
    """Which of these texts and answers is the one that the task says in words; None where several may be.

    They are where the choices stand in the text, as in WinoGrande, before the same end of a sentence.
    """
    if len(asked) == 1:
        return 0
    same = [n for n, (_, answer) in enumerate(asked) if isinstance(target, str) and answer.strip() == target.strip()]
    return same[0] if len({tuple(asked[n]) for n in same}) == 1 else None


@dataclass
class _Request:
    """As much of the harness's Instance as an LLM looks at."""

    args: tuple[str, str]
