"""Refining a block on anchors: its weights are moved until it answers each model's anchors as that model does.

    from a merge:  theta = b + A * (m - b), element by element; A begins at 1
    from the base: theta = b, all of it

A has the shape of the weights; what the merge leaves as in the base stays. Shi, Wen and Liu 2025 (arXiv 2510.21223).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mergery.calibration.anchors import nearness
from mergery.calibration.blocks import Block, Weights
from mergery.errors import DataError, RecipeError
from mergery.kernels.random import key


@dataclass(frozen=True)
class RefineOptions:
    """How a block is refined: passes over all anchors in batches, with Adam."""

    start: Literal["merge", "base"] = "merge"
    distance: Literal["cos", "mse", "l1"] = "mse"
    rate: float = 1e-2
    epochs: int = 100
    batch: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1 or self.rate <= 0.0:
            raise RecipeError("epochs, batch and rate must be above zero", hint="epochs 100, batch 128, rate 0.01")


REFINING: dict[tuple[str, bool], RefineOptions] = {  # by name, and whether blocks are whole
    ("paper", True): RefineOptions(),
    ("paper", False): RefineOptions(distance="cos", epochs=50, batch=8192),
    ("cheap", True): RefineOptions(epochs=15),
    ("cheap", False): RefineOptions(distance="cos", epochs=15, batch=1024),
}
"""The settings of the authors' experiments with language models, and cheaper ones."""


def refine(
    block: Block,
    base: Weights,
    merged: Weights,
    models: Mapping[str, Weights],
    anchors: Mapping[str, Any],
    options: RefineOptions,
) -> tuple[dict[str, Any], float, float]:
    """The block's new weights, and the mean distance on all anchors before and after.

    base, merged: weights by name. models, anchors: by the model's name. Without epochs, and where these come no nearer, the
    weights are those to begin with, as they are. Raises DataError where they are not finite.
    """
    import torch

    rows = torch.cat([anchors[name] for name in models])
    with torch.no_grad():
        wanted = torch.cat([block(models[name], anchors[name]) for name in models])
    from_base = options.start == "base"
    begin = dict(base if from_base else merged)
    change = {name: merged[name] - base[name] for name in base}
    steered = {
        name: (value.clone() if from_base else torch.ones_like(value)).requires_grad_(True)
        for name, value in begin.items()
        if from_base or bool(change[name].any())
    }

    def weights() -> dict[str, Any]:
        made = {name: value if from_base else base[name] + value * change[name] for name, value in steered.items()}
        return {**begin, **made}

    def distance() -> float:
        with torch.no_grad():
            return -float(nearness(block(weights(), rows), wanted, options.distance).mean())

    if not options.epochs or not steered:
        with torch.no_grad():
            gap = -float(nearness(block(begin, rows), wanted, options.distance).mean())
        return begin, gap, gap
    before = distance()
    optimiser = torch.optim.Adam(list(steered.values()), lr=options.rate)
    generator = torch.Generator().manual_seed(key(options.seed, block.name, "refining") & (2**63 - 1))
    for _ in range(options.epochs):
        for part in torch.randperm(len(rows), generator=generator).split(options.batch):
            optimiser.zero_grad()
            loss = -nearness(block(weights(), rows[part]), wanted[part], options.distance).sum()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        found = {name: value.detach() for name, value in weights().items()}
    if not all(bool(value.isfinite().all()) for value in found.values()):
        raise DataError(f"{block.name} is not finite any more", hint="a smaller rate, or fewer epochs")
    after = distance()
    return (found, before, after) if after < before else (begin, before, before)
