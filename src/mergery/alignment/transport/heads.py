"""Queries and keys matched head by head: averages over heads of turns of their rotary planes.

Rotary positions turn two numbers of a head at a time, a plane. A model computes the same when the planes of a key head and of
its queries are turned alike, so neurons of queries and keys by themselves have no match that must hold; planes have. A plane's
two numbers are one complex number here. For each pair of groups of heads the angle of a plane is that which brings queries and
keys of the source nearest to the target's, on both together (Procrustes in two dimensions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergery.alignment.transport.sinkhorn import solve
from mergery.errors import CheckpointError, Where

if TYPE_CHECKING:
    from torch import Tensor

    from mergery.calibration.model import StreamedModel

HALVES = ("llama", "mistral", "granite", "qwen2", "mixtral", "gemma", "gemma2")
"""Families whose planes are the number p of a head and the one half a head behind it, all of them turned."""


@dataclass(frozen=True)
class Planes:
    """What heads say: complex, standardised by plane.

    values: (rows, heads, planes), with mean 0 and mean square 1. scale: float64 (heads, planes), before.
    """

    values: Tensor
    scale: Tensor


def planes_of(rows: Tensor, size: int) -> Planes:
    """Activations (rows, heads x size) by planes."""
    import torch

    halves = rows.double().reshape(len(rows), -1, 2, size // 2)
    values = torch.complex(halves[:, :, 0], halves[:, :, 1])
    values = values - values.mean(0)
    scale = values.abs().square().mean(0).sqrt()
    return Planes(values * scale.reciprocal().masked_fill(scale == 0, 0.0), scale)


def head_maps(
    target: tuple[Tensor, Tensor], source: tuple[Tensor, Tensor], size: int, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Maps of queries and of keys from the source to the target: float32 (target's outputs, source's outputs).

    target, source: what queries and keys say, each (rows, heads x size).
    """
    import torch

    (queries, keys), (theirs, their_keys) = ([planes_of(each, size) for each in side] for side in (target, source))
    crossed, crossed_keys = _crossed(queries, theirs), _crossed(keys, their_keys)
    heads, others = crossed.shape[:2]
    groups, their_groups = crossed_keys.shape[:2]
    group = torch.arange(heads, device=crossed.device) // (heads // groups)
    their_group = torch.arange(others, device=crossed.device) // (others // their_groups)
    both = crossed + crossed_keys[group][:, their_group]
    cost = 1.0 - both.abs().mean(2) / 2
    plan = solve(cost, epsilon).plan(cost)
    plan = plan / plan.sum(1, keepdim=True)
    of_group, of_theirs = (
        torch.nn.functional.one_hot(each, count).double()
        for each, count in ((group, groups), (their_group, their_groups))
    )
    shared = of_group.T @ plan @ of_theirs / (heads // groups)
    weighed = torch.einsum("hg,hop,oj->gjp", _complex(of_group), crossed * plan[:, :, None], _complex(of_theirs))
    joint = weighed + crossed_keys
    turns = joint / joint.abs().clamp(min=1e-30)
    own = plan[:, :, None] * turns[group][:, their_group]
    return _matrix(own, queries, theirs), _matrix(shared[:, :, None] * turns, keys, their_keys)


def _crossed(one: Planes, other: Planes) -> Tensor:
    """How planes of two models go together: complex (heads, other heads, planes), at most 1 in size."""
    import torch

    return torch.einsum("thp,top->hop", one.values, other.values.conj()) / len(one.values)


def _complex(values: Tensor) -> Tensor:
    import torch

    return torch.complex(values, torch.zeros_like(values))


def _matrix(turned: Tensor, target: Planes, source: Planes) -> Tensor:
    """Complex factors (heads, other heads, planes) of standardised planes, as a matrix of neurons in the target's units."""
    import torch

    inverse = source.scale.reciprocal().masked_fill(source.scale == 0, 0.0)
    factor = turned * target.scale[:, None] * inverse[None, :]
    heads, others, planes = factor.shape
    matrix = torch.zeros(heads, 2, planes, others, 2, planes, dtype=torch.float64, device=factor.device)
    place = torch.arange(planes, device=factor.device)
    for row, column, values in ((0, 0, factor.real), (0, 1, -factor.imag), (1, 0, factor.imag), (1, 1, factor.real)):
        matrix[:, row, place, :, column, place] = values.permute(2, 0, 1)
    return matrix.reshape(heads * 2 * planes, -1).float()


def size_of_heads(target: StreamedModel, source: StreamedModel) -> int:
    """The size of a head. Raises CheckpointError where the planes of both are not the same."""
    found = []
    for model in (target, source):
        config, where = model.config, Where(model.view.donor.location)
        if config.model_type not in HALVES or (getattr(config, "partial_rotary_factor", None) or 1.0) != 1.0:
            what, why = (
                f"heads of {config.model_type} are not matched by planes",
                "it is not known how positions turn them",
            )
            raise CheckpointError(what, where=where, why=why, hint="leave out --heads")
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rope = getattr(config, "rope_parameters", None) or {}
        found.append((int(size), rope.get("rope_theta") or getattr(config, "rope_theta", None)))
    if found[0] != found[1]:
        why = f"heads of {found[0][0]} and {found[1][0]} numbers, with a rope_theta of {found[0][1]} and {found[1][1]}"
        where = Where(source.view.donor.location)
        raise CheckpointError(
            "the planes of both models turn at other speeds", where=where, why=why, hint="leave out --heads"
        )
    return found[0][0]
