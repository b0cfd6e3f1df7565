"""Small real GGUF files, written by the package of llama.cpp: a Llama with a byte-level tokenizer and a chat template."""

import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize
from tokenizers_for_tests import neox

WIDTH, LAYERS, HEADS = 32, 2, 4
CHAT_TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


def write_gguf(path: Path, parts: int = 1, seed: int = 0, architecture: str = "llama") -> list[Path]:
    """Random weights in blocks of 8 bits, norms in float32; in `parts` files, gguf-split's names, about as many tensors in each."""
    tokenizer = json.loads(neox().backend_tokenizer.to_str())
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    tensors = _tensors(len(vocabulary), seed)
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=-(-len(tensors) // parts) if parts > 1 else 0)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(vocabulary) - 1)])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, values in tensors.items():
        kind = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob(f"{path.stem}*.gguf"))


def _tensors(vocabulary_size: int, seed: int) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (vocabulary_size, WIDTH), "output": (vocabulary_size, WIDTH)}
    shapes["output_norm"] = (WIDTH,)
    for layer in range(LAYERS):
        inside = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
        inside |= {"ffn_gate": (2 * WIDTH, WIDTH), "ffn_up": (2 * WIDTH, WIDTH), "ffn_down": (WIDTH, 2 * WIDTH)}
        inside |= {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in inside.items()}
    random = np.random.default_rng(seed)
    return {
        f"{name}.weight": random.normal(1.0 if len(shape) == 1 else 0.0, 0.2, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
