"""How do the parts look that several cards have: their head, how an LLM is loaded, LLMs, text?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from omegaconf import OmegaConf

from knowfuse.llms.licences import concerns, licence_of, page_of, shown_name
from knowfuse.report.tables import markdown_table
from knowfuse.types import LLMSpec

PAPER = "https://arxiv.org/abs/2401.10491"
CITATION = """## Citation

```bibtex
@inproceedings{wan2024knowledge,
  title = {Knowledge Fusion of Large Language Models},
  author = {Fanqi Wan and Xinting Huang and Deng Cai and Xiaojun Quan and Wei Bi and Shuming Shi},
  booktitle = {The Twelfth International Conference on Learning Representations},
  year = {2024},
  url = {https://arxiv.org/abs/2401.10491}
}
```
"""


def metadata(settings: Mapping[str, Any], target: LLMSpec, is_adapter: bool = False, tags: Sequence[str] = ()) -> str:
    """The head of a model card, as the hub reads it."""
    licence = licence_of(target)
    name = (licence and licence.name) or "unknown"
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        license=name if "," not in name else "unknown",  # the hub takes one
        license_name=licence and licence.own_name,
        license_link=licence and licence.link,
        base_model=target.path if page_of(target) else None,
        base_model_relation=("adapter" if is_adapter else "finetune") if page_of(target) else None,
        datasets=data_sets(settings) or None,
        tags=["knowfuse", "knowledge-fusion", "arxiv:2401.10491", *tags],
    )
    return data.to_yaml()


def use(name: str, is_adapter: bool, target: LLMSpec) -> str:
    """How it is loaded, by this name."""
    model, library = ("AutoPeftModelForCausalLM", "peft") if is_adapter else ("AutoModelForCausalLM", "transformers")
    trusted = ", trust_remote_code=True" if target.trust_remote_code else ""
    chat = target.chat_variables
    asked = f"\nIts chat template was given `{dict(chat)}`: pass them to `apply_chat_template`.\n" if chat else ""
    return (
        f"```python\nfrom {library} import {model}\nfrom transformers import AutoTokenizer\n\n"
        f'model = {model}.from_pretrained("{name}"{trusted})\ntokenizer = AutoTokenizer.from_pretrained("{name}"{trusted})\n```\n{asked}'
    )


def llms(named: Mapping[str, LLMSpec], sources: Mapping[str, LLMSpec]) -> str:
    """Where each comes from and its licence; then which licences of the sources have to be read."""
    rows = [[name, _origin(spec), _licence(spec)] for name, spec in named.items()]
    listed = "".join(f"- {line}\n" for line in concerns(sources))
    return (
        markdown_table(["", "LLM", "licence"], rows)
        + "\n"
        + (f"\nLicences to read before this is shared:\n\n{listed}" if listed else "")
    )


def _origin(spec: LLMSpec) -> str:
    if spec.recipe is not None:
        return f"{shown_name(spec)}, made from nothing on the text's domain {spec.recipe.domain}"
    address = page_of(spec)
    name = f"[{shown_name(spec)}]({address})" if address else f"`{shown_name(spec)}`, a folder"
    return name + "".join(f", {key} `{value}`" for key in ("revision", "quantization") if (value := getattr(spec, key)))


def _licence(spec: LLMSpec) -> str:
    licence = licence_of(spec)
    if licence is None:
        return "made by the run"
    return f"[{licence}]({licence.link})" if licence.link else str(licence)


def text(settings: Mapping[str, Any]) -> str:
    """The settings that the text was made by; of files of this machine the names alone."""
    its = {key: _placeless(value) for key, value in settings["corpus"].items() if key != "_partial_"}
    share = settings.get("fusion_share", 1.0)
    shown = {**its, **({"fusion_share": share} if share != 1.0 else {})}
    return f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(shown))}```\n"


def _placeless(value: Any) -> Any:
    """The same without the folders of what is outside the one that the run was started in."""
    if isinstance(value, Mapping):
        return {key: _placeless(its) for key, its in value.items()}
    if isinstance(value, list):
        return [_placeless(its) for its in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~", "..")) else value


def data_sets(settings: Mapping[str, Any]) -> list[str]:
    """Those of the hub that the text came from, by their names."""
    corpus = settings["corpus"]
    paths = [its["path"] for its in (corpus.get("datasets") or {}).values()] + [corpus.get("path")]
    return sorted({path for path in paths if path and path.count("/") == 1 and not Path(path).exists()})


def called(settings: Mapping[str, Any], group: str) -> str:
    """Which function a group of the settings chooses, and with what."""
    its = settings[group]
    options = ", ".join(f"{key} {value}" for key, value in its.items() if not key.startswith("_") and value is not None)
    return f"`{its['_target_'].rpartition('.')[2]}`" + (f" ({options})" if options else "")
