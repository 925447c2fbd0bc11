"""DOP: models merged one after the other, each time where neither side's own directions feel it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mergery.errors import RecipeError
from mergery.method import Auto, Deltas, Fraction, MergedDelta, Noise, Preset, Tensor, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route, of_cores
from mergery.methods._routes import WIDE, decomposing, decomposition
from mergery.methods._scale import number, settled

BALANCE = 0.999  # how much of the share of the merge so far stays at a step


def check_steps(settings: Mapping[str, Any]) -> None:
    if settings["steps"] < 0 or settings["rate"] < 0.0:
        raise RecipeError(
            "steps and rate must not be negative",
            why="they say how far the descent goes",
            hint="steps: 200, rate: 1.0e-4",
        )


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    times = max(1, k - 1)
    if settings["solver"] == "closed":
        work = times * (decomposition(out, 2 * into) + decomposition(2 * out, into) + 6.0 * out * into * (out + into))
        words = "2 thin SVDs of two matrices side by side for each model after the first, by the smaller Gram matrix"
        return Route(words, work, 2 * decomposing(2 * out, into) + decomposing(out, 2 * into))
    step = 8.0 * out * into * (out + into)
    words = f"{settings['steps']} steps of Adam in float64 for each model after the first"
    return Route(words, times * settings["steps"] * step, WIDE * (2 * (out * out + into * into) + 12 * out * into))


def factored(k: int, out: int, into: int, rank: int, settings: Mapping[str, Any]) -> Route | None:
    return of_cores(routing)(k, out, into, rank, settings) if settings["solver"] == "closed" else None


def leading(matrix: Tensor, energy: float) -> Tensor:
    """A matrix without its smallest singular values: the fewest stay whose sum reaches `energy` of all."""
    from mergery.kernels.spectral import svd

    if energy == 1.0:
        return matrix
    u, s, vh = svd(matrix)
    before = s.cumsum(-1) - s
    kept = before < energy * s.sum(-1, keepdim=True)
    return (u * (s * kept).unsqueeze(-2)) @ vh


def balanced(sides: list[Tensor], shares: tuple[float, float]) -> Tensor:
    """The minimum of shares_1 L_1 + shares_2 L_2, zero where neither side has a direction; float64.

    With X^T X and X X^T of both sides, summed, as Q and P, it solves P D + D Q = 2 sum_i shares_i X_i X_i^T X_i: in the
    eigenbases of P and Q, an entry by an entry.
    """
    import torch

    from mergery.kernels.spectral import svd

    known = [side * share**0.5 for side, share in zip(sides, shares, strict=True)]
    left, above, _ = svd(torch.cat(known, dim=-1))
    _, below, right = svd(torch.cat(known, dim=-2))
    bottom = above.square().unsqueeze(-1) + below.square().unsqueeze(-2)
    inner = sum(
        2.0 * share * ((left.mT @ side) @ side.mT) @ (side @ right.mT)
        for side, share in zip(sides, shares, strict=True)
    )
    return left @ (inner / bottom.where(bottom > 0.0, 1.0)) @ right


def published(sides: list[Tensor], start: Tensor, share: float, steps: int, rate: float) -> Tensor:
    """Adam from `start` on both losses, whose shares move towards those of the smallest joint gradient."""
    import torch

    from mergery.methods._adam import ROUNDING, walk

    grams = [(side @ side.mT, side.mT @ side) for side in sides]
    least = [
        ROUNDING * (2.0 * rows @ side).abs().amax((-2, -1), keepdim=True)
        for side, (rows, _) in zip(sides, grams, strict=True)
    ]
    parts = [torch.full_like(start[..., :1, :1], share)]

    def slope(point: Tensor) -> Tensor:
        slopes, unit = [], []
        for side, (rows, columns), small in zip(sides, grams, least, strict=True):
            away = point - side
            own = 2.0 * (rows @ away + away @ columns)
            own = own.where(own.abs() > small, 0.0)
            loss = 0.5 * (own * away).sum((-2, -1), keepdim=True)
            slopes.append(own)
            unit.append(own / loss.where(loss > 0.0, 1.0))
        apart = unit[1] - unit[0]
        size = apart.square().sum((-2, -1), keepdim=True)
        best = (apart * unit[1]).sum((-2, -1), keepdim=True) / size.where(size > 0.0, 1.0)
        best = best.clamp(0.001, 0.999).where(size > 0.0, parts[0])
        parts[0] = BALANCE * parts[0] + (1.0 - BALANCE) * best
        return parts[0] * slopes[0] + (1.0 - parts[0]) * slopes[1]

    return walk(start, slope, steps, rate)


@method(
    paper="yang2025",
    unit="matrix",
    symmetric=False,
    check=check_steps,
    roles=LINEAR,
    presets={"paper": Preset({"solver": "adam", "stability": 0.8, "energy": 0.99999, "scale": 1.0})},
    routing=routing,
    factored=factored,
)
def dop(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    solver: Literal["closed", "adam"] = "closed",
    stability: Fraction | None = None,
    energy: Fraction = 1.0,
    steps: int = 200,
    rate: float = 1e-4,
    scale: Auto = "auto",
) -> MergedDelta:
    """Merge models one after the other, changing the merge so far and each new model as little as possible.

        d_i = x_i - base;   L_X(D) = |S U^T (D - X)|^2 + |(D - X) V S|^2,   U S V^T = X
        M_1 = d_1;   M_i = where a L_M(i-1) + (1 - a) L_d(i) is least;   out = base + scale * M_k

    The singular vectors of X stand for the outputs and inputs that training has moved, weighed by how much.
    `closed` is the minimum itself. `adam` is what is published: steps from the mean of both, where a starts at
    `stability` and moves a thousandth of the way at each step to the a at which the two gradients, each over its
    loss, have the shortest sum (so that both losses fall). It moves each entry by at most steps * rate, whatever the
    size of the task vectors.

    Settings:
        solver: the minimum, or Adam towards it.
        stability: the share a of the merge so far. Without one (i - 1) / i, which is Mergery's choice: each model counts
            alike. The authors' code starts at 0.8.
        energy: share of the sum of singular values of X that its directions hold, at least; 0.99999 in the authors'
            code, which leaves out the direction that reaches it.
        steps: how many steps Adam takes for each model.
        rate: its learning rate.
        scale: factor of the merged task vector. `auto` is 1 where task vectors are of full rank. What adapters change
            shows little of their inputs: there each matrix is scaled so that it disturbs the tasks least.

    Source: Yang et al. 2025, Continual model merging without data: dual projections for balancing stability and
    plasticity (NeurIPS 2025, OpenReview zD5cUX67b9), from the abstract and descriptions of the authors' code; the
    closed form is Mergery's. Everything else is averaged, all models alike.

    Use it where models arrive one by one and all shall count alike; `opcm` gives earlier ones precedence and is
    cheaper.
    """
    from mergery.kernels.spectral import dense, framed, noise_of

    cores, frame = framed(deltas) if solver == "closed" else (dense(deltas), None)
    merged = cores[0].double()
    for place, core in enumerate(cores[1:], start=1):
        new = core.double()
        share = place / (place + 1.0) if stability is None else stability
        sides = [leading(merged, energy), leading(new, energy)]
        if solver == "closed":
            merged = balanced(sides, (share, 1.0 - share))
        else:
            merged = published(sides, 0.5 * (merged + new), share, steps, rate)
    if frame is None:
        return merged * number(scale)
    return frame.restore(settled(merged, scale, cores, [1.0] * len(cores), frame, noise_of(deltas, noise)))
