"""The quadratic interference of task vectors, and its minimum.

    |(D - T_1) X_1^T|^2 + .. + |(D - T_k) X_k^T|^2   is least at   D* = (sum_i T_i S_i) (sum_i S_i)^+,   S_i = X_i^T X_i

T_i (out, in) is what task i wants, the rows of X_i stand for its inputs. Methods of this family differ in X_i alone: real
activations (RegMean), the rows of the task vector itself (WUDI; `_own_rows` has the faster way of its closed forms), their
leading part (OptMerge).

Everything is done in the eigenbasis of C = sum_i S_i, which is that of the right singular vectors of all X_i, one below the
other: from the smaller of their two Gram matrices, without C itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from mergery.kernels.spectral import Frame


@dataclass(frozen=True)
class Interference:
    """In the basis V (..., r, in) of the inputs that any task has: the eigenvalues of C (..., r), largest first and zero where
    nothing is, and `pull` (..., out, r), which is (sum_i T_i S_i) V^T.
    """

    basis: Tensor
    values: Tensor
    pull: Tensor

    def solution(self, cut: float = 0.0) -> Tensor:
        """D* V^T (..., out, r); zero where no task has inputs, or eigenvalues are at most `cut` times the largest."""
        kept = self.values > cut * self.values[..., :1]
        return self.pull / self.values.where(kept, 1.0).unsqueeze(-2) * kept.unsqueeze(-2)

    def lifted(self, frame: Frame) -> Interference:
        """The same problem of the full matrices whose cores it is about."""
        basis = self.basis if frame.right is None else self.basis @ frame.right.mT
        return Interference(basis, self.values, self.pull if frame.left is None else frame.left @ self.pull)


def interference(targets: Sequence[Tensor], probes: Sequence[Tensor]) -> Interference:
    """Of targets (..., out, in) and probes X_i (..., any, in)."""
    import torch

    from mergery.kernels.spectral import svd

    wide = [probe.double() for probe in probes]
    _, size, basis = svd(torch.cat(wide, dim=-2))
    pull = None
    for target, probe in zip(targets, wide, strict=True):
        inside = probe @ basis.mT
        term = (target.double() @ basis.mT) @ (inside.mT @ inside)
        pull = term if pull is None else pull + term
    assert pull is not None
    return Interference(basis, size.square(), pull)


def rows_as_inputs(deltas: Sequence[Tensor], weight: Any) -> list[Tensor]:
    """Each task vector as its own inputs, of norm one times the root of its weight."""
    from mergery.kernels.spectral import norm

    probes = []
    for delta, factor in zip(deltas, weight, strict=True):
        size = norm(delta)
        share = float(factor) ** 0.5
        probes.append(delta.double() * (share / size.where(size > 0.0, 1.0)))
    return probes


def beginning(deltas: Sequence[Tensor], start: str) -> Tensor:
    """Where descent begins: the sum or the mean of the task vectors, float64."""
    from mergery.kernels.spectral import total

    share = 1.0 if start == "sum" else 1.0 / len(deltas)
    return total(deltas, [share] * len(deltas))
