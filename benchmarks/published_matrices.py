"""Eight methods on matrices as their papers state them, in float32 torch: what their time is measured against.

Each takes task vectors (out, in) and returns the merged one, by the decomposition that the formula names: `svd` where it has
singular values, `pinv` where it has a pseudo-inverse. Nothing is done to make them fast, or sound on hard cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TIME, RANK, RIDGE, COMMON, DENSITY = 300.0, 0.85, 0.01, 0.8, 0.001


def orthogonal(matrix: Tensor) -> Tensor:
    """The polar factor."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def leading(deltas: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each task's share of the singular triplets."""
    share = min(deltas[0].shape) // len(deltas)
    found = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
    return [(u[:, :share], s[:share], vh[:share]) for u, s, vh in found]


def tsv_merge(deltas: Sequence[Tensor]) -> Tensor:
    parts = leading(deltas)
    left = orthogonal(torch.cat([u for u, _, _ in parts], dim=1))
    right = orthogonal(torch.cat([vh for _, _, vh in parts]))
    return left @ torch.diag(torch.cat([s for _, s, _ in parts])) @ right


def iso_c(deltas: Sequence[Tensor]) -> Tensor:
    u, s, vh = torch.linalg.svd(torch.stack(list(deltas)).sum(0), full_matrices=False)
    return s.mean() * u @ vh


def iso_cts(deltas: Sequence[Tensor]) -> Tensor:
    n, k = min(deltas[0].shape), len(deltas)
    own = round((n - int(n * COMMON)) / k)
    common = n - own * k
    u, s, vh = torch.linalg.svd(torch.stack(list(deltas)).sum(0), full_matrices=False)
    lefts, sizes, rights = [u[:, :common]], [s[:common]], [vh[:common]]
    for delta in deltas:
        rest = delta - u[:, :common] @ (u[:, :common].T @ delta)
        a, b, c = torch.linalg.svd(rest, full_matrices=False)
        lefts.append(a[:, :own])
        sizes.append(b[:own])
        rights.append(c[:own])
    return torch.cat(sizes).mean() * orthogonal(torch.cat(lefts, dim=1)) @ orthogonal(torch.cat(rights))


def dc_merge(deltas: Sequence[Tensor]) -> Tensor:
    parts = leading(deltas)
    left = orthogonal(torch.cat([u for u, _, _ in parts], dim=1))
    right = orthogonal(torch.cat([vh for _, _, vh in parts]))
    inside = []
    for u, s, vh in parts:
        seen = left.T @ (u @ torch.diag(s) @ vh) @ right.T
        cut = seen.abs().flatten().topk(max(1, int(DENSITY * seen.numel()))).values[-1]
        inside.append(seen * (seen.abs() >= cut))
    stacked = torch.stack(inside)
    agree = (stacked.sign() == stacked.sum(0).sign()) & (stacked != 0)
    merged = (stacked * agree).sum(0) / agree.sum(0).clamp(min=1)
    blocks = torch.block_diag(*[torch.ones(len(s), len(s)) for _, s, _ in parts])
    return left @ (merged * blocks) @ right


def own_inputs(deltas: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """sum_i d_i S_i and C = sum_i S_i, with S_i = d_i^T d_i / |d_i|^2."""
    squares = [delta.T @ delta / delta.square().sum() for delta in deltas]
    aims = [delta @ square for delta, square in zip(deltas, squares, strict=True)]
    return torch.stack(aims).sum(0), torch.stack(squares).sum(0)


def swudi(deltas: Sequence[Tensor]) -> Tensor:
    aim, matrix = own_inputs(deltas)
    values, vectors = torch.linalg.eigh(matrix)
    kept = math.ceil(RANK * len(values))
    values, vectors = values[-kept:], vectors[:, -kept:]
    start = torch.stack(list(deltas)).mean(0)
    share = 1.0 - torch.exp(-TIME * values)
    return start + ((aim @ vectors / values - start @ vectors) * share) @ vectors.T


def swudi_a(deltas: Sequence[Tensor]) -> Tensor:
    aim, matrix = own_inputs(deltas)
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp(min=0).sqrt()
    kept = math.ceil(float(roots.sum() ** 2 / roots.square().sum()))
    values, vectors = values[-kept:], vectors[:, -kept:]
    start = torch.stack(list(deltas)).mean(0)
    return start + (aim @ vectors / values - start @ vectors) @ vectors.T


def actmat(deltas: Sequence[Tensor]) -> Tensor:
    squares = [delta.T @ delta for delta in deltas]
    aims = [delta @ square for delta, square in zip(deltas, squares, strict=True)]
    return torch.stack(aims).sum(0) @ torch.linalg.pinv(torch.stack(squares).sum(0))


def ace(deltas: Sequence[Tensor]) -> Tensor:
    centred = [delta - delta.mean(0, keepdim=True) for delta in deltas]
    squares = [core.T @ core for core in centred]
    ridge = RIDGE * torch.stack([square.trace() for square in squares]).mean() / deltas[0].shape[1]
    loaded = [square + ridge * torch.eye(len(square)) for square in squares]
    row = torch.stack(squares).sum(0).mean(0)
    aim = torch.stack([core @ own for core, own in zip(centred, loaded, strict=True)]).sum(0)
    return torch.linalg.solve((torch.stack(loaded).sum(0) + row).T, aim.T).T


METHODS = {each.__name__: each for each in (swudi, swudi_a, ace, actmat, iso_c, iso_cts, tsv_merge, dc_merge)}
