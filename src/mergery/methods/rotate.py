"""Rotate: one model's matrices turned towards another's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.method import Fraction, Models, Preset, Tensor, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import EIGEN, WIDE, decomposition
from mergery.methods.orthomerge import rotation

HALF = 1e-12  # 1 + cos of an angle: below it, a turn is a half turn


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    work = 2 * decomposition(into, into) + (EIGEN + 10.0) * into**3 + 8.0 * out * into**2
    words = "1 rotation of the inputs, by 2 decompositions, and its power by 1 eigenbasis"
    return Route(words, work, WIDE * (12 * into * into + 5 * out * into))


def power(turn: Tensor, share: float) -> Tensor:
    """The real part of a power of an orthogonal matrix (..., n, n): each plane turns by a share of its angle.

    R and R^T commute. On an eigenspace of (R + R^T) / 2, of value cos a, R is cos a + (R - R^T) / 2, so that R^t is
    cos ta + (sin ta / sin a) (R - R^T) / 2.
    """
    import torch

    if share == 1.0:
        return turn
    values, vectors = torch.linalg.eigh(0.5 * (turn + turn.mT))
    cosine = values.clamp(-1.0, 1.0)
    angle = cosine.acos()
    sine = angle.sin()
    ratio = torch.where(sine > 0.0, (share * angle).sin() / sine.where(sine > 0.0, 1.0), share)
    ratio = ratio.where(1.0 + cosine > HALF, 0.0)
    plain = (vectors * (share * angle).cos().unsqueeze(-2)) @ vectors.mT
    return plain + (vectors * ratio.unsqueeze(-2)) @ (vectors.mT @ (0.5 * (turn - turn.mT)))


@method(
    paper="schonemann1966",
    unit="matrix",
    models=(2, 2),
    symmetric=False,
    roles=LINEAR,
    presets={"sd-mecha": Preset({"strength": 1.0, "blend": 0.0})},
    routing=routing,
)
def rotate(models: Models, *, strength: Fraction = 0.5, blend: Fraction = 0.5, centre: bool = True) -> Tensor:
    """Turn the inputs of the first model's matrices towards the second's, and blend what turning does not explain.

        A, B the two models less the mean of their rows, a and b;   R the orthogonal matrix with the least |A R - B|
        out = ((1 - blend) A + blend B R^T) R^strength + (1 - strength) a + strength b

    A power of R turns each plane by a share of its angle; directions that A and B do not reach turn as little as
    possible. Where R reflects or turns by half, there is no plane to turn in, and the power's real part is taken:
    such directions pass through zero. With strength and blend both 0 it is the first model, both 1 the second;
    without blend the singular values stay the first model's.

    Settings:
        strength: how far the first model turns, from 0 to 1.
        blend: how much of the second model is mixed in, turned back to the first.
        centre: turn rows about their mean, and interpolate the means; without it, about zero.

    Source: Schoenemann 1966, the orthogonal Procrustes problem; the idea of a merge is that of `rotate` in sd-mecha,
    whose defaults are the preset of that name. Everything else is averaged.

    Use it for two models whose weights are too far apart for an average, such as fine-tunes with large task vectors;
    for close ones it is nearly their mean.
    """
    first, second = (model.double() for model in models)
    before, after = (model.mean(-2, keepdim=True) * float(centre) for model in (first, second))
    own, other = first - before, second - after
    turn = rotation(own, other)
    mixed = own + blend * (other @ turn.mT - own)
    return mixed @ power(turn, strength) + before + strength * (after - before)
