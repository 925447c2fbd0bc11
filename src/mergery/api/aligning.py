"""Merge models that do not match."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.report.notebook import listening
from mergery.run.events import Notify
from mergery.run.workers import Options

if TYPE_CHECKING:
    from mergery.alignment.transport.options import TransportOptions
    from mergery.run.merging import Result


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
    replace, restart: as of `merge`.

    One block of one model is in memory at a time, and activations stand in files. A run that was killed goes on where it was.
    Raises MergeryError.
    """
    from mergery.alignment.transport.options import TransportOptions
    from mergery.alignment.transport.running import transport

    with listening(on_event) as notify:
        return transport(
            source, into, data, out, alpha=alpha, options=options or TransportOptions(), since=since, weights=weights, run=run,
            replace=replace, restart=restart, on_event=notify,
        )  # fmt: skip
