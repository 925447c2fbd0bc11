"""ACE-Merging: least interference with centred task vectors, adapted to how unequal the tasks are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from mergery.errors import RecipeError
from mergery.method import Auto, Deltas, Fraction, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import HALF, LARGE, WIDE, decomposition, fewer_rows
from mergery.methods._scale import settled
from mergery.methods.wudi import check_weight

SOUND = 0.2  # of the largest entry of a root's diagonal: below it, covariances in float32 are not exact enough
FIRM = 0.4  # the same: from there on, a root in float32 divides as exactly as covariances in float32 are
TWICE = 0.35  # the same where what rounding has left is solved once more
UNEQUAL = 0.3  # relative variance of the logarithms of the tasks' traces, above which they are unequal


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    words, space = "1 linear system over the inputs", WIDE * ((2 * k + 5) * out * into + (k + 6) * into * into)
    if settings["mode"] == "unequal":
        work = 4.0 * k * out * into * into + 2.7 * into**3 + decomposition(out, into)
    elif k * out < into:
        rows = k * out
        space = int(WIDE * ((2.5 * k + 5) * out * into + 4 * rows * rows))
        single = settings["precision"] == "fast" and min(out, into) >= LARGE
        work = (k - 1 + HALF) * rows * out * into + rows**3 / 3.0
        work += (0.5 if single else 1.0) * (2.0 * out * rows**2 + 2.0 * out * rows * into)
    else:
        single = settings["precision"] == "fast" and into >= LARGE
        work = (k * HALF / (1 + single) + 2.0 * (k - 1) / (1 + single) + 2.0) * out * into * into + into**3 / 3.0
        space = WIDE * (((k + 2) // (1 + single) + 3) * out * into + ((k + 2) // (1 + single) + 3) * into * into)
    return Route(words, work, space)


def check_ridge(settings: Mapping[str, Any]) -> None:
    check_weight(settings)
    if settings["ridge"] <= 0.0:
        raise RecipeError(
            "ridge must be positive", why="without it the inputs that no task has have no solution", hint="ridge: 0.01"
        )


def unequal(l1_norms: Tensor, mode: str) -> Tensor:
    """Whether tasks (k, ...) with these traces get the treatment of unequal ones: bool (...). Zero traces do not count."""
    import torch

    if mode != "auto":
        return torch.full(l1_norms.shape[1:], mode == "unequal", device=l1_norms.device)
    there = l1_norms > 0.0
    count = there.sum(0)
    logs = l1_norms.where(there, 1.0).log()
    mean = logs.sum(0) / count.clamp(min=1)
    spread = ((logs - mean).square() * there).sum(0) / (count - 1).clamp(min=1)
    return (count > 1) & (spread > UNEQUAL * mean.square())


def alike(
    centred: Sequence[Tensor], weight: Any, ridge: Tensor, across: Tensor, width: int, *, fast: bool
) -> Tensor | None:
    """D of equal tasks (..., out, in), solved about their mean. A task of weight zero has no part in it.

    Of tasks in float32 covariances are made in it, and the rest where none of their rounding would be seen; None where it would
    be, beside what a direction has. Where there are fewer rows than inputs, tasks are in float64, and with `fast` they are
    solved in float32, if that would not be seen.
    """
    import torch

    from mergery.kernels.quotients import quotient
    from mergery.methods._own_rows import InRows, own_rows
    from mergery.methods._portions import sturdy

    centred = [core for core, factor in zip(centred, weight, strict=True) if factor > 0.0]
    factors = [float(factor) for factor in weight if factor > 0.0]
    single = centred[0].dtype == torch.float32
    problem = own_rows(centred, factors, "mean", equal=False, single=single)
    rows = problem.rows if isinstance(problem, InRows) else None
    row = (across.mT @ problem.matrix.double() if rows is None else (rows @ across).mT) / width
    load = ridge * sum(factors)
    load = load.where(load > 0.0, 1.0)
    root = rooted(problem.matrix, load[..., 0])
    if single and not sturdy(root, SOUND):
        return None
    residual = problem.residual(None if sturdy(root) else root.dtype).to(root.dtype)
    for place, factor in enumerate(factors) if len(set(factors)) > 1 else ():  # what the ridges pull about the mean
        pull = ridge * (factor - sum(factors) / len(factors))
        if rows is None:
            residual += centred[place] * pull
        else:
            own = residual[..., place * residual.shape[-2] : (place + 1) * residual.shape[-2]]
            own.diagonal(dim1=-2, dim2=-1).add_(pull[..., 0] / factor**0.5)
    row = row.to(root.dtype)
    if fast and rows is not None:
        merged = quotient(residual, root, rows)
        row = problem.of_inputs(torch.cholesky_solve(row.mT, root).mT)
    else:
        aim = torch.cat([residual, row], dim=-2)
        solved = torch.cholesky_solve(aim.mT, root).mT
        if root.dtype == torch.float32 and not sturdy(root, FIRM):  # once more for what rounding has left
            rest = aim - solved @ problem.matrix - solved * load.to(root.dtype)
            solved = solved + torch.cholesky_solve(rest.mT, root).mT
        solved = problem.of_inputs(solved)
        merged, row = solved[..., :-1, :], solved[..., -1:, :]
    merged += problem.start
    ones = across.to(merged.dtype)
    merged -= (merged @ ones) @ (row / (1.0 + row @ ones))
    return merged


def rooted(matrix: Tensor, load: Tensor) -> Tensor:
    """The Cholesky root of a matrix (..., n, n) and a load (..., 1) on its diagonal: of one in float32 in its own dtype, where
    that is firm enough to divide by, or on devices slow in float64 once more, else in float64.
    """
    import torch

    from mergery.kernels.rates import slow_in_float64
    from mergery.methods._portions import sturdy

    def loaded(dtype: torch.dtype) -> Tensor:
        whole = matrix.to(dtype, copy=True)
        whole.diagonal(dim1=-2, dim2=-1).add_(load.to(dtype))
        return whole

    if matrix.dtype == torch.float32:
        root, failed = torch.linalg.cholesky_ex(loaded(matrix.dtype))
        if not bool(failed.any()) and sturdy(root, TWICE if slow_in_float64(matrix) else FIRM):
            return root
    return torch.linalg.cholesky(loaded(torch.float64))


@method(
    paper="2603.02945",
    unit="matrix",
    check=check_ridge,
    roles=LINEAR,
    presets={"paper": Preset({"ridge_of": "one", "scale": 1.0})},
    routing=routing,
)
def ace(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    mode: Literal["auto", "equal", "unequal"] = "auto",
    ridge: float = 0.01,
    ridge_of: Literal["mean", "one"] = "mean",
    leading: Fraction = 0.3,
    precision: Literal["fast", "exact"] = "fast",
    scale: Auto = "auto",
) -> MergedDelta:
    """Average centred task vectors by their own covariances, and level them where tasks are unequal.

        d_i = x_i - base less its mean over the outputs;   S_i = d_i^T d_i, over its trace where tasks are unequal
        D = (sum_i w_i d_i (S_i + e_i I)) (sum_i w_i (S_i + e_i I) + 1 c^T)^-1
        unequal: D + s U_r V_r^T of the leading triplets of D + sum_i w_i (x_i - base) (S_i - mean_j w_j (S_j + e_j I))
        out = base + scale * D

    The weights w_i are taken over their mean. c is the mean row of sum_i w_i S_i (over the mean of |x_i - base|^2, where
    tasks are unequal), s the mean of the leading r singular values, without those that are zero. Tasks are unequal where
    the variance of the logarithms of |x_i - base|^2 exceeds 0.3 times the square of their mean. The mean over outputs of a
    task vector, a direction in the inputs, is not restored: not even one model comes back as it is. Where tasks are
    unequal, one whose outputs all change alike has no S_i and no e_i; so do task vectors of zero.

    Settings:
        weight: weight of each task's covariance, not negative, relative to the others'.
        mode: whether tasks count as unequal: as they are, or always or never.
        ridge: the e_i, positive; divided by the trace where tasks are unequal.
        ridge_of: what the ridge is a share of: the mean eigenvalue of all S_i before they are divided, so that the
            result of equal tasks scales with its inputs, or the number one, as published.
        leading: r as a fraction of min(out, in).
        precision: `fast` makes products of matrices with 512 and more inputs in float32 where that changes the
            merged task vector by less than about a hundred-thousandth; `exact` makes all in float64.
        scale: factor of the merged task vector. `auto` is 1 where task vectors are of full rank. What adapters change
            shows little of their inputs: there each matrix is scaled so that it disturbs the tasks least.

    Source: Xu et al. 2026, ACE-Merging (arXiv 2603.02945), from the description of its code; the preset `paper` takes
    its absolute ridge of 0.01, under which small task vectors are merely averaged and, where they are unequal, drown in
    a level far above their own size. Everything but the matrices of attention and MLPs is averaged.

    Use it for fine-tunes whose task vectors differ much in size: in a plain average the
    largest drowns the others.
    """
    import torch

    from mergery.kernels.rates import whole_float32
    from mergery.kernels.spectral import RANK, flat_level, framed, noise_of, norm, svd, total

    weight = weight / weight.mean()
    cores, frame = framed(deltas, ones=True)
    up, across = frame.ones(cores[0])
    height, width = frame.shape
    k = len(cores)
    l1_norms = torch.stack([norm(core)[..., 0, 0].square() for core in cores])
    flag = unequal(l1_norms, mode)[..., None, None]

    def centre(dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Task vectors less their means over the outputs, their squared lengths, which of them are not zero, and the ridge."""
        centred = []
        for core in cores:
            mean = up.mT @ core.double() / height
            centred.append(core.to(dtype, copy=True).sub_((mean if frame.left is None else up @ mean).to(dtype)))
        raw = torch.stack([norm(core).square() for core in centred])
        there = raw > RANK**2 * l1_norms[..., None, None]
        if not bool(there.all()):
            for i, core in enumerate(centred):
                core *= there[i]
        part = torch.ones_like(raw[0]) if ridge_of == "one" else (raw * there).mean(0) / width
        return centred, raw, there, ridge * part

    if not bool(flag.any()):
        fast = precision == "fast" and width >= LARGE and all(core.dtype == torch.float32 for core in cores)
        single = fast and not fewer_rows(int((weight > 0.0).sum()), height, width)
        for dtype in (torch.float32, torch.float64) if single else (torch.float64,):
            centred, _, _, share = centre(dtype)
            with whole_float32():
                merged = alike(centred, weight, share, across, width, fast=fast)
            if merged is not None:
                return frame.restore(settled(merged, scale, cores, weight, frame, noise_of(deltas, noise)))
    centred, raw, there, share = centre(torch.float64)
    size = torch.where(flag, raw.where(there, 1.0), 1.0)
    own = share / size * (there | ~flag)
    factors = [float(factor) for factor in weight]
    plain = [core.mT @ core / size[i] for i, core in enumerate(centred)]
    loaded = total(list(own), factors)
    loaded = loaded.where(loaded > 0.0, 1.0)
    covariance = total(plain, factors)
    unit = torch.eye(covariance.shape[-1], dtype=torch.float64, device=covariance.device)
    average = l1_norms.mean(0)[..., None, None]
    row = across.mT @ covariance / width / torch.where(flag, average.where(average > 0.0, 1.0), 1.0)
    aim = total(
        [core @ each_ + core * own[i] for i, (core, each_) in enumerate(zip(centred, plain, strict=True))], factors
    )
    whole = covariance + loaded * unit  # the matrix of rank one comes after: of small inputs it is larger by far
    solved = torch.linalg.solve(whole, torch.cat([aim, row], dim=-2).mT).mT
    merged, row = solved[..., :-1, :], solved[..., -1:, :]
    merged = merged - (merged @ across) @ row / (1.0 + row @ across)
    middle = whole / k
    residual = total([core.double() @ (each_ - middle) for core, each_ in zip(cores, plain, strict=True)], factors)
    u, s, vh = svd(merged + residual, int(leading * frame.smaller))
    merged = torch.where(flag, merged + (u * flat_level(s).unsqueeze(-2)) @ vh, merged)
    return frame.restore(settled(merged, scale, cores, weight, frame, noise_of(deltas, noise)))
