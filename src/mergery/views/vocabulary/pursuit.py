"""Orthogonal matching pursuit: vectors as sums of few atoms, many at once (Pati et al. 1993)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BATCH_BYTES = 1 << 27  # of one batch's bases and correlations
SMALLEST = 1e-7  # of a vector's length: what is left of it below this is rounding


def pursue(targets: Tensor, atoms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each target (n, d) as a sum of at most k of the atoms (s, d).

    Step by step, the atom whose direction agrees best with what is left of the target is taken, and all coefficients
    are fitted again by least squares. Atoms count by their direction, whatever their length; one of length zero is never
    taken. Returns indices (n, k) and float64 coefficients (n, k), zero where fewer atoms were enough.

    Correlations are computed in the atoms' dtype, everything else in float64. Of equal correlations the first counts.
    """
    import torch

    k = min(k, len(atoms))
    lengths = atoms.double().norm(dim=1)
    directions = torch.where(
        lengths[:, None] > 0, atoms / lengths.clamp_min(torch.finfo(torch.float64).tiny)[:, None], 0
    )
    directions = directions.to(atoms.dtype)
    indices = torch.zeros(len(targets), k, dtype=torch.int64)
    coefficients = torch.zeros(len(targets), k, dtype=torch.float64)
    batch = max(1, BATCH_BYTES // (8 * k * (atoms.shape[1] + k) + atoms.element_size() * len(atoms)))
    for start in range(0, len(targets), batch):
        part = slice(start, start + batch)
        indices[part], coefficients[part] = _pursue(targets[part], directions, k)
    return indices, torch.where(coefficients == 0, 0, coefficients / lengths[indices].clamp_min(1e-300))


def _pursue(targets: Tensor, directions: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """One batch, over atoms of length one or zero. The atoms taken are made orthonormal as they come (Gram-Schmidt,
    twice): what is left of a target is what is orthogonal to all of them."""
    import torch

    n, width = targets.shape
    rest = targets.double().clone()
    sizes = rest.norm(dim=1)
    basis = torch.zeros(n, k, width, dtype=torch.float64)
    upper = torch.eye(k, dtype=torch.float64).repeat(n, 1, 1)
    along = torch.zeros(n, k, dtype=torch.float64)
    indices = torch.zeros(n, k, dtype=torch.int64)
    agreement = torch.empty(n, len(directions), dtype=directions.dtype)
    active = sizes > 0
    for step in range(k):
        torch.mm(rest.to(directions.dtype), directions.T, out=agreement)
        agreement.abs_().scatter_(1, indices[:, :step], -1)
        best, chosen = agreement.max(dim=1)
        atom = directions[chosen].double()
        before = basis[:, :step]
        first = torch.einsum("nkd,nd->nk", before, atom)
        new = atom - torch.einsum("nk,nkd->nd", first, before)
        again = torch.einsum("nkd,nd->nk", before, new)
        new = new - torch.einsum("nk,nkd->nd", again, before)
        length = new.norm(dim=1)
        active = active & (best > 0) & (length > SMALLEST)
        indices[:, step] = chosen
        new = torch.where(active[:, None], new / length.clamp_min(SMALLEST)[:, None], 0)
        upper[:, :step, step] = torch.where(active[:, None], first + again, 0)
        upper[:, step, step] = torch.where(active, length, 1)
        basis[:, step] = new
        along[:, step] = (new * rest).sum(dim=1)
        rest = rest - along[:, step, None] * new
        active = active & (rest.norm(dim=1) > SMALLEST * sizes)
        if not active.any():
            break
    return indices, torch.linalg.solve_triangular(upper, along[:, :, None], upper=True)[:, :, 0]
