"""Small real LLMs of transformers with random weights, large enough that their logits differ from row to row."""

import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
)

ARCHITECTURES = ["llama", "mpt", "neox"]


def tiny_llm(
    architecture: str, vocabulary_size: int, context_length: int = 512, seed: int = 0, width: int = 32
) -> PreTrainedModel:
    """Two layers in evaluation mode."""
    torch.manual_seed(seed)
    special = {"vocab_size": vocabulary_size, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.2}
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4}
    if architecture == "llama":
        llm = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=context_length, **special))
    elif architecture == "mpt":
        llm = MptForCausalLM(MptConfig(d_model=width, n_layers=2, n_heads=4, max_seq_len=context_length, **special))
    else:
        llm = GPTNeoXForCausalLM(GPTNeoXConfig(**shape, max_position_embeddings=context_length, **special))
    return llm.eval()
