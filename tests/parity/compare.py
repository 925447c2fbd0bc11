"""Reading two outputs and measuring how far they are apart."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

Tensors = dict[str, torch.Tensor]

EXACT = 1e-5  # of a tensor's largest magnitude: how far float32 results may be apart
SLACK = 1.0005  # of mergekit's error: rounding the float32 result again can move a value across a midpoint


def stored(folder: Path) -> Tensors:
    """All tensors as they stand in the files."""
    index = folder / "model.safetensors.index.json"
    names = (
        sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    )
    return {name: tensor for file in names for name, tensor in load_file(folder / file).items()}


def loaded(folder: Path) -> Tensors:
    """All weights as transformers loads them; a missing or unexpected one is an error."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value and key != "error_msgs"}
    if wrong or info.get("error_msgs"):
        raise ValueError(f"{folder.name} does not load whole: {wrong or info['error_msgs']}")
    return dict(model.state_dict())


def pair(mine: Path, theirs: Path) -> tuple[Tensors, Tensors]:
    """Both outputs by the same names: those of the files or, where these differ, those of transformers."""
    a, b = stored(mine), stored(theirs)
    if a.keys() == b.keys():
        return a, b
    return loaded(mine), loaded(theirs)


def distance(mine: Tensors, theirs: Tensors) -> float:
    """The largest difference, relative to the largest magnitude of its tensor."""
    worst = 0.0
    for name, tensor in theirs.items():
        gap = (mine[name].double() - tensor.double()).abs().max().item()
        worst = max(worst, gap / max(tensor.double().abs().max().item(), 1e-30))
    return worst


def errors(mine: Tensors, theirs: Tensors, truth: Tensors) -> tuple[float, float, str | None]:
    """Root mean square errors against the reference, relative to it, of the worst tensor each; and a tensor on which
    mine is larger than theirs."""
    worst = [0.0, 0.0]
    worse = None
    for name, tensor in truth.items():
        size = max(rms(tensor.double()), 1e-30)
        a, b = (rms(side[name].double() - tensor.double()) / size for side in (mine, theirs))
        worst = [max(worst[0], a), max(worst[1], b)]
        if a > SLACK * b + 1e-9:
            worse = f"{name}: {a:.3e} against {b:.3e}"
    return worst[0], worst[1], worse


def rms(tensor: torch.Tensor) -> float:
    return tensor.square().mean().sqrt().item()


def unequal_headers(mine: Tensors, theirs: Tensors) -> str | None:
    """What differs in names, shapes or dtypes."""
    if mine.keys() != theirs.keys():
        own, other = sorted(mine.keys() - theirs.keys()), sorted(theirs.keys() - mine.keys())
        return f"only in Mergery's: {own}; only in mergekit's: {other}"
    for name, tensor in theirs.items():
        if (mine[name].shape, mine[name].dtype) != (tensor.shape, tensor.dtype):
            own, other = ((tuple(each.shape), each.dtype) for each in (mine[name], tensor))
            return f"{name} is {own}, mergekit's {other}"
    return None
