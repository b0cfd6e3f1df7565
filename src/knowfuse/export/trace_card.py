"""What does the card of exported traces say? Who said what of which text, and how anyone reads it with numpy alone."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from huggingface_hub import DatasetCardData

from knowfuse.export.sections import CITATION, PAPER, data_sets, llms, text
from knowfuse.report.tables import markdown_table
from knowfuse.traces.copied import Copied
from knowfuse.traces.store import TraceStore
from knowfuse.types import LLMSpec

# What reads a shard, up to the kept tokens of a document, whose codes mean another thing in each format.
READ = """import json
import numpy as np

def read(shard):  # a shard-*.safetensors, and the .index beside it
    raw, ids = np.fromfile(shard, "u1"), open(shard.replace(".safetensors", ".index"), "rb").read().partition(b"\\n")[2]
    start = 8 + int(raw[:8].view("<i8")[0])
    about = json.loads(raw[8:start].tobytes())
    layout, offsets, rows = (raw[start:][slice(*about[name]["data_offsets"])] for name in ("layout", "offsets", "rows"))
    (K, *widths), offsets, rows = layout.view("<i8"), offsets.view("<i8"), rows.reshape(about["rows"]["shape"])
    edges = np.cumsum([0, *widths, *[widths[0], 8] * K])  # of the fields of a row, in bits
    for n, (a, b) in enumerate(zip(offsets, offsets[1:])):
        bits = np.unpackbits(rows[a:b], axis=1, bitorder="little")
        fields = np.stack([bits[:, i:j] @ (1 << np.arange(j - i)) for i, j in zip(edges, edges[1:])], 1)
        input_ids, ends, kept, codes = fields[:, 0], fields[:, 1].cumsum(), fields[:, 3::2], fields[:, 4::2]
        logit = 18 - (fields[:, 2] - 1) / 1024  # of the true next token
        nll = np.append(np.logaddexp(0, -logit)[:-1], 0.0)
        with np.errstate(divide="ignore"):
{log_probs}
        yield ids[12 * n : 12 * n + 12].hex(), input_ids, ends, nll, kept, log_probs
"""
LOG_PROBS = {
    "bits-1": """            share = 16 * np.sinh(3 * (codes - 128) / 127) / np.sinh(3)  # logits, of what is left over so far
            gold = (codes > 0) & (kept == np.append(input_ids[1:], -1)[:, None])
            rest = np.where(gold | (codes == 0), 0.0, -np.logaddexp(0, share))
            left = rest.cumsum(1) - rest - np.logaddexp(0, logit)[:, None] * gold.any(1)[:, None]
            log_probs = np.where(gold, -nll[:, None], np.where(codes > 0, left - np.logaddexp(0, -share), -np.inf))""",
    "drawn-1": """            counts = np.log(codes) - np.log(np.maximum(codes.sum(1, keepdims=True), 1))
            log_probs = counts - np.logaddexp(0, logit)[:, None]
            log_probs[-1] = -np.inf""",
}
MEANS = {
    "bits-1": "`log_probs` are natural logs over the whole vocabulary: what `kept` leaves over is the tail, and `-inf` is an empty slot.",
    "drawn-1": "`kept` were drawn from what the true next token leaves, and `log_probs` are estimates, right on the mean over draws.",
}


def trace_card(
    settings: Mapping[str, Any], sources: Mapping[str, LLMSpec], stores: Mapping[str, tuple[TraceStore, Copied]]
) -> str:
    """The README.md of what the sources of a run said of its text; `stores` are by the name of the source."""
    data = DatasetCardData(
        license="other",
        license_name="that-of-its-text-and-sources",
        source_datasets=data_sets(settings) or None,
        tags=["knowfuse", "knowledge-distillation", "arxiv:2401.10491"],
    )
    kept = "drawn" if settings.get("traces") == "sampled" else "most probable"
    parts = {
        "": f"What {len(stores)} LLMs say of the same text, token by token: each in its own vocabulary, at its own positions, with the byte "
        f"at which each token ends; {settings['top_k']} {kept} tokens a row. One pass of each LLM over the text made it, for knowledge "
        f"fusion ([2401.10491]({PAPER})), by knowfuse {version('knowfuse')}.\n",
        "Sources": llms(sources, sources),
        "Text": f"Its texts are not here: what the tokens of a source spell is what it read.\n\n{text(settings)}",
        "What is there": _counted(stores),
        "Read it": _reading(stores),
    }
    body = "\n".join((f"## {title}\n\n" if title else "") + part for title, part in parts.items())
    return f"---\n{data.to_yaml()}\n---\n\n# Traces of {len(stores)} LLMs\n\n{body}\n{CITATION}"


def _counted(stores: Mapping[str, tuple[TraceStore, Copied]]) -> str:
    rows = []
    for name, (store, copied) in stores.items():
        each = copied.num_bytes / max(copied.rows, 1)
        figures = [f"{n:,}" for n in (copied.documents, copied.set_aside, copied.rows)]
        rows.append(
            [name, f"`{store.key.folder_name}`", *figures, str(store.key.top_k), store.codec_name, f"{each:.1f}"]
        )
    heading = ["source", "folder", "documents", "that it cannot read", "tokens", "K", "format", "bytes a token"]
    return markdown_table(heading, rows) + "\n"


def _reading(stores: Mapping[str, tuple[TraceStore, Copied]]) -> str:
    """The code, of the one format that all of them have, and what its arrays mean."""
    first = next(iter(stores.values()))[0]
    example = f"{first.key.folder_name}/shard-00000.safetensors"
    code = READ.replace("{log_probs}", LOG_PROBS[first.codec_name])
    return f"""With json and numpy, without knowfuse:

```python
{code}
for document, input_ids, ends, nll, kept, log_probs in read({json.dumps(example)}):
    print(document, len(input_ids), nll.sum() / np.log(2) / ends[-1])  # bits per byte, EOS and all
```

Row t speaks of the next token, `input_ids[t + 1]`; the last row of a document predicts nothing. `ends` are bytes of the document up to the
end of each token, `nll` nats of the true next one. {MEANS[first.codec_name]} A document is named by the first 12 bytes of SHA-256 of its text
behind `1`, or `0` where the text goes on in another document; of a conversation behind `chat`, its roles and sizes. `manifest.json` says by
which weights and tokenizer, as hashes; `aside*.json` which documents a source could not read, and why.

With knowfuse, `tracing.place=<this folder>` spares the sources to read the text again, where LLMs, their names, text and `top_k` are the same.
"""
