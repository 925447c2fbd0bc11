"""Functional dual anchors: find them, look at them, and refine merges on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.api.merging import RecipeLike
from mergery.report.notebook import listening
from mergery.run.events import Notify

if TYPE_CHECKING:
    from mergery.calibration.anchors.refining import RefineOptions
    from mergery.calibration.anchors.search import AnchorOptions
    from mergery.run.merging import Result


def find_anchors(
    recipe: RecipeLike,
    out: str | Path,
    *,
    options: AnchorOptions | Callable[[bool], AnchorOptions] | None = None,
    whole: bool | None = None,
    threads: int = 0,
    device: str = "cpu",
    on_event: Notify | None = None,
) -> Path:
    """Find functional dual anchors of the models of a recipe's merge, and keep them in the folder `out` (arXiv 2510.21223).

    options: how they are found, or a function that tells it for whole blocks (True) or MLPs (False); None takes a cheap search.
    whole:   whether anchors are of whole blocks; None takes whole ones of encoders and the MLPs of decoders.

    An interrupted search goes on where it stopped. Raises MergeryError.
    """
    from mergery.calibration.anchors.running import find_all

    with listening(on_event) as notify:
        return find_all(recipe, out, options, whole=whole, threads=threads, device=device, on_event=notify)


def refine(
    recipe: RecipeLike,
    anchors: str | Path,
    out: str | Path,
    *,
    options: RefineOptions | Callable[[bool], RefineOptions] | None = None,
    threads: int = 0,
    device: str = "cpu",
    on_event: Notify | None = None,
) -> Result:
    """Write the merge of a recipe with its blocks refined on anchors of its models, which `find_anchors` has found.

    options: how blocks are refined, or a function that tells it for whole blocks (True) or MLPs (False); None takes 15 passes.

    An interrupted run goes on where it stopped. Raises MergeryError.
    """
    from mergery.calibration.anchors.running import refine_all

    with listening(on_event) as notify:
        return refine_all(recipe, anchors, out, options, threads=threads, device=device, on_event=notify)


def inspect_anchors(
    recipe: RecipeLike,
    anchors: str | Path,
    *,
    statistics: Mapping[str, str | Path] | None = None,
    plot: str | Path | None = None,
) -> dict[str, Any]:
    """What anchors are like, ready for JSON: spectra, and what they share with task vectors and with data.

    statistics: folders with Gram matrices of models on data, by the model's name, from `calibrate`.
    plot:       a file for a picture of the spectra: .png, .svg or .pdf.

    Of each block and model: `losses`, 1 - cos at first and at last; `spectrum` and `spectrum_at_first`, singular values over
    the largest; `directions` that hold nine tenths of the energy; `kept`, the share of the task vectors' energy along the
    leading fifth of the directions of the matrices' inputs on anchors; `alike`, the share of that fifth that data have too, or
    None without statistics. Raises MergeryError.
    """
    from mergery.calibration.anchors.looking import look

    return look(recipe, anchors, statistics or {}, Path(plot) if plot is not None else None)
