"""Score a finished run again, on its own text or on other, ask its LLMs questions, or compare several runs.

python evaluate.py run=outputs/quickstart/2026-01-31_12-00-00
python evaluate.py run=outputs/quickstart/2026-01-31_12-00-00 'corpus.files={forgetting: [wiki.txt]}' trainer=cpu
python evaluate.py run=outputs/quickstart/2026-01-31_12-00-00 tasks=[arc_easy,piqa]
python evaluate.py compare=[outputs/quickstart/2026-01-31_12-00-00,outputs/quickstart/2026-01-31_12-30-00]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from knowfuse import report
from knowfuse.commands.command import command
from knowfuse.evaluation import Tasks
from knowfuse.runs.answering import llm_alone, llms_of
from knowfuse.runs.asked import require_asked, require_new
from knowfuse.runs.compared import compared
from knowfuse.runs.completing import code_prompts, completions_of
from knowfuse.runs.folder import load_run
from knowfuse.runs.judged import Judged, save_evaluated
from knowfuse.runs.where import register_resolvers
from knowfuse.screen import is_first_rank, quiet_libraries, say
from knowfuse.text.corpus import Corpus
from knowfuse.text.documents import Documents
from knowfuse.text.held_out import held_out

register_resolvers()


@command("evaluate", Path(__file__).parent / "conf")
def main(cfg: DictConfig) -> None:
    """Writes to a folder of its own; the runs are left as they are."""
    quiet_libraries()
    folder = Path(HydraConfig.get().runtime.output_dir)
    asked = require_asked(
        cfg, [override.partition("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task]
    )
    require_new(folder)
    {"compare": compare, "answer": answer, "score": score}[asked](cfg, folder)
    say(f"{folder}: the results as files")


def score(cfg: DictConfig, folder: Path) -> None:
    """What `train.py` wrote at the end of the run: of another split, of other text or on other devices."""
    run, settings, fits = load_run(cfg.run)
    devices = {"trainer": OmegaConf.to_container(cfg.trainer, resolve=True)} if "trainer" in cfg else {}
    experiment = hydra.utils.instantiate({**settings, **devices}, _convert_="all")
    experiment.require_machine()
    prepared = experiment.prepare()
    asked: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, ["split", "corpus"]), resolve=True)
    documents, where = texts(prepared.corpus, asked, prepared.cache)
    goes_on = cfg.completions.domains is not None
    if goes_on:
        code_prompts(documents, cfg.completions)  # refused before any LLM is asked
    results = experiment.score(prepared, fits, run, documents, cfg.byte_classes)
    if goes_on:
        read = set(results.by_document.shared().ids)
        prompts = code_prompts([document for document in documents if document.id in read], cfg.completions)
        results.completed = completions_of(llms_of(experiment, prepared, fits, run), prepared, prompts)
    report.show(f"{run}: {where}", results)
    if is_first_rank():
        save_evaluated(folder, settings, asked)
        report.write_results(folder, results, fits, where)


def answer(cfg: DictConfig, folder: Path) -> None:
    """What the LLMs of a run, or one LLM, answer to tasks."""
    tasks = Tasks(OmegaConf.to_container(cfg.tasks), cfg.limit, cfg.run_code)  # type: ignore[arg-type]
    if cfg.model is not None:
        llms = llm_alone(cfg.model, Path(cfg.cache).expanduser())
    else:
        run, settings, fits = load_run(cfg.run)
        experiment = hydra.utils.instantiate(settings, _convert_="all")
        llms = llms_of(experiment, experiment.prepare(), fits, run)
    table = {}
    for name, llm, model in llms:
        table[name] = tasks.ask(model, llm.tokenizer(), name, llm.context_length(), cfg.batch_size)
        report.write_answers(folder, table)  # of those that have answered, should the next one fail
    report.show_answers(str(cfg.model or cfg.run), table)


def compare(cfg: DictConfig, folder: Path) -> None:
    """One table of several runs, and of other LLMs on the text of the first."""
    table = compared(cfg.compare, texts_of, cfg.baseline)
    report.show_comparison(table)
    report.write_comparison(folder, table)


def texts_of(run: Judged) -> tuple[Documents, Path]:
    """The documents that a run or an evaluation was measured on, and its cache."""
    experiment = hydra.utils.instantiate(run.settings, _convert_="all")
    cache = Path(experiment.cache).expanduser()
    return texts(experiment.corpus(cache=str(cache)), run.evaluated, cache)[0], cache


def texts(corpus: Corpus, asked: Mapping[str, Any], cache: Path) -> tuple[Documents, str]:
    """A side of the run's corpus, or other text that is named, and what to call it."""
    if asked["corpus"]["files"] is None:
        return corpus.split(asked["split"]), f"the {asked['split']} split"
    other = held_out(**asked["corpus"], cache=str(cache), never=corpus.split("fusion"))
    return other.split("test"), ", ".join(other.domains)


if __name__ == "__main__":
    main()
