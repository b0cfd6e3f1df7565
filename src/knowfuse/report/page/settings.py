"""With which settings was a run made, and which commands go on from it?"""

import shlex
from html import escape

from omegaconf import OmegaConf

from knowfuse.pages import Section, paragraph
from knowfuse.report.left import Left
from knowfuse.text.quoting import override, path_override


def settings(left: Left) -> Section:
    """By which command the run was made, how it goes on, and every setting."""
    run = str(left.folder)
    body = ""
    if left.overrides is not None:
        program = "evaluate.py" if left.evaluated is not None else "train.py"
        body += paragraph("Made by:") + _code(" ".join(["python", program, *map(shlex.quote, left.overrides)]))
    body += paragraph("Goes on with:") + _code("\n".join(_commands(left, run)))
    if left.evaluated is not None:
        body += paragraph("What it was measured on:") + _code(OmegaConf.to_yaml(left.evaluated))
    if left.settings is not None:
        body += paragraph("All settings:") + _code(OmegaConf.to_yaml(left.settings))
    out = [f"{what} ({name}: {left.why[name]})" for name, what in OUT.items() if name in left.why]
    return Section("settings", "Settings and commands", body, "; ".join(out))


OUT = {".hydra/overrides.yaml": "the command", "config.yaml": "the settings"}


def _commands(left: Left, run: str) -> list[str]:
    if left.evaluated is not None:
        return [f"python evaluate.py {override('compare', [run])}", f"python -m knowfuse.report {shlex.quote(run)}"]
    if not left.is_finished:
        given = [word for word in left.overrides or [] if not word.startswith("ckpt_path=")]
        where = path_override("hydra.run.dir", run)
        return [" ".join(["python train.py", *map(shlex.quote, given), "ckpt_path=last", where])]
    return [
        f"python evaluate.py {path_override('run', run)}",
        f"python evaluate.py {override('compare', [run])}",
        f"python -m knowfuse.export {path_override('run', run)}",
        f"python -m knowfuse.report {shlex.quote(run)} --samples 4",
    ]


def _code(text: str) -> str:
    return f"<pre>{escape(text.rstrip())}</pre>"
