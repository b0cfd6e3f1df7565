"""Training all of a target or adapters beside it: what learns, what is kept, what comes out, and what is refused."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from bitsandbytes.optim import AdamW8bit
from experiments_for_tests import PowerCut, composed, data_module, documents, fusion_module, local_llm, readers, trainer
from hydra.utils import instantiate
from models_for_tests import ARCHITECTURES, tiny_llm
from tokenizers_for_tests import surface
from torch import nn
from transformers import PreTrainedModel

from knowfuse.evaluation import score_documents
from knowfuse.llms.finetune import adapters, full, lora, merged, qlora
from knowfuse.llms.head import output_head
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.training.finished import Fit
from knowfuse.training.fit import fit, load_best
from knowfuse.training.module import FusionModule
from knowfuse.types import LLMSpec

METHODS = {"full": full, "lora": lora, "qlora": qlora}
ADAPTERS = ["lora", "qlora"]
STEPS = 6


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> LocalLLM:
    """Of width 64, which blocks of 4 bits fill."""
    return local_llm(tmp_path_factory.mktemp("llm") / "target", width=64)


def build(method: str, llm: LocalLLM, **settings: Any) -> PreTrainedModel:
    if method == "full":
        return full(llm)
    return METHODS[method](llm, **{"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear", **settings})


def module_of(method: str, llm: LocalLLM, optimizer: Any = torch.optim.AdamW, **settings: Any) -> FusionModule:
    module = fusion_module(llm, build=partial(build, method, llm, **settings))
    module.optimizer = partial(optimizer, lr=1e-2)
    return module


def learn(
    module: FusionModule, folder: Path, ckpt_path: Path | None = None, stop: bool = False, max_steps: int = STEPS
) -> Fit:
    L.seed_everything(3, verbose=False)
    data = data_module(readers(folder.parent / "traces", documents(30)))
    make = trainer(max_steps, also=[PowerCut(3)] if stop else [])
    return fit("job", folder, module, data, make, 1e-2, ckpt_path=ckpt_path)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def with_adapters_at_work(method: str, llm: LocalLLM, **settings: Any) -> PreTrainedModel:
    """B is drawn too: adapters of a new model add nothing."""
    model = build(method, llm, **settings)
    torch.manual_seed(7)
    for name, parameter in trained(model).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model.eval()


# ---- what learns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", ADAPTERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_alone_are_to_be_trained(tmp_path: Path, architecture: str, method: str, dtype: str) -> None:
    """In float32 beside any base, on all linear layers but the head, whose logits we can remake; a new adapter adds nothing."""
    llm = local_llm(tmp_path / "llm", architecture, width=64, dtype=dtype)
    model = build(method, llm)
    names = trained(model)
    assert names
    assert all("lora_A" in name or "lora_B" in name for name in names)
    assert {p.dtype for p in names.values()} == {torch.float32}
    head = output_head(model, 10**9).module
    assert type(head) is nn.Linear
    assert head.weight.dtype == getattr(torch, dtype)
    linear = {n for n, m in tiny_llm(architecture, 64, width=64).named_modules() if isinstance(m, nn.Linear)}
    assert len(adapters(model)) == len(linear) - 1 == len(names) / 2
    plain = llm if method == "lora" else replace(llm, spec=replace(llm.spec, quantization="4bit"))
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, plain.load()(input_ids=ids).logits)


def test_only_the_named_layers_have_adapters(target: LocalLLM) -> None:
    layers = adapters(build("lora", target, target_modules=["q_proj", "v_proj"]))
    assert {name.rpartition(".")[-1] for name in layers} == {"q_proj", "v_proj"}
    assert len(layers) == 4


@pytest.mark.parametrize("method", ADAPTERS)
def test_adapters_are_those_of_the_seed(target: LocalLLM, method: str) -> None:
    """As an experiment seeds; another seed draws others."""
    models = []
    for seed in (1, 1, 2):
        L.seed_everything(seed, verbose=False)
        models.append(trained(build(method, target)))
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert not all(torch.equal(models[0][name], models[2][name]) for name in models[0])


@pytest.mark.parametrize("method", ADAPTERS)
def test_the_fused_loss_reaches_every_adapter_and_nothing_else(target: LocalLLM, tmp_path: Path, method: str) -> None:
    """Through a head that is frozen; the target learns, its base is what it was, bit for bit."""
    module = module_of(method, target)
    result = learn(module, tmp_path / "fit", max_steps=20)
    assert result.best_bits_per_byte < 0.97 * result.history[0][1]
    before = build(method, target).state_dict()
    for name, weight in module.network.state_dict().items():
        if "lora_A" not in name and "lora_B" not in name:
            assert torch.equal(weight, before[name]), name
    moved = [name for name, p in trained(module.network).items() if not torch.equal(p, before[name])]
    assert moved == list(trained(module.network))


# ---- checkpoints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        ("lora", torch.optim.AdamW),
        ("qlora", AdamW8bit),
        pytest.param("lora", AdamW8bit, marks=pytest.mark.long),
        pytest.param("qlora", torch.optim.AdamW, marks=pytest.mark.long),
    ],
)
def test_a_stopped_fit_ends_bit_identical(target: LocalLLM, tmp_path: Path, method: str, optimizer: Any) -> None:
    """With dropout on the adapters; the checkpoint holds them alone."""
    make = partial(module_of, method, target, optimizer, dropout=0.1)
    whole = learn(make(), tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power"):
        learn(make(), tmp_path / "stopped", stop=True)
    again = learn(make(), tmp_path / "stopped", tmp_path / "stopped" / "last.ckpt")
    assert again == whole
    ckpt = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)
    assert ckpt["state_dict"].keys() == {f"model.{name}" for name in trained(build(method, target))}
    for file in ("last.ckpt", "best.ckpt"):
        mine, its = (torch.load(tmp_path / f / file, weights_only=True)["state_dict"] for f in ("whole", "stopped"))
        assert all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.parametrize("method", ADAPTERS)
def test_the_best_checkpoint_is_scored(target: LocalLLM, tmp_path: Path, method: str) -> None:
    """A module of its own with the adapters of the file says what the trained one said, to the last bit."""
    module = module_of(method, target)
    result = learn(module, tmp_path / "fit")
    assert result.history[-1][1] == result.best_bits_per_byte, "the last is the best"
    best = load_best(module_of(method, target), tmp_path / "fit", result)
    texts = documents(8, "validation")
    mine, its = (score_documents(m.network, surface("llama"), texts, 96, 1000) for m in (module, best))
    assert mine == its
    before = score_documents(build(method, target), surface("llama"), texts, 96, 1000)
    assert sum(mine.nats.values()) < sum(before.nats.values())


LORA = r"finetune=lora finetune\.rank=4 finetune\.alpha=8 finetune\.target_modules=\[down_proj,.*,v_proj\]"


@pytest.fixture(scope="module")
def saved_by(target: LocalLLM, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The last checkpoint of a short fit of all weights, and of one of adapters."""
    folder = tmp_path_factory.mktemp("saved")
    for method in ("full", "lora"):
        learn(module_of(method, target), folder / method, max_steps=2)
    return {method: folder / method / "last.ckpt" for method in ("full", "lora")}


@pytest.mark.parametrize(
    ("saved", "now", "message"),
    [
        (
            "lora",
            ("full", {}),
            f"with {LORA}, this run has finetune=full: set {LORA}, or give another",
        ),
        (
            "full",
            ("lora", {}),
            f"with finetune=full, this run has {LORA}: set finetune=full, or give",
        ),
        ("lora", ("qlora", {}), rf"with {LORA}, this run has finetune=qlora finetune\.rank=4 "),
        ("lora", ("lora", {"rank": 8}), rf"with {LORA}, this run has finetune=lora finetune\.rank=8 "),
        (
            "lora",
            ("lora", {"alpha": 0.5}),
            rf"with {LORA}, this run has finetune=lora finetune\.rank=4 finetune\.alpha=0\.5 ",
        ),
        (
            "lora",
            ("lora", {"target_modules": ["q_proj"]}),
            rf"with {LORA}, this run .*target_modules=\[q_proj\]: set",
        ),
    ],
)
def test_a_checkpoint_of_another_finetune_is_refused(
    target: LocalLLM, saved_by: dict[str, Path], tmp_path: Path, saved: str, now: tuple[str, Any], message: str
) -> None:
    """Both are named, in words that can be set; so for a resumed fit, and nothing is trained."""
    with pytest.raises(ValueError, match=f"^the checkpoint is of a run {message}"):
        learn(module_of(now[0], target, **now[1]), tmp_path / "two", saved_by[saved])
    assert not (tmp_path / "two" / "fit.json").exists()


def test_weights_of_other_adapters_are_refused(target: LocalLLM, tmp_path: Path) -> None:
    """Where a result is loaded without a fit around it."""
    result = learn(module_of("lora", target), tmp_path / "fit", max_steps=2)
    other = module_of("lora", target, target_modules=["q_proj"])
    message = (
        r"not those that finetune=lora .*\[q_proj\] trains: 24 are on one side only, the first 'model\.model\.layers\.0"
    )
    with pytest.raises(ValueError, match=message):
        load_best(other, tmp_path / "fit", result)


# ---- merging ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_merged_lora_says_what_the_adapted_model_says(tmp_path: Path, architecture: str) -> None:
    """float32, one product instead of two: 1e-4 of logits of up to about 10; saved and loaded, the same to the last bit."""
    llm = local_llm(tmp_path / "llm", architecture, width=64)
    model = with_adapters_at_work("lora", llm)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    whole = merged(llm, model)
    ids = torch.arange(1, 33)[None]
    with torch.no_grad():
        want, got, before = (m(input_ids=ids).logits for m in (model, whole, llm.load()))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert (before - want).abs().max() > 0.1, "the adapters are at work"
    assert not adapters(whole)
    assert type(whole) is type(llm.load())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items()), "the model is left alone"
    whole.save_pretrained(tmp_path / "saved")
    saved = localize("saved", LLMSpec(path=str(tmp_path / "saved"))).load()
    with torch.no_grad():
        assert torch.equal(saved(input_ids=ids).logits, got)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_qlora_is_the_unquantised_base_and_the_adapters(tmp_path: Path, dtype: str) -> None:
    """Layer by layer B A alpha / rank by hand, added in float32, equal to the last bit; the rest is the base's."""
    llm = local_llm(tmp_path / "llm", width=64, dtype=dtype)
    model = with_adapters_at_work("qlora", llm)
    whole, base, layers = merged(llm, model), llm.load(), adapters(model)
    parameters = dict(whole.named_parameters())
    assert {p.dtype for p in parameters.values()} == {getattr(torch, dtype)}
    for name, weight in base.named_parameters():
        layer = name.removesuffix(".weight")
        if layer in layers:
            a, b = (trained(model)[f"{layer}.lora_{x}.default.weight"] for x in "AB")
            weight = (weight.float() + (b @ a) * (8 / 4)).to(weight.dtype)
        assert torch.equal(parameters[name], weight), name


def test_a_model_without_adapters_is_merged_as_it_is(target: LocalLLM) -> None:
    model = full(target)
    assert merged(target, model) is model


# ---- 4 bits -----------------------------------------------------------------------------------------------------


def test_the_base_of_qlora_is_in_nf4(target: LocalLLM) -> None:
    """All linear layers but the head; the nearest of 16 levels is at most 0.152 of a block's largest weight away."""
    model, whole = build("qlora", target), target.load()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Linear4bit)}
    assert len(layers) == 14
    for name, layer in layers.items():
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.quant_state.quant_type == "nf4"
        got = dequantize_4bit(layer.weight.data, layer.weight.quant_state).reshape(-1, 64)
        want = whole.get_submodule(name.removesuffix(".base_layer")).weight.detach().reshape(-1, 64)  # type: ignore[operator, union-attr]
        assert ((got - want).abs() <= 0.153 * want.abs().amax(1, keepdim=True)).all()
        assert not torch.equal(got, want)


def test_a_4bit_model_that_was_scored_still_learns(target: LocalLLM) -> None:
    """On a CPU with AVX512-BF16 bitsandbytes would pack its weights anew in evaluation, and cut gradients from then on."""
    model, ids = build("qlora", target), torch.arange(1, 9)[None]

    def gradients() -> list[torch.Tensor]:
        model.train().zero_grad()
        model(input_ids=ids).logits.logsumexp(-1).sum().backward()
        return [p.grad.clone() for p in trained(model).values() if p.grad is not None]

    before = gradients()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    after = gradients()
    assert len(before) == len(trained(model))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
def test_float16_is_not_trained(target: LocalLLM, method: str) -> None:
    llm = localize("half", LLMSpec(path=str(target.folder), dtype="float16"))
    message = (
        "^LLM 'half' is to be trained in float16, where small gradients become 0: set its dtype to bfloat16 or float32$"
    )
    with pytest.raises(ValueError, match=message):
        build(method, llm)


@pytest.mark.parametrize(
    ("method", "bits"), [("full", "8bit"), ("full", "4bit"), ("lora", "8bit"), ("lora", "4bit"), ("qlora", "8bit")]
)
def test_quantised_weights_are_not_trained(target: LocalLLM, method: str, bits: Any) -> None:
    """By name; 4 bits and qlora are meant for one another."""
    llm = localize("packed", LLMSpec(path=str(target.folder), quantization=bits))
    message = rf"^the weights of LLM 'packed' are quantised \({bits}\), finetune={method} cannot .*: set finetune=qlora, whose"
    with pytest.raises(ValueError, match=message):
        build(method, llm)
    four = localize("packed", LLMSpec(path=str(target.folder), quantization="4bit"))
    assert adapters(build("qlora", four))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_files_that_are_quantised_are_not_trained(target: LocalLLM, tmp_path: Path, method: str) -> None:
    replace(target, spec=replace(target.spec, quantization="4bit")).load().save_pretrained(tmp_path / "packed")
    llm = localize("packed", LLMSpec(path=str(tmp_path / "packed")))
    with pytest.raises(
        ValueError, match=rf"^the weights of LLM 'packed' are quantised \(in its own files\), finetune={method}"
    ):
        build(method, llm)


def test_a_4_bit_head_is_not_trained(target: LocalLLM, tmp_path: Path) -> None:
    """Of files that were quantised with their head: the module names the LLM, and what to leave out."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["none"])
    packed = AutoModelForCausalLM.from_pretrained(target.folder, quantization_config=config, device_map={"": "cpu"})
    assert isinstance(packed.lm_head, Linear4bit)
    packed.save_pretrained(tmp_path / "packed")
    llm = localize("packed", LLMSpec(path=str(tmp_path / "packed")))
    message = r"^LLM 'packed': the LM head of LlamaForCausalLM is quantised \(its weight is torch\.uint8\) and cannot be trained"
    with pytest.raises(ValueError, match=message):
        module_of("qlora", llm).configure_model()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["no_such"], r"^LLM 'target' takes no adapters on finetune\.target_modules=\['no_such'\]: .*not found"),
        (
            ["q_proj", "embed_tokens"],
            r"^LLM 'target' would have adapters on 'model\.embed_tokens', an embedding or .*: leave it",
        ),
        (
            ["q_proj", "lm_head"],
            r"^LLM 'target' would have adapters on 'lm_head', an embedding or its LM head, .*: leave it out",
        ),
    ],
)
def test_layers_that_cannot_have_adapters(target: LocalLLM, targets: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module_of("lora", target, target_modules=targets).configure_model()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["finetune=lora", "finetune.rank=0"], r"finetune\.rank is 0: it must be at least 1"),
        (["finetune=qlora", "finetune.alpha=0"], r"finetune\.alpha is 0: it must be above 0"),
        (["finetune=lora", "finetune.dropout=1"], r"finetune\.dropout is 1: it must be at least 0 and below 1"),
        (["finetune=lora", "finetune.rank=4.5"], r"rank is 4\.5: it must be a whole number"),
        (["sources.llama2.dtype=float16"], r"^LLM 'target' is to be trained in float16"),
        (
            ["+sources.llama2.quantization=4bit"],
            r"^the weights of LLM 'target' are quantised \(4bit\), finetune=full cannot",
        ),
        (
            ["+sources.llama2.quantization=8bit", "finetune=lora"],
            r"quantised \(8bit\), finetune=lora cannot train them",
        ),
    ],
)
def test_a_run_that_cannot_train_is_refused_before_its_sources_read(overrides: list[str], message: str) -> None:
    overrides = [o.replace("sources.llama2.dtype", "+sources.llama2.dtype") for o in overrides]
    with pytest.raises(Exception, match=message.removeprefix("^")) as error:
        instantiate(composed("train", *overrides), _convert_="all")
    assert isinstance(error.value.__cause__, ValueError)
