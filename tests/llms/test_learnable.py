"""What an LLM cannot learn is refused by its configuration alone."""

from functools import partial

import pytest
from transformers import GPT2Config, LlamaConfig, MixtralConfig, PretrainedConfig

from knowfuse.llms.finetune import full, lora
from knowfuse.llms.learnable import require_learnable

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}
LLAMA = LlamaConfig(**SIZES)
MIXTRAL = MixtralConfig(**SIZES, num_key_value_heads=2)


def adapters_on(*targets: str) -> partial:
    return partial(lora, rank=2, alpha=4.0, dropout=0.0, target_modules=list(targets))


@pytest.mark.parametrize(
    ("config", "finetune", "router_loss"),
    [
        (LLAMA, full, None),
        (LLAMA, adapters_on("q_proj", "mlp.up_proj"), 0.0),
        (GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64), adapters_on("c_attn"), None),
        (MIXTRAL, full, 0.01),
        (MIXTRAL, adapters_on("self_attn.q_proj"), None),
        (MixtralConfig(**SIZES, num_key_value_heads=2, output_router_logits=True), full, None),
    ],
)
def test_what_it_can_learn_is_taken(config: PretrainedConfig, finetune: partial, router_loss: float | None) -> None:
    require_learnable(config, "x", finetune, router_loss)


@pytest.mark.parametrize(
    ("config", "finetune", "router_loss", "message"),
    [
        (
            LLAMA,
            adapters_on("q_proj", "w1"),
            None,
            r"'x' takes no adapters .*: a linear layer 'w1' is not found .* up_proj",
        ),
        (LLAMA, adapters_on("lm_head"), None, r"'x' would have adapters on 'lm_head', an embedding or its LM head"),
        (
            LLAMA,
            full,
            0.01,
            r"'x': router_loss is 0\.01, and transformers has no loss that balances experts for LlamaForC",
        ),
        (MIXTRAL, adapters_on("experts"), None, r"'experts' names its experts, which are no linear layers but slices"),
        (LlamaConfig(**SIZES, output_router_logits=True, router_aux_loss_coef=0.1), full, None, r"router_loss is 0\.1"),
    ],
)
def test_what_it_cannot_learn_is_named(
    config: PretrainedConfig, finetune: partial, router_loss: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        require_learnable(config, "x", finetune, router_loss)
