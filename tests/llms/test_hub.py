"""The hub's own client against a server on this machine: what is asked for, and what is said where that cannot be had."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_for_tests import write_gguf
from hub_for_tests import Hub, hub_at
from models_for_tests import tiny_llm
from tokenizers_for_tests import llama

from knowfuse.llms.local import localize
from knowfuse.types import LLMSpec
from knowfuse.unreachable import unreachable


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one LLM, `org/tiny`, with all that such repositories hold."""
    folder = tmp_path / "hub" / "org" / "tiny"
    tokenizer = llama()
    tokenizer.chat_template = "{{ messages }}"
    tiny_llm("llama", len(tokenizer)).save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    for name in ("pytorch_model.bin", "original/params.json", "onnx/model.onnx", "training_args.bin", "model.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"# {name}")
    (folder / "README.md").write_text("# it")
    with hub_at(tmp_path / "hub", monkeypatch) as server:
        yield server


def test_what_transformers_needs_is_downloaded_and_nothing_else(hub: Hub) -> None:
    """Once; the LLM loads, and has the fingerprint of the folder that was uploaded."""
    llm = localize("mine", LLMSpec(path="org/tiny"))
    shards = {f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)}
    wanted = {"config.json", "generation_config.json", "model.safetensors.index.json", *shards}
    wanted |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"}
    assert hub.sent == wanted
    assert llm.load().config.model_type == "llama"
    assert llm.tokenizer().chat_template == "{{ messages }}"
    assert llm.fingerprint == localize("mine", LLMSpec(path=str(hub.root / "org" / "tiny"))).fingerprint
    hub.sent.clear()
    assert localize("mine", LLMSpec(path="org/tiny")).folder == llm.folder
    assert not hub.sent
    localize("mine", LLMSpec(path="org/tiny", trust_remote_code=True))
    assert hub.sent == {"model.py"}


def test_of_a_gguf_repository_only_that_file_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    folder = hub.root / "org" / "gguf"
    folder.mkdir()
    write_gguf(folder / "tiny-Q8_0.gguf")
    write_gguf(folder / "split.gguf", parts=2)
    localize("mine", LLMSpec(path="org/gguf", gguf_file="tiny-Q8_0.gguf"), tmp_path / "cache")
    assert hub.sent == {"tiny-Q8_0.gguf"}
    hub.sent.clear()
    localize("mine", LLMSpec(path="org/gguf", gguf_file="split-00001-of-00002.gguf"), tmp_path / "cache")
    assert hub.sent == {"split-00001-of-00002.gguf", "split-00002-of-00002.gguf"}


def test_a_tokenizer_of_another_repository_comes_without_weights(hub: Hub, tmp_path: Path) -> None:
    tiny_llm("llama", len(llama())).save_pretrained(tmp_path / "llm")
    llm = localize("mine", LLMSpec(path=str(tmp_path / "llm"), tokenizer="org/tiny"))
    assert not [name for name in hub.sent if name.endswith(".safetensors")]
    assert llm.surface().vocabulary_size == len(llama())


@pytest.mark.parametrize("is_offline", [True, False])
def test_what_was_downloaded_serves_without_network(
    hub: Hub, is_offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where HF_HUB_OFFLINE is set, and where nobody answers. What was not downloaded is told with what to run."""
    spec = LLMSpec(path="org/tiny")
    online = localize("mine", spec)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", is_offline)
    hub.shutdown()
    hub.server_close()
    assert localize("mine", spec) == online
    why = "HF_HUB_OFFLINE is set" if is_offline else "http://127.* does not answer"
    message = (
        rf"^LLM 'mine': 'org/other' is no folder here, and of the hub's 'org/other' at revision 'v2' the cache of this machine "
        rf"\(.*hub cache\) has not all files, while {why}: run hf download org/other where there is network, and give the folder$"
    )
    with pytest.raises(ValueError, match=message):
        localize("mine", LLMSpec(path="org/other", revision="v2"))
    (online.folder / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^LLM 'mine': 'org/tiny', as it came .* names model-00002-of-00004\.saf"):
        localize("mine", spec)


@pytest.mark.parametrize(
    ("path", "revision", "message"),
    [
        ("org/none", None, r"'org/none' is neither a folder here nor on the hub: check the path, or run hf auth login"),
        ("org/tiny", "v9", r"'org/tiny' has no revision 'v9' on the hub: check `revision:`"),
        ("org/gated", None, r"'org/gated' is gated: ask for access at http://127.*/org/gated, then run hf auth login"),
        (
            "./no/such/folder",
            None,
            r"'./no/such/folder' is neither a folder here nor on the hub \(no id of it looks so\)",
        ),
    ],
)
def test_what_the_hub_does_not_give_is_said(hub: Hub, path: str, revision: str | None, message: str) -> None:
    (gated := hub.root / "org" / "gated").mkdir()
    (gated / "config.json").write_text("{}")
    hub.gated.add("org/gated")
    with pytest.raises(ValueError, match=f"^LLM 'mine': {message}") as error:
        localize("mine", LLMSpec(path=path, revision=revision))
    assert "\n" not in str(error.value)


def test_a_connection_that_is_lost_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files are on their way, after their names have come."""

    def lost(*_: object, **__: object) -> None:
        raise unreachable()[-1]("timed out")

    monkeypatch.setattr("knowfuse.llms.hub.snapshot_download", lost)
    with pytest.raises(
        ValueError, match=r"the connection was lost while .* came from the hub .*run the same command again"
    ):
        localize("mine", LLMSpec(path="org/tiny"))
