"""Task vectors with singular vectors of a known kind."""

from __future__ import annotations

import torch

from mergery.kernels.spectral import Factored

from .merging import normal


def diagonal(*entries: float) -> torch.Tensor:
    return torch.diag(torch.tensor(entries, dtype=torch.float32))


def orthonormal(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Columns of length one at right angles, float64."""
    return torch.linalg.qr(normal(rows, columns, seed=seed).double()).Q


def apart(k: int, rank: int, out: int, into: int, seed: int) -> list[torch.Tensor]:
    """Task vectors of a rank whose directions, of outputs and of inputs, are at right angles to those of the others."""
    left, right = orthonormal(out, k * rank, seed), orthonormal(into, k * rank, seed + 1)
    order = torch.randperm(k * rank, generator=torch.Generator().manual_seed(seed))
    size = 2.0 - order.double() / (k * rank)  # none like another, which would leave the directions open
    own = [slice(rank * task, rank * (task + 1)) for task in range(k)]
    return [(left[:, each] * size[each] @ right[:, each].mT).float() for each in own]


def of_rank(rank: int, out: int, into: int, seed: int) -> Factored:
    return Factored(normal(out, rank, seed=seed), normal(rank, into, seed=seed + 1))


def spectrum(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrix.double())


def rank(matrix: torch.Tensor) -> int:
    s = spectrum(matrix)
    return int((s > 1e-5 * s[0]).sum())


def truncated(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The nearest matrix of a rank."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]
