"""Two fine-tunes of a base with an embedding, a matrix and a vector, merged by recipes."""

from __future__ import annotations

from typing import Any

import torch

import mergery
from mergery.method import Method

from .merging import merge, normal

EMBED, LINEAR, NORM = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
SHAPES = {EMBED: (9, 6), LINEAR: (8, 6), NORM: (6,)}
BASE, *MODELS = ({name: normal(*shape, seed=seed) for name, shape in SHAPES.items()} for seed in range(3))


def by_recipe(method: Method, **merge: Any) -> dict[str, torch.Tensor]:
    models = {"base": BASE, "a": MODELS[0], "b": MODELS[1]}
    out = mergery.merge({"models": models, "merge": {"method": method.name, "base": "base", **merge}})
    assert isinstance(out, dict)
    return out


def of_models(method: Method, name: str, **settings: Any) -> torch.Tensor:
    """One tensor of them, merged by a method."""
    return merge(method, [model[name] for model in MODELS], BASE[name], **settings)


def mean(name: str) -> torch.Tensor:
    return (MODELS[0][name] + MODELS[1][name]) / 2
