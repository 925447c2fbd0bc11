"""Models that are little more than embeddings, with one word for each row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

EMBED, HEAD, BIAS = "model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"


def words(*names: str) -> dict[str, Any]:
    """The tokenizer.json of whole words."""
    model = {"type": "WordLevel", "vocab": {name: i for i, name in enumerate(names)}, "unk_token": names[0]}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    return {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, **parts, "model": model}


def write_model(
    folder: Path, tokenizer: dict[str, Any] | None, rows: Any, *, tied: bool = False, **config: Any
) -> Path:
    """`rows` are the embeddings; the head has them times ten, and its bias their first column."""
    folder.mkdir(parents=True, exist_ok=True)
    embed = torch.as_tensor(rows, dtype=torch.float32).contiguous().clone()
    tensors = {EMBED: embed, "model.layers.0.mlp.up_proj.weight": torch.ones(2, 2), "model.norm.weight": torch.ones(2)}
    if not tied:
        tensors |= {HEAD: 10 * embed, BIAS: embed[:, 0].clone()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    facts = {
        "model_type": "llama",
        "vocab_size": len(rows),
        "tie_word_embeddings": tied,
        "num_hidden_layers": 1,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(facts))
    if tokenizer is None:
        (folder / "tokenizer.json").unlink(missing_ok=True)
    else:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        (folder / "tokenizer_config.json").write_text("{}")
    return folder
