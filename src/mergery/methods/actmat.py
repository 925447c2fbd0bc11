"""ACTMat: least interference, with inputs' covariances estimated from the task vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from mergery.method import Auto, Deltas, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.methods._scale import settled
from mergery.methods.wudi import check_cut, closed_form


@method(
    paper="2604.01329",
    unit="matrix",
    check=check_cut,
    roles=LINEAR,
    presets={"paper": Preset({"scale": 1.0})},
    routing=closed_form,
)
def actmat(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    cut: float | None = None,
    precision: Literal["fast", "exact"] = "fast",
    scale: Auto = "auto",
) -> MergedDelta:
    """Average task vectors as RegMean does, with d_i^T d_i for the covariance of a task's inputs.

        d_i = x_i - base;   out = base + scale * (sum_i w_i d_i d_i^T d_i) (sum_i w_i d_i^T d_i)^+

    Gradients of a linear layer are sums of inputs, so that what training has added tells how inputs vary. Larger
    task vectors have more say, unlike in `wudi` with its closed form.

    Settings:
        weight: weight of each task's covariance, not negative.
        cut: eigenvalues of sum_i w_i d_i^T d_i up to this part of the largest count as zero, as dividing by them
            amplifies noise. Without one in * 2^-23, that of the authors' pseudo-inverse, which is in float32; 0 keeps
            all that are not rounding.
        precision: `fast` makes products of matrices with 512 and more inputs in float32, and the
            eigenvectors too, made exact next to the cut, which changes the merged task vector by about a
            hundred-thousandth; `exact` makes all in float64.
        scale: factor of the merged task vector. `auto` is 1 where task vectors are of full rank. What adapters change
            shows little of their inputs: there each matrix is scaled so that it disturbs the tasks least.

    Source: Hameed et al. 2026, Model merging via data-free covariance estimation (arXiv 2604.01329), whose
    estimate is taken as it is, without shrinking it. The cut decides where k out is near in, as in the down projections of
    MLPs: there the task vectors, one below the other, are nearly singular.

    Use it for fine-tunes of one base that were trained for about as long, without data at hand.
    """
    from mergery.kernels.spectral import framed, noise_of
    from mergery.methods._minima import cut_of, minimised

    cores, frame = framed(deltas)
    bound = cut_of(cut, frame.shape[1])
    merged = minimised(cores, weight, bound, equal=False, fast=precision == "fast")
    return frame.restore(settled(merged, scale, cores, weight, frame, noise_of(deltas, noise)))
