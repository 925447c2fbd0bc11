"""WUDI: the merged task vector that disturbs each task's own the least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mergery.errors import RecipeError
from mergery.method import Auto, Deltas, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route, in_frame
from mergery.methods._routes import LARGE, WIDE, by_interference, by_own_rows
from mergery.methods._scale import number, settled


def check_weight(settings: Mapping[str, Any]) -> None:
    """Refuse negative weights: each task's part of the loss is a square. Refuse a loss without parts."""
    if (settings["weight"] < 0.0).any():
        raise RecipeError(
            "weight must not be negative", why="it weighs a task's part of a sum of squares", hint="weight: 1"
        )
    if not settings["weight"].any():
        hint = "leave tensors as in the base with `parts` and `take`"
        raise RecipeError("weight is zero for all models", why="then any result is as good as another", hint=hint)


def check_cut(settings: Mapping[str, Any]) -> None:
    check_weight(settings)
    if settings["cut"] is not None and not 0.0 <= settings["cut"] < 1.0:
        raise RecipeError(
            "cut must be at least 0 and below 1", why="it is a part of the largest eigenvalue", hint="leave it out"
        )


def check_steps(settings: Mapping[str, Any]) -> None:
    check_cut(settings)
    if settings["steps"] < 0 or settings["rate"] < 0.0:
        raise RecipeError(
            "steps and rate must not be negative",
            why="they say how far the descent goes",
            hint="steps: 300, rate: 1.0e-5",
        )


def closed_form(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    """The route of a minimum of interference."""
    words = "1 eigenbasis of all task vectors' rows by the smaller Gram matrix, or 1 linear system over the inputs"
    single = settings["precision"] == "fast" and into >= LARGE
    return by_own_rows(k, out, into, single=single, what=words, again=single)


def descent(k: int, out: int, into: int, settings: Mapping[str, Any], *, inner: int) -> Route:
    """The route of Adam, or of the closed form, where the tasks' inputs span `inner` dimensions."""
    closed = by_interference(k, out, into, what="1 eigenbasis of all task vectors' rows by the smaller Gram matrix")
    if settings["solver"] == "closed":
        return closed_form(k, out, into, settings)
    return descended(closed, out, into, inner, settings)


def descended(closed: Route, out: int, into: int, inner: int, settings: Mapping[str, Any]) -> Route:
    """The same with Adam's steps after it, where the settings ask for them."""
    if settings["solver"] == "closed":
        return closed
    step = 2.0 * out * into * min(into, 2 * inner) / 2.0 + 16.0 * out * into  # in float32, at twice the rate
    words = f"{settings['steps']} steps of Adam after {closed.words}"
    return Route(words, closed.operations + settings["steps"] * step, closed.workspace + adam_space(out, into))


def adam_space(out: int, into: int) -> int:
    """Bytes of the descent itself, in float32: what it moves, its gradient and moments, and the curvature."""
    return WIDE * (4 * out * into + into * into) // 2


def factored(k: int, out: int, into: int, rank: int, settings: Mapping[str, Any]) -> Route:
    cores = routing(k, rank, rank, {**settings, "solver": "closed"})
    return descended(in_frame(k, out, into, rank, cores, dense=settings["solver"] == "adam"), out, into, rank, settings)


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return descent(k, out, into, settings, inner=min(k * out, into))


@method(
    paper="2503.08099",
    unit="matrix",
    check=check_steps,
    roles=LINEAR,
    presets={"paper": Preset({"start": "sum", "solver": "adam", "scale": 1.0}, rest="base")},
    routing=routing,
    factored=factored,
)
def wudi(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    solver: Literal["adam", "closed"] = "adam",
    start: Literal["mean", "sum"] = "mean",
    steps: int = 300,
    rate: float = 1e-5,
    cut: float | None = None,
    precision: Literal["fast", "exact"] = "fast",
    scale: Auto = "auto",
) -> MergedDelta:
    """Find one task vector that acts on each task's inputs as that task's own vector does, as nearly as possible.

        d_i = x_i - base;   L(D) = sum_i w_i |(D - d_i) d_i^T|^2 / |d_i|^2
        out = base + scale * D,  D after `steps` steps of Adam on L, or where L is least

    The rows of d_i span, nearly, the inputs that training has seen, and stand for them. `adam` is the published
    solver and stops early: each entry moves by at most steps * rate. So the result depends on how large task
    vectors are, and where they are smaller than that, as those of language models are, they are trained far
    beyond what was published. `closed` is the minimum, sum_i (w_i d_i S_i) (sum_i w_i S_i)^+ with
    S_i = d_i^T d_i / |d_i|^2, which depends on neither, and which the authors of SWUDI find worse than stopping
    early.

    Settings:
        weight: weight of each task in L, not negative.
        solver: Adam from `start`, or the minimum itself.
        start: where Adam begins: the mean of the task vectors, which is Mergery's choice for models that share
            directions, or their sum, as published.
        steps: how many steps Adam takes; 300 in the paper.
        rate: its learning rate; 1e-5 in the paper, 2e-5 in its code for RoBERTa.
        cut: of the closed form: eigenvalues of sum_i w_i S_i up to this part of the largest count as zero, as dividing by
            them amplifies noise. Without one in * 2^-23, that of a pseudo-inverse in float32, in which the family's
            code works; 0 keeps all that are not rounding.
        precision: with the closed form, `fast` makes products of matrices with 512 and more inputs in float32, and
            the eigenvectors too, made exact next to the cut, which changes the merged task vector by
            about a hundred-thousandth; `exact` makes all in float64.
        scale: factor of the merged task vector. `auto` is 1 with `adam`, and where task vectors are of full rank. What
            adapters change shows little of their inputs: there each matrix is scaled so that it disturbs the tasks
            least. It is 1 in the paper, 0.1 to 0.3 for multimodal models in later work.

    Source: Cheng et al. 2025, Whoever started the interference should end it (arXiv 2503.08099). The preset `paper`
    begins at the sum and leaves everything but the matrices of attention and MLPs as in the base.

    Use it for fine-tunes of one base with large task vectors, such as those of vision models; `swudi` does the same
    at a fraction of the time.
    """
    from mergery.kernels.spectral import framed, noise_of
    from mergery.methods._adam import descend
    from mergery.methods._interference import beginning, interference, rows_as_inputs
    from mergery.methods._minima import cut_of, minimised

    cores, frame = framed(deltas)
    if solver == "closed":
        bound = cut_of(cut, frame.shape[1])
        merged = minimised(cores, weight, bound, equal=True, fast=precision == "fast")
        return frame.restore(settled(merged, scale, cores, weight, frame, noise_of(deltas, noise)))
    problem = interference(cores, rows_as_inputs(cores, weight))
    return descend(problem.lifted(frame), frame.full(beginning(cores, start)), steps, rate) * number(scale)
