"""A tiny LLM of each architecture that people have, with random weights and thresholds that a short document passes.

Windows and chunks are of 8 tokens, layers of each kind are there, and weights are large enough that logits tell.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers as t
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

HEADS: dict[str, Any] = {"num_attention_heads": 4, "initializer_range": 0.2, "num_hidden_layers": 4, "hidden_size": 32}
SHAPE: dict[str, Any] = {**HEADS, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 256}
SHAPE |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE: dict[str, Any] = {**SHAPE, "head_dim": 16}
WINDOW: dict[str, Any] = {"sliding_window": 8}
SOME_WINDOWS: dict[str, Any] = {**WINDOW, "use_sliding_window": True, "max_window_layers": 2}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR: dict[str, Any] = {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
LINEAR |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
SSM: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_chunk_size": 8}
PICTURES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
PICTURES |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}

Config = Callable[[int], PretrainedConfig]

# Read a document at a time by their own attention: bit for bit as alone, or within the order of float32 sums.
PACKED: dict[str, Config] = {
    "llama": lambda v: t.LlamaConfig(vocab_size=v, **SHAPE),
    "mistral": lambda v: t.MistralConfig(vocab_size=v, **WINDOW, **SHAPE),
    "mixtral": lambda v: t.MixtralConfig(vocab_size=v, num_local_experts=4, **WINDOW, **SHAPE),
    "gemma2": lambda v: t.Gemma2Config(vocab_size=v, **WINDOW, **WIDE),
    "gemma3": lambda v: t.Gemma3TextConfig(vocab_size=v, **WINDOW, **WIDE),
    "qwen2": lambda v: t.Qwen2Config(vocab_size=v, **SOME_WINDOWS, **SHAPE),
    "qwen3": lambda v: t.Qwen3Config(vocab_size=v, **SOME_WINDOWS, **WIDE),
    "qwen3_moe": lambda v: t.Qwen3MoeConfig(vocab_size=v, **EXPERTS, **WIDE),
    "phi3": lambda v: t.Phi3Config(vocab_size=v, original_max_position_embeddings=256, **WINDOW, **SHAPE),
    "cohere2": lambda v: t.Cohere2Config(vocab_size=v, logit_scale=1.0, **WINDOW, **WIDE),
    "olmo2": lambda v: t.Olmo2Config(vocab_size=v, **SHAPE),
    "smollm3": lambda v: t.SmolLM3Config(vocab_size=v, use_sliding_window=True, **WINDOW, **SHAPE),
    "granite": lambda v: t.GraniteConfig(vocab_size=v, logits_scaling=2.0, **SHAPE),
    "gpt_neox": lambda v: t.GPTNeoXConfig(vocab_size=v, max_position_embeddings=256, intermediate_size=64, **HEADS),
    "gpt2": lambda v: t.GPT2Config(
        vocab_size=v, n_embd=32, n_layer=4, n_head=4, n_positions=256, initializer_range=0.2, bos_token_id=1, eos_token_id=2
    ),
    "opt": lambda v: t.OPTConfig(
        vocab_size=v, hidden_size=32, ffn_dim=64, num_hidden_layers=4, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=256, init_std=0.2, dropout=0.0,
    ),
    "falcon": lambda v: t.FalconConfig(vocab_size=v, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, **HEADS),
    "mpt": lambda v: t.MptConfig(vocab_size=v, d_model=32, n_layers=4, n_heads=4, max_seq_len=256, initializer_range=0.2),
    "gpt_oss": lambda v: t.GptOssConfig(
        vocab_size=v, num_local_experts=4, num_experts_per_tok=2, rope_parameters={"rope_type": "default", "rope_theta": 1e4}, **WINDOW, **WIDE
    ),
    "llama4": lambda v: t.Llama4TextConfig(
        vocab_size=v, attention_chunk_size=8, num_local_experts=2, intermediate_size_mlp=64,
        layer_types=["chunked_attention", "full_attention"] * 2, **WIDE,
    ),
    "gemma3_with_pictures": lambda v: t.Gemma3Config(
        text_config={"vocab_size": v, **WINDOW, **WIDE}, vision_config=PICTURES, mm_tokens_per_image=4,
        image_token_index=v - 1, boi_token_index=v - 2, eoi_token_index=v - 3, initializer_range=0.2,
    ),
    "mistral3_with_pictures": lambda v: t.Mistral3Config(
        text_config={"model_type": "mistral", "vocab_size": v, **WINDOW, **WIDE}, image_token_index=v - 1,
        vision_config={"model_type": "pixtral", "head_dim": 16, **PICTURES},
    ),
}  # fmt: skip

# Carry a state from token to token, or take no mask of ours: a document a row.
ONE_DOCUMENT: dict[str, Config] = {
    "mamba2": lambda v: t.Mamba2Config(
        vocab_size=v, hidden_size=32, num_hidden_layers=4, head_dim=8, num_heads=8, state_size=16, n_groups=2, chunk_size=8,
        initializer_range=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
    "qwen3_next": lambda v: t.Qwen3NextConfig(vocab_size=v, shared_expert_intermediate_size=32, **EXPERTS, **LINEAR, **WIDE),
    "qwen3_5": lambda v: t.Qwen3_5TextConfig(vocab_size=v, **LINEAR, **WIDE),
    "qwen3_5_with_pictures": lambda v: t.Qwen3_5Config(
        text_config={"vocab_size": v, **LINEAR, **WIDE},
        vision_config={"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32},
    ),
    "granite_hybrid": lambda v: t.GraniteMoeHybridConfig(
        vocab_size=v, layer_types=["mamba", "attention"] * 2, num_local_experts=4, num_experts_per_tok=2,
        shared_intermediate_size=32, mamba_n_groups=1, **SSM, **SHAPE,
    ),
    "lfm2": lambda v: t.Lfm2Config(vocab_size=v, layer_types=["conv", "full_attention"] * 2, **SHAPE),
    "falcon_h1": lambda v: t.FalconH1Config(vocab_size=v, mamba_d_ssm=64, mamba_n_groups=1, **SSM, **WIDE),
    "bloom": lambda v: t.BloomConfig(vocab_size=v, seq_length=256, hidden_size=32, n_layer=4, n_head=4, initializer_range=0.2),
}  # fmt: skip


def tiny(name: str, vocabulary_size: int) -> PreTrainedModel:
    """In evaluation mode, without dropout, as the hub's class for text makes it."""
    torch.manual_seed(0)
    config = {**PACKED, **ONE_DOCUMENT}[name](vocabulary_size)
    auto = AutoModelForImageTextToText if name.startswith("mistral3") else AutoModelForCausalLM
    model = auto.from_config(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.eval()
