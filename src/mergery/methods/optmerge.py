"""OptMerge: WUDI with denoised targets and inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mergery.method import Auto, Deltas, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route, in_frame
from mergery.methods._routes import WIDE, by_interference, decomposing, decomposition
from mergery.methods._scale import number, settled
from mergery.methods.tsv_merge import share
from mergery.methods.wudi import adam_space, check_steps, descended, descent


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    if settings["solver"] == "closed":
        main = by_interference(k, out, into, what="1 eigenbasis of all task vectors' leading rows")
    else:
        main = descent(k, out, into, settings, inner=min(out, into))
    work = main.operations + 2 * k * decomposition(out, into)
    space = decomposing(out, into) + WIDE * (k + 3) * out * into
    space += adam_space(out, into) if settings["solver"] == "adam" else 0
    return Route(f"{2 * k} thin SVDs, then {main.words}", work, space)


def factored(k: int, out: int, into: int, rank: int, settings: Mapping[str, Any]) -> Route:
    cores = routing(k, rank, rank, {**settings, "solver": "closed"})
    return descended(in_frame(k, out, into, rank, cores, dense=settings["solver"] == "adam"), out, into, rank, settings)


def truncated(matrix: Tensor, count: int) -> Tensor:
    """The matrix's leading singular triplets, float64."""
    from mergery.kernels.spectral import svd

    u, s, vh = svd(matrix, count)
    return (u * s.unsqueeze(-2)) @ vh


@method(
    paper="2505.19892",
    unit="matrix",
    check=check_steps,
    roles=LINEAR,
    presets={"paper": Preset({"start": "sum", "scale": 1.0})},
    routing=routing,
    factored=factored,
)
def optmerge(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    solver: Literal["adam", "closed"] = "adam",
    start: Literal["mean", "sum"] = "mean",
    steps: int = 300,
    rate: float = 1e-5,
    cut: float | None = None,
    scale: Auto = "auto",
) -> MergedDelta:
    """Do as WUDI does, on task vectors without their small, noisy part.

        d_i = x_i - base;   t_i = m + the leading r singular triplets of d_i - m,   m the mean of all d_i
        L(D) = sum_i w_i |(D - t_i) V_i S_i|^2 / |d_i|^2  with the leading r triplets U_i S_i V_i^T of d_i
        out = base + scale * D,  D after `steps` steps of Adam on L, or where L is least;  r = min(out, in) / k

    It is `wudi` with less noise: what is small in a task vector neither counts as a target nor as an input.

    Settings:
        weight: weight of each task in L, not negative.
        solver: Adam from `start`, or the minimum itself.
        start: where Adam begins: the mean of the task vectors, or their sum, as published for full fine-tunes.
        steps: how many steps Adam takes; 300 in the paper's code.
        rate: its learning rate; 1e-5 in the paper's code.
        cut: of the closed form: eigenvalues of the inputs' summed covariance up to this part of the largest count as
            zero, as dividing by them amplifies noise. Without one in * 2^-23, that of a pseudo-inverse in float32; 0
            keeps all that are not rounding.
        scale: factor of the merged task vector. `auto` is 1 with `adam`, and where task vectors are of full rank. What
            adapters change shows little of their inputs: there each matrix is scaled so that it disturbs the tasks
            least. It is 0.1 to 1 in the paper.

    Source: Wei et al. 2025 (arXiv 2505.19892), in the form of its code for full fine-tunes, which begins at the sum as
    the preset `paper` does; that for adapters begins at the mean and uses plain gradient descent with momentum.
    Everything but the matrices of attention and MLPs is averaged.

    Use it for fine-tunes with noisy or nearly low-rank task vectors, where `wudi` trains on the noise.
    """
    from mergery.kernels.spectral import at_most, framed, noise_of, norm, svd
    from mergery.methods._adam import descend
    from mergery.methods._interference import beginning, interference
    from mergery.methods._minima import cut_of

    cores, frame = framed(deltas)
    kept = share(frame.smaller, len(cores))
    centre = beginning(cores, "mean")
    targets = [centre + truncated(core.double() - centre, kept) for core in cores]
    probes = []
    for delta, core, factor in zip(deltas, cores, weight, strict=True):
        _, s, vh = svd(core, at_most(kept, delta))
        size = norm(core)
        probes.append(s.unsqueeze(-1) * vh * (float(factor) ** 0.5 / size.where(size > 0.0, 1.0)))
    problem = interference(targets, probes)
    if solver == "closed":
        merged = problem.solution(cut_of(cut, frame.shape[1])) @ problem.basis
        return frame.restore(settled(merged, scale, cores, weight, frame, noise_of(deltas, noise)))
    return descend(problem.lifted(frame), frame.full(beginning(cores, start)), steps, rate) * number(scale)
