"""What calibration must give, found the plain way: the whole model in memory, hooks, and one backward pass for each example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from mergery.calibration.data import Row, inputs_of, read_texts


def load(folder: Path, name: str) -> Any:
    return getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()


def rows_of(file: Path, module: Any, tokenizer: Any, limit: int | None = None) -> Sequence[Row]:
    pair = bool(getattr(module.config, "is_encoder_decoder", False))
    return read_texts(file, tokenizer, longest=64, limit=limit, pair=pair, config=module.config.to_dict()).rows


def inputs(module: Any, rows: Sequence[Row]) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Gram matrix, magnitudes and tokens of the inputs of each linear module, by the name of its weight."""
    from transformers.pytorch_utils import Conv1D

    found: dict[str, list[Any]] = {}

    def hook(name: str) -> Any:
        def see(_: Any, given: Any) -> None:
            flat = given[0].detach().double().reshape(-1, given[0].shape[-1])
            sums = found.setdefault(name, [0.0, 0.0, 0])
            sums[0] = sums[0] + flat.T @ flat
            sums[1] = sums[1] + flat.abs().sum(0)
            sums[2] += len(flat)

        return see

    for name, inner in module.named_modules():
        if isinstance(inner, (torch.nn.Linear, Conv1D)):
            inner.register_forward_pre_hook(hook(f"{name}.weight"))
    with torch.no_grad():
        for row in rows:
            module(**inputs_of([row], module.config), use_cache=False)
    return {name: (gram.numpy(), size.numpy(), tokens) for name, (gram, size, tokens) in found.items()}


def squares(module: Any, rows: Sequence[Row], likelihoods: Any) -> dict[str, np.ndarray]:
    """Squared gradients of each parameter, summed over examples. `likelihoods(logits, row)` gives (share, likelihood)."""
    found: dict[str, Any] = {}
    for row in rows:
        for share, likelihood in likelihoods(module(**inputs_of([row], module.config)).logits[0], row):
            module.zero_grad()
            likelihood.backward(retain_graph=True)
            for name, parameter in module.named_parameters():
                if parameter.grad is not None:
                    found[name] = found.get(name, 0.0) + share * parameter.grad.double() ** 2
    return {name: values.numpy() for name, values in found.items()}


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder of statistics."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= {name: value.double().numpy() for name, value in load_file(file).items()}
    return found


def close(mine: np.ndarray, other: np.ndarray, tolerance: float = 1e-6) -> bool:
    return mine.shape == other.shape and bool(np.abs(mine - other).max() <= tolerance * np.abs(other).max())
