"""Quotients by a matrix in float64, made in float32 where that would not be seen."""

import torch

from mergery.kernels.quotients import quotient


def problem(load: float, side: int = 520) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """B, the root of W = A A^T + load, A, and y A by a solver."""
    generator = torch.Generator().manual_seed(0)
    aim, left, rows = (torch.randn(side, side, generator=generator, dtype=torch.float64) for _ in range(3))
    rows = (left * torch.arange(1, side + 1) ** -1.0) @ rows
    whole = rows @ rows.mT
    whole.diagonal().add_(load * float(whole.diagonal().mean()))
    aim = aim @ (rows @ rows.mT)
    return aim, torch.linalg.cholesky(whole), rows, torch.linalg.solve(whole, aim.mT).mT @ rows


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted))


def test_where_sums_do_not_cancel_it_is_made_in_float32():
    aim, root, rows, wanted = problem(5e-2)
    found = quotient(aim, root, rows)
    assert 1e-9 < relative(found, wanted) < 1e-5
    assert found.dtype == torch.float64


def test_where_they_do_and_where_matrices_are_small_in_float64():
    for load, side in ((1e-9, 520), (1e-2, 300)):
        aim, root, rows, wanted = problem(load, side)
        assert relative(quotient(aim, root, rows), wanted) < 1e-8
