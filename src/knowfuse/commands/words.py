"""Which command did a user mean, one of whose words Hydra cannot read or does not know?"""

import inspect
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from pkgutil import iter_modules
from pydoc import ErrorDuringImport, locate
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException, MissingConfigException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from knowfuse.runs.folder import flat
from knowfuse.runs.your_own import of_your_own
from knowfuse.settings import LIKE, no_such
from knowfuse.text.quoting import literal, override

PACKAGE_LIKE = 0.8  # how alike two packages must be, of all that are imported, as `LIKE` is of settings
PATHS = ("run", "ckpt_path", "model", "cache", "folder", "hydra.run.dir")  # whose commas are those of one value


def answer(argv: Sequence[str], conf: Path, config_name: str, error: BaseException | None) -> str:
    """The command with every such word put right, on a line; nothing where none can be. `error` is why Hydra ended."""
    if error is not None and not isinstance(error, CompactHydraException):
        return ""
    if not conf.is_dir():
        return f"\n{_program(argv[0])} reads the settings in {conf.name!r} of the folder where it is run: run it where train.py is\n"
    if isinstance(error, MissingConfigException) and (needed := next(filter(None, map(_plugin, argv)), None)):
        return needed
    words = [_undashed(word) for word in argv[1:]]
    if any(map(_is_of_many, words)) and "--multirun" not in words and "-m" not in words:
        words.insert(0, "--multirun")
    meant = [_quoted(word) for word in words]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf.resolve())):
            settings = _settings(config_name, conf, meant)
    except HydraException:  # what is chosen does not go together: that is what the command ended with
        settings = {}
    meant = [_known(word, conf, settings) for word in meant]
    if isinstance(error, MissingConfigException) and (own := of_your_own(meant, conf, _program(argv[0]))) is not None:
        return own
    if meant == list(argv[1:]):
        return ""
    return f"\nDid you mean: {_program(argv[0])} {' '.join(map(shlex.quote, meant))}\n"


def unknown_setting(message: str) -> str | None:
    """What to say where an object was given a setting that it does not take, from Hydra's message; None for another error."""
    target, name = re.search(r"target '([\w.]+)'", message), re.search(r"unexpected keyword argument '(\w+)'", message)
    if target is None or name is None:
        return None
    known = list(inspect.signature(get_object(target[1])).parameters)
    if name[1] in known:  # it is one of another function, which the target called
        return None
    key = re.search(r"full_key: (\S+)", message)
    return no_such(f"{key[1]}.{name[1]}" if key else name[1], known)


def unknown_target(message: str, why: BaseException | None) -> str | None:
    """What to say where a `_target_` is nothing that Python finds, from Hydra's message and its cause; None for another error."""
    target, key = re.search(r"Error locating target '(.+)', set env", message), re.search(r"full_key: (\S+)", message)
    if target is None:
        return None
    setting = f"{key[1]}._target_" if key else "_target_"
    parts = target[1].split(".")
    for n in range(len(parts) - 1, -1, -1):
        there = _names_in(".".join(parts[:n]))
        if near := get_close_matches(parts[n], there, 1, LIKE if n else PACKAGE_LIKE):
            return f"{setting} is {target[1]}, and there is none: did you mean {'.'.join([*parts[:n], *near, *parts[n + 1 :]])}?"
        if there:
            break
    return f"{setting} is {target[1]}, which cannot be imported ({' '.join(str(why).split())}): correct its name, or install its package"


def _names_in(module: str) -> list[str]:
    """What can follow a dot behind the name of a module or a class, nothing where it is none; without one the packages that are imported."""
    if not module:
        return sorted({name.partition(".")[0] for name in sys.modules})
    try:
        found = locate(module)
    except ErrorDuringImport:
        return []
    return [] if found is None else [*dir(found), *(its.name for its in iter_modules(getattr(found, "__path__", [])))]


def _program(started: str) -> str:
    """As the user started it: `python train.py`, or `python -m knowfuse.plan`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python {started}" if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


def _undashed(word: str) -> str:
    """A setting is no option: `--lm_weight=0.3` is `lm_weight=0.3`."""
    is_hydras = word.startswith(("--config", "--package", "--info", "--cfg", "--experimental"))
    return word.lstrip("-") if "=" in word and not is_hydras else word


def _is_of_many(word: str) -> bool:
    """Whether it gives a setting several values to try."""
    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return parsed.is_sweep_override() and parsed.key_or_group not in PATHS


def _quoted(word: str) -> str:
    """A word that Hydra's grammar cannot read, and a path that it takes for several values, as it reads it."""
    setting, equals, text = word.partition("=")
    if not equals or word.startswith("-"):
        return word
    try:
        if not (OverridesParser.create().parse_override(word).is_sweep_override() and setting in PATHS):
            return word
    except HydraException:
        pass
    try:
        value = yaml.safe_load(text) if text[:1] in ("{", "[") else text  # the flow style that people write lists in
    except yaml.YAMLError:
        value = text
    corrected = override(setting, value)
    return word if corrected is None else shlex.split(corrected)[0]


def _settings(config_name: str, conf: Path, words: Sequence[str]) -> Mapping[str, Any]:
    """All settings there are with the choices among the words."""
    pairs = [word.partition("=")[::2] for word in words]
    chosen = [f"{group}={choice}" for group, choice in pairs if (conf / group / f"{choice}.yaml").is_file()]
    return _all_of(compose(config_name, chosen, return_hydra_config=True))


def _all_of(composed: DictConfig) -> Mapping[str, Any]:
    plain: Any = OmegaConf.to_container(composed, resolve=False)
    groups = {key: None for key in plain["hydra"]["runtime"]["choices"] if not key.startswith("hydra")}
    keys = flat(plain)
    parents = {key.rpartition(".")[0] for key in keys}
    return {**groups, **dict.fromkeys(parents - {""}), **keys}


def _known(word: str, conf: Path, settings: Mapping[str, Any]) -> str:
    """The word with the nearest setting, or choice, that exists."""
    setting, equals, text = word.partition("=")
    if not equals and "run" in settings and Path(word).is_dir():  # as python -m knowfuse.report takes it
        return f"run={literal(word)}"
    prefix = setting[: len(setting) - len(setting.lstrip("+~"))]
    name = setting.lstrip("+~").partition("@")[0]
    if not equals or prefix or word.startswith("-"):
        return word
    if (conf / name).is_dir():
        return f"{setting}={','.join(_choice(choice, conf / name) for choice in text.split(','))}"
    if "/" in name or name in settings or any(key.startswith(f"{name}.") for key in settings):
        return word
    root, dot, rest = name.partition(".")
    if str(settings.get(root)).startswith("${"):  # such as target: ${sources.llama2}
        referred = f"{settings[root][2:-1]}{dot}{rest}"
        return f"{referred}={text}" if referred in settings else word
    ours = [key for key in settings if not key.startswith("hydra.") or name.startswith("hydra")]
    near = _nearest(name, ours)
    return word if near is None else f"{near}={text}"


def _nearest(name: str, settings: Sequence[str]) -> str | None:
    """Of a name without a group, that of this name in one, the least deep; else the one that is alike, in its last part too."""
    last = name.rpartition(".")[2]
    same = [key for key in settings if "." not in name and key.rpartition(".")[2] == name]
    alike = [
        key
        for key in get_close_matches(name, settings, 5, LIKE)
        if SequenceMatcher(None, key.rpartition(".")[2], last).ratio() >= LIKE
    ]
    return next(iter([*sorted(same, key=lambda key: key.count(".")), *alike]), None)


def _choice(text: str, group: Path) -> str:
    """The choice of this group that is nearest, or what was said."""
    there = [path.stem for path in group.glob("*.yaml")]
    return next(iter(get_close_matches(text, there, 1, LIKE)), text)


def _plugin(word: str) -> str | None:
    """What to install for a sweeper or a launcher that is not there."""
    part, _, name = word.partition("=")
    if part not in ("hydra/sweeper", "hydra/launcher"):
        return None
    return f"\nhydra/{part[6:]}={name} comes with a package of its own: pip install hydra-{name.partition('_')[0]}-{part[6:]}\n"
