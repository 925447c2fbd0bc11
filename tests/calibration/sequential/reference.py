"""What refining must give, found the plain way: whole models in float64, run again for each block, with hooks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mergery.calibration.data import Row, inputs_of

SKIPPED = ("lm_head", "classifier", "score", "predictions")


def linears(block: torch.nn.Module, prefix: str) -> dict[str, torch.nn.Module]:
    """The linear modules of a block, by name in the model."""
    from transformers.pytorch_utils import Conv1D

    return {
        f"{prefix}.{name}" if name else prefix: module
        for name, module in block.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D))
    }


def blocks_of(model: Any) -> list[str]:
    """The names of blocks in the order in which they are run, and of linear modules outside of them."""
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{block}.") for block in found)
        if isinstance(module, torch.nn.ModuleList) and not inside and not any(n in name for n in ("heads",)):
            found += [f"{name}.{index}" for index in range(len(module))]
        elif (
            (isinstance(module, torch.nn.Linear) or is_norm(module))
            and not inside
            and not any(skip in name for skip in SKIPPED)
        ):
            found.append(name)
    return found


def norms(block: torch.nn.Module, prefix: str) -> dict[str, torch.nn.Module]:
    """The norms of a block, by name in the model."""
    found = {f"{prefix}.{name}" if name else prefix: module for name, module in block.named_modules()}
    return {name: module for name, module in found.items() if is_norm(module)}


def is_norm(module: Any) -> bool:
    return any(kind in type(module).__name__ for kind in ("LayerNorm", "RMSNorm"))


def normalised(norm: Any, x: Any) -> Any:
    """Rows as a norm scales them."""
    eps = next(getattr(norm, key) for key in ("variance_epsilon", "eps") if hasattr(norm, key))
    if getattr(norm, "bias", None) is not None:
        return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + eps)
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)


def fit_norm(
    student: Any, base: Any, models: Any, name: str, mine: Any, theirs: Any, towards: float, anchor: float, ridge: float
) -> tuple[Any, Any]:
    """A norm's new weight and bias: a regression of two unknowns, or one, for each channel."""
    norm, origin = student.get_submodule(name), base.get_submodule(name)
    offset = 1.0 if "Gemma" in type(norm).__name__ else 0.0
    based = getattr(norm, "bias", None) is not None
    gain = offset + anchor * norm.weight.detach() + (1.0 - anchor) * origin.weight.detach()
    shift = anchor * norm.bias.detach() + (1.0 - anchor) * origin.bias.detach() if based else torch.zeros_like(gain)
    found = torch.zeros(len(gain), 2, dtype=torch.float64)
    for channel in range(len(gain)):
        left, right = ridge * torch.eye(2, dtype=torch.float64), ridge * torch.stack([gain[channel], shift[channel]])
        if not based:
            left[1, 1], right[1] = 1.0, 0.0
        for model, xs, xe in zip(models, mine, theirs, strict=True):
            own = model.get_submodule(name)
            zs, ze = normalised(norm, xs[name])[:, channel], normalised(own, xe[name])[:, channel]
            wanted = (offset + own.weight.detach()[channel]) * (towards * ze + (1.0 - towards) * zs)
            wanted = wanted + own.bias.detach()[channel] if based else wanted
            design = torch.stack([zs, torch.ones_like(zs) if based else torch.zeros_like(zs)], dim=1)
            gram = design.T @ design / len(zs)
            left, right = left + gram / gram.norm(), right + design.T @ wanted / len(zs) / gram.norm()
        found[channel] = torch.linalg.solve(left, right)
    return found[:, 0] - offset, found[:, 1] if based else None


def seen(model: Any, names: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """What some linear modules are given, over all rows: float64 (tokens, in)."""
    found: dict[str, list[Any]] = {name: [] for name in names}

    def hook(name: str) -> Any:
        return lambda _, given: found[name].append(given[0].detach().reshape(-1, given[0].shape[-1]))

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    with torch.no_grad():
        for row in rows:
            model(**inputs_of([row], model.config), use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(each) for name, each in found.items()}


def matrix(model: Any, name: str) -> Any:
    module = model.get_submodule(name)
    return module.weight.detach() if isinstance(module, torch.nn.Linear) else module.weight.detach().T


def put(model: Any, name: str, value: Any) -> None:
    module = model.get_submodule(name)
    module.weight.data.copy_(value if isinstance(module, torch.nn.Linear) else value.T)


def featcal(
    host: Any,
    base: Any,
    models: Sequence[Any],
    rows: Sequence[Sequence[Row]],
    towards: float,
    anchor: float,
    ridge: float,
) -> Mapping[str, np.ndarray]:
    """All weights after FeatCal, by the equations of arXiv 2605.13030."""
    student = copy.deepcopy(host)
    for block in blocks_of(student):
        names = list(linears(student.get_submodule(block), block))
        scaled = list(norms(student.get_submodule(block), block))
        mine = [seen(student, [*names, *scaled], each) for each in rows]
        theirs = [seen(model, [*names, *scaled], each) for model, each in zip(models, rows, strict=True)]
        fits = {name: fit_norm(student, base, models, name, mine, theirs, towards, anchor, ridge) for name in scaled}
        new: dict[str, Any] = {}
        for name in names:
            target = anchor * matrix(student, name) + (1.0 - anchor) * matrix(base, name)
            below = ridge * torch.eye(target.shape[1], dtype=torch.float64)
            above = ridge * target.T
            bias = getattr(student.get_submodule(name), "bias", None)
            shares = []
            for model, xs, xe in zip(models, mine, theirs, strict=True):
                aimed = towards * xe[name] + (1.0 - towards) * xs[name]
                c, n = xs[name].T @ xs[name] / len(aimed), xs[name].T @ aimed / len(aimed)
                shares.append((1.0 / c.norm(), aimed.mean(0), xs[name].mean(0), model))
                below, above = below + c / c.norm(), above + n @ matrix(model, name).T / c.norm()
            new[name] = torch.linalg.solve(below, above).T, None
            if bias is not None:
                one = anchor * bias.detach() + (1.0 - anchor) * base.get_submodule(name).bias.detach()
                up, down = ridge * one, ridge
                for share, aimed, merged, model in shares:
                    own = model.get_submodule(name).bias.detach() + matrix(model, name) @ aimed
                    up, down = up + share * (own - new[name][0] @ merged), down + share
                new[name] = new[name][0], up / down
        for name, (gain, shift) in fits.items():
            student.get_submodule(name).weight.data.copy_(gain)
            if shift is not None:
                student.get_submodule(name).bias.data.copy_(shift)
        for name, (weight, shift) in new.items():
            put(student, name, weight)
            if shift is not None:
                student.get_submodule(name).bias.data.copy_(shift)
    return {name: value.detach().numpy() for name, value in student.state_dict().items()}


def regmean_plus(
    host: Any, models: Sequence[Any], rows: Sequence[Sequence[Row]], off_diagonal: float
) -> Mapping[str, np.ndarray]:
    """All weights after RegMean++, by the equations of arXiv 2508.03121."""
    student = copy.deepcopy(host)
    for block in blocks_of(student):
        names = list(linears(student.get_submodule(block), block))
        grams: list[dict[str, Any]] = []
        for model, each in zip(models, rows, strict=True):
            visitor = copy.deepcopy(student)
            visitor.get_submodule(block).load_state_dict(model.get_submodule(block).state_dict())
            found = seen(visitor, names, each)
            grams.append({name: value.T @ value / len(value) for name, value in found.items()})
        for name in names:
            below = above = torch.zeros((), dtype=torch.float64)
            for model, gram in zip(models, grams, strict=True):
                shrunk = off_diagonal * gram[name] + (1.0 - off_diagonal) * torch.diag(gram[name].diagonal())
                below, above = below + shrunk, above + matrix(model, name) @ shrunk
            put(student, name, torch.linalg.solve(below, above.T).T)
    return {name: value.detach().numpy() for name, value in student.state_dict().items()}
