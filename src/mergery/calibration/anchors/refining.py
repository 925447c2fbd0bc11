"""Refining a block on anchors: its weights are moved until it answers each model's anchors as that model does.

    merge    theta = b + A * (m - b), element by element; A begins at 1
    models   theta = m + sum_i (A_i - w_i) * (m_i - b), element by element; A_i begins at w_i
    base     theta = b, all of it

b are the base's weights, m the merge's, m_i a model's. w_i are the numbers for which sum_i w_i (m_i - b) is nearest to m - b:
of task arithmetic its weights, so that theta is b + sum_i A_i * (m_i - b), as its authors have it. What no task vector changes
stays. Shi, Wen and Liu 2025 (arXiv 2510.21223).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mergery.calibration.anchors.blocks import Block, Weights
from mergery.calibration.anchors.search import nearness
from mergery.errors import DataError, RecipeError
from mergery.kernels.random import key


@dataclass(frozen=True)
class RefineOptions:
    """How a block is refined: passes over all anchors in batches, with Adam."""

    start: Literal["merge", "models", "base"] = "merge"
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
    begin = dict(base if options.start == "base" else merged)
    steered, weights = _STARTS[options.start](base, merged, models)

    def distance(values: Weights) -> float:
        with torch.no_grad():
            return -float(nearness(block(values, rows), wanted, options.distance).mean())

    before = distance(begin)
    if not options.epochs or not steered:
        return begin, before, before
    optimiser = torch.optim.Adam(steered, lr=options.rate)
    generator = torch.Generator().manual_seed(key(options.seed, block.name, "refining") & (2**63 - 1))
    for _ in range(options.epochs):
        for part in torch.randperm(len(rows), generator=generator).to(rows.device).split(options.batch):
            optimiser.zero_grad()
            loss = -nearness(block(weights(), rows[part]), wanted[part], options.distance).sum()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        found = {name: value.detach() for name, value in weights().items()}
    if not all(bool(value.isfinite().all()) for value in found.values()):
        raise DataError(f"{block.name} is not finite any more", hint="a smaller rate, or fewer epochs")
    after = distance(found)
    return (found, before, after) if after < before else (begin, before, before)


# --- what is moved ----------------------------------------------------------------------------------------------------


Steered = tuple[list[Any], Callable[[], dict[str, Any]]]  # what is learnt, and the weights that it makes


def _from_base(base: Weights, merged: Weights, models: Mapping[str, Weights]) -> Steered:
    free = {name: value.clone().requires_grad_(True) for name, value in base.items()}
    return list(free.values()), lambda: dict(free)


def _from_merge(base: Weights, merged: Weights, models: Mapping[str, Weights]) -> Steered:
    import torch

    changes = {name: merged[name] - base[name] for name in base}
    factors = {
        name: torch.ones_like(change).requires_grad_(True) for name, change in changes.items() if bool(change.any())
    }
    return list(factors.values()), lambda: {
        **merged,
        **{name: base[name] + factor * changes[name] for name, factor in factors.items()},
    }


def _from_models(base: Weights, merged: Weights, models: Mapping[str, Weights]) -> Steered:
    import torch

    shares = dict(zip(models, shares_of(base, merged, list(models.values())), strict=True))
    changes = {(who, name): model[name] - base[name] for who, model in models.items() for name in base}
    factors = {
        (who, name): torch.full_like(change, shares[who]).requires_grad_(True)
        for (who, name), change in changes.items()
        if bool(change.any())
    }

    def weights() -> dict[str, Any]:
        made = dict(merged)
        for (who, name), factor in factors.items():
            made[name] = made[name] + (factor - shares[who]) * changes[who, name]
        return made

    return list(factors.values()), weights


def shares_of(base: Weights, merged: Weights, models: list[Weights]) -> list[float]:
    """The numbers for which the sum of task vectors times them is nearest to what the merge changes, over a block."""
    import torch

    def flat(values: Weights) -> Any:
        return torch.cat([(values[name] - base[name]).reshape(-1).double() for name in base])

    changes = torch.stack([flat(model) for model in models])
    gram, pull = changes @ changes.T, changes @ flat(merged)
    return (torch.linalg.pinv(gram, hermitian=True) @ pull).tolist()


_STARTS = {"base": _from_base, "merge": _from_merge, "models": _from_models}
