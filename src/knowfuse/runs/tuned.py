"""How is an LLM tuned on text by plain CLM, without any source, and kept as a folder that transformers loads?"""

from pathlib import Path

from knowfuse.files import make_folder_once
from knowfuse.llms.local import LocalLLM
from knowfuse.llms.saved import save
from knowfuse.runs.experiment import Experiment
from knowfuse.runs.folder import checkpoints_to_resume
from knowfuse.runs.prepared import Prepared
from knowfuse.screen import say
from knowfuse.text.corpus import Corpus


def tuned(experiment: Experiment, llm: LocalLLM, corpus: Corpus, run: Path, folder: Path) -> bool:
    """Train `llm` on the fusion side of the corpus as the experiment's settings say; whether it had to be made.

    The fit lives in the run folder, which `open_run` has opened, and goes on there where it was stopped; what is kept is
    its best checkpoint on the validation side. Of the experiment's own target, sources and corpus nothing is used.
    """

    def fill(unfinished: Path) -> None:
        prepared = Prepared(corpus, llm, llm.surface(corpus.is_chat), {}, Path(experiment.cache).expanduser())
        fit = experiment.train(prepared, "clm", run, checkpoints_to_resume(run, "last", experiment.fit_names))
        say(f"{llm.name}: {fit.best_bits_per_byte:.3f} bits/byte on validation, in {folder}")
        save(experiment.trained(prepared, fit, run), llm, unfinished)

    return make_folder_once(folder, fill)
