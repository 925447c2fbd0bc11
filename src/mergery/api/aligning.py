"""Merge models that do not match."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.report.notebook import listening
from mergery.run.events import Notify
from mergery.run.workers import Options

if TYPE_CHECKING:
    from mergery.alignment.transport.adapting import AdaptOptions
    from mergery.alignment.transport.options import TransportOptions
    from mergery.run.merging import Result


def align(
    model: Any,
    to: Any,
    out: str | Path,
    *,
    method: str = "weights",
    spaces: Sequence[str] = (),
    data: str | Path | None = None,
    samples: int | None = None,
    length: int | None = None,
    steps: int | None = None,
    rate: float | None = None,
    epsilon: float | None = None,
    join: str | None = None,
    dtype: str | None = None,
    check: bool = False,
    options: Options = Options(),
    on_event: Notify | None = None,
    replace: bool = False,
    restart: bool = False,
) -> Result:
    """Write a model in the coordinates of another, in which it computes what it did and its weights are close to the other's.

    model:   what is aligned: a folder, a hub id, or a state dict.
    to:      the model whose coordinates it gets, of the same architecture.
    method:  `weights` without data, or `activations` on `data`: texts, of which the first so many `samples` are taken, of
             `length` tokens at most. `learned` and `straight-through` begin with weights and go on for so many `steps` at a
             `rate`, by the loss of the model in the middle on the data; each fourth text says which step is taken. `transport`
             finds soft maps, by weights, or by activations where there are data (OTFusion, arXiv 1910.05653): the model may
             have other widths, and computes something else then.
    spaces:  of residual, mlp, heads, qk, vo and experts, those that are aligned; all where nothing is said. `rotation` is a
             rotation of the residual stream in place of an order of its channels.
    epsilon: of transport, how soft maps are; 0 is exact. join: how the residual stream is mapped, `mean` or `only_resid`.
    dtype:   of the output; the model's own where nothing is said.
    check:   run both models, before and after, on a few tokens, and refuse an output that answers otherwise.
    options, on_event, replace, restart: as in `merge`.

    The transform is kept in the output's folder `transform`, and for later runs in the cache. Raises MergeryError.
    """
    from mergery.alignment.running import align, align_recipe

    texts: dict[str, Any] = {"data": data, "samples": samples, "length": length}
    found: dict[str, Any] = {"steps": steps, "rate": rate, "epsilon": epsilon, "join": join}
    recipe = align_recipe(model, to, method=method, spaces=spaces, **texts, **found, dtype=dtype, check=check)
    with listening(on_event) as notify:
        made = align(recipe, Path(out), options, notify, replace=replace, restart=restart)
        if check:
            from mergery.alignment.checking import check_answers

            check_answers(recipe, made.folder)
        return made


def transport(
    source: Any,
    into: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    alpha: float = 0.05,
    options: TransportOptions | None = None,
    since: Any = None,
    weights: str | Path | None = None,
    adapt: str | Path | None = None,
    adapting: AdaptOptions | None = None,
    run: Options = Options(),
    replace: bool = False,
    restart: bool = False,
    on_event: Notify | None = None,
) -> Result:
    """Move what a model has learnt into one of another width, depth or vocabulary (arXiv 2602.05495), and write that.

    source:  a model folder, a hub id, or a recipe, which is run as it is merged and never written.
    into:    the target: a stored model, whose config, tokenizer and other weights the output has.
    data:    texts on which neurons are compared: a task file (.jsonl), plain text, `datasets:NAME`, or `synthetic`.
    alpha:   how far the target's weights go towards the transported ones.
    options: what is transported, and how neurons and layers are matched.
    since:   the model that the source was trained from: only what it has learnt since is moved, and added.
    weights: the folder of the transported weights, beside `out` where None. What is there of the same transport is used, so
             that another alpha takes no other transport; its `recipe.yaml` says the merge.
    adapt:   texts on which the target's own weights are fine-tuned beside the transported ones, which stay (`adapting`: how).
    replace, restart: as of `merge`.

    One block of one model is in memory at a time, and activations stand in files. A run that was killed goes on where it was.
    Raises MergeryError.
    """
    from mergery.alignment.transport.adapting import AdaptOptions
    from mergery.alignment.transport.options import TransportOptions
    from mergery.alignment.transport.running import transport

    with listening(on_event) as notify:
        return transport(
            source, into, data, out, alpha=alpha, options=options or TransportOptions(), since=since, weights=weights,
            adapt=adapt, adapting=adapting or AdaptOptions(), run=run, replace=replace, restart=restart, on_event=notify,
        )  # fmt: skip
