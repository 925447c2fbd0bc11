"""What transport finds of sources that compute what the target does, in other coordinates; and the size of what it makes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tests.alignment.transport.planted import deepened, error, logits, permuted, save, small, widened, write_texts
from transformers import LlamaForCausalLM

from mergery.alignment.transport.options import TransportOptions
from mergery.alignment.transport.running import transport

MATRIX = "model.layers.1.self_attn.q_proj.weight"


def measure() -> dict[str, Any]:
    """Errors by source, rows, epsilon and coupling; and norms by mode."""
    model = small()
    sources = {
        "the same, permuted": permuted(model),
        "twice as wide": widened(model),
        "twice as wide, with two idle layers": widened(deepened(model, (0, 1))),
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        target, texts = save(model, folder / "target"), write_texts(folder / "texts.txt", 300)
        folders = {name: save(source, folder / name) for name, source in sources.items()}
        number = 0

        def run(source: str, **options: Any) -> tuple[float, float]:
            nonlocal number
            number += 1
            usual = {"modules": ("attention", "mlp"), "neurons": 0, "longest": 24, "iterations": 500, "threads": 1}
            out = folder / f"out-{number}"
            transport(folders[source], target, texts, out, alpha=1.0, options=TransportOptions(**{**usual, **options}))
            made = load_file(out.with_name(f"{out.name}.transported") / "model-00002-of-00002.safetensors")[MATRIX]
            found = LlamaForCausalLM.from_pretrained(out)
            return error(logits(found), logits(model)), float(made.norm() / model.state_dict()[MATRIX].norm())

        rows = [{"source": source, **way, "error": run(source, **way)[0]} for source in sources for way in ways(source)]
        wide = "twice as wide"
        alike = {"layers": "argmin", "rows": "prompts", "scale": "none", "epsilon": 0.1}
        sizes = {mode: run(wide, mode=mode, **alike)[1] for mode in ("normalised", "paper", "released")}
    return {"rows": rows, "sizes": sizes, "shape": list(model.state_dict()[MATRIX].shape), "source shape": [64, 64]}


def ways(source: str) -> Iterator[dict[str, Any]]:
    """What is tried on a source."""
    for rows in ("tokens", "prompts"):
        for epsilon in (0.1, 0.03, 0.01):
            yield {"rows": rows, "epsilon": epsilon, "layers": "argmin"}
    if "idle" in source:
        for layers in ("monotone", "unbalanced", "balanced"):
            yield {"rows": "tokens", "epsilon": 0.01, "layers": layers}
