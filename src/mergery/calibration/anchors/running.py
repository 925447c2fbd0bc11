"""Anchors of all blocks and models of a recipe, kept as a checkpoint; and the recipe's merge, refined on them."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mergery.calibration.anchors.blocks import Block, blocks_of, takes_whole
from mergery.calibration.anchors.folder import (
    FORMAT,
    Anchors,
    begin,
    finish,
    is_empty,
    is_there,
    losses_of,
    open_anchors,
    resumed,
    write,
)
from mergery.calibration.anchors.refining import REFINING, RefineOptions, refine
from mergery.calibration.anchors.search import PRESETS, AnchorOptions, find_anchors
from mergery.calibration.demand import plan_measured
from mergery.calibration.model import StreamedModel
from mergery.calibration.opening import merged_statistics, stored_view
from mergery.calibration.replacing import with_replaced
from mergery.checkpoints.statistics import model_mark
from mergery.errors import CheckpointError, PlanError, RecipeError
from mergery.evaluation.loading import quiet
from mergery.evaluation.running import torch_threads
from mergery.kernels.devices import find_devices
from mergery.planning.plan import Plan
from mergery.recipe.reading import load_recipe
from mergery.report.files import side_files
from mergery.run.events import Finished, Notify, Refined, ignore
from mergery.run.merging import Result, merge_to_folder
from mergery.run.output import check_writable, place_of
from mergery.run.workers import Options


@dataclass(frozen=True)
class Models:
    """The base of a recipe's merge, and the models that it merges, as they can be run."""

    plan: Plan
    base: StreamedModel
    models: Mapping[str, StreamedModel]

    @property
    def marks(self) -> dict[str, Any]:
        """What tells base and models from others."""
        names = [str(self.plan.recipe.merge.base), *self.models]
        return {name: model_mark(self.plan.checkpoints[name]) for name in names}

    def blocks(self, whole: bool, tokens: int) -> list[Block]:
        """Their blocks. Raises CheckpointError where these cannot be run by themselves, or differ in shape."""
        with quiet():
            blocks = blocks_of(self.base, whole, tokens)
        inside = {name for block in blocks for name in block.names.values()}
        for name, model in self.models.items():
            for each in inside & self.base.nodes.keys():
                if each not in model.nodes or model.nodes[each].shape != self.base.nodes[each].shape:
                    what = f"{name!r} has no {each!r} of the base's shape"
                    raise CheckpointError(what, hint="anchors are of models of one architecture")
        return blocks


@contextlib.contextmanager
def open_models(recipe: Any) -> Iterator[Models]:
    """The base and the models of a recipe's merge. Raises MergeryError."""
    plan = plan_measured(load_recipe(recipe), 0, ignore)
    try:
        merge = plan.recipe.merge
        if not merge.base:
            raise RecipeError("anchors need a base", where=merge.place, hint="merge: {base: <a model's name>}")
        made = [name for name in (merge.base, *merge.models) if name not in plan.checkpoints]
        if made:
            hint = "write it to a folder first"
            raise RecipeError(f"{made[0]!r} is made by a merge of the recipe", where=merge.place, hint=hint)
        for checkpoint in plan.checkpoints.values():
            checkpoint.prepare()
        with quiet():
            base = StreamedModel(stored_view(plan.checkpoints[merge.base]))
            models = {name: StreamedModel(stored_view(plan.checkpoints[name])) for name in merge.models}
        yield Models(plan, base, models)
    finally:
        plan.close()


def _chosen(options: Any, presets: Mapping[tuple[str, bool], Any], whole: bool) -> Any:
    """The options that are meant: themselves, made for whole blocks or MLPs, or the cheap ones."""
    return options(whole) if callable(options) else options or presets["cheap", whole]


def _place(device: str) -> Any:
    """Where torch computes: one device. Raises PlanError where there is none of that name."""
    return find_devices(device)[0].place


# --- finding ------------------------------------------------------------------------------------------------------------


def find_all(
    recipe: Any,
    out: str | Path,
    options: AnchorOptions | Callable[[bool], AnchorOptions] | None = None,
    *,
    whole: bool | None = None,
    threads: int = 0,
    device: str = "cpu",
    on_event: Notify = ignore,
) -> Path:
    """Find the anchors of each block for each model of a recipe's merge, and keep them in the folder `out`.

    A run that was interrupted goes on with the blocks and models that it lacks. `options` are given, or told of whether blocks
    are whole; the cheap ones where None. Raises MergeryError.
    """
    place, on, began = place_of(out), _place(device), time.monotonic()
    there = place.exists() and any(place.iterdir())
    check_writable(place)
    with open_models(recipe) as opened, torch_threads(threads):
        is_whole = takes_whole(opened.base, whole)
        chosen = _chosen(options, PRESETS, is_whole)
        blocks = opened.blocks(is_whole, chosen.tokens)
        card = {
            "format": FORMAT,
            "options": chosen.plain(),
            "whole": is_whole,
            "models": opened.marks,
            "blocks": [block.name for block in blocks],
        }
        if there and is_there(place, card):
            on_event(Finished(place, 0.0, already=True))
            return place
        if there:
            what = f"the output folder {str(place)!r} is not empty"
            why = "it holds no anchors of these models and options"
            raise PlanError(what, why=why, hint="choose another folder")
        partial = begin(place, card)
        losses: dict[str, list[float]] = {}
        done, total = 0, len(blocks) * len(opened.models)
        for block in (each.on(on) for each in blocks):
            base = None
            for name, model in opened.models.items():
                done += 1
                path = partial / f"{block.name}.{name}.safetensors"
                if not path.exists():
                    base = block.weights(opened.base, on) if base is None else base
                    rows, first, last = find_anchors(block, base, block.weights(model, on), chosen, name)
                    write(path, {f"{block.name}.{name}.anchors": rows.cpu().numpy()}, [first, last])
                losses[f"{block.name}.{name}"] = losses_of(path)
                on_event(Refined(block.name, name, losses[f"{block.name}.{name}"], done, total))
        finish(partial, place, {**card, "losses": losses})
        on_event(Finished(place, time.monotonic() - began))
    return place


# --- refining -----------------------------------------------------------------------------------------------------------


def refine_all(
    recipe: Any,
    anchors: str | Path,
    out: str | Path,
    options: RefineOptions | Callable[[bool], RefineOptions] | None = None,
    *,
    threads: int = 0,
    device: str = "cpu",
    on_event: Notify = ignore,
) -> Result:
    """Write a recipe's merge with its blocks refined on anchors, block by block. Raises MergeryError.

    The recipe may be any that merges the models of the anchors over their base. What is in no block, and where anchors are of
    MLPs all else, is the merge's own. A run that was interrupted goes on with the blocks that it lacks.
    """
    on = _place(device)
    place = place_of(out)
    if place.exists() and any(place.iterdir()):
        raise PlanError(f"the output folder {str(place)!r} is not empty", hint="choose another folder")
    check_writable(place)
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(open_anchors(anchors))
        opened = stack.enter_context(open_models(recipe))
        kept.check(opened.marks)
        blocks = opened.blocks(kept.whole, kept.tokens)
        chosen = _chosen(options, REFINING, kept.whole)
        said = json.dumps([opened.plan.digest, asdict(chosen), kept.card], sort_keys=True)
        work = resumed(place.with_name(place.name + ".refined"), "refined.json", said)
        with quiet(), torch_threads(threads):
            host = StreamedModel(opened.plan.view)
            host.shared = merged_statistics(opened.plan)
            for number, block in enumerate(blocks, 1):
                path = work / f"{number:05d}.safetensors"
                if not path.exists():
                    arrays, losses = _refined(host, block.on(on), opened, kept, chosen, on)
                    write(path, arrays, losses)
                on_event(Refined(block.name, "", losses_of(path), number, len(blocks)))
        files = [path for path in sorted(work.glob("*.safetensors")) if not is_empty(path)]  # else the merge's own
        told = [asdict(chosen), kept.card["options"], kept.card["models"]]
        note = f"refined on functional dual anchors: {{count}} tensors of {len(kept.card['blocks'])} blocks"
        planned = with_replaced(stack, opened.plan, files, told, note)
        result = merge_to_folder(planned, place, side_files, Options(threads=threads), on_event)
    shutil.rmtree(work, ignore_errors=True)
    return result


def _refined(
    host: StreamedModel, block: Block, opened: Models, kept: Anchors, options: RefineOptions, device: Any
) -> tuple[dict[str, np.ndarray], list[float]]:
    """A block's weights that are not the merge's any more, as the output has them; the distance before and after."""
    import torch

    models = {name: block.weights(model, device) for name, model in opened.models.items()}
    rows = {name: kept.of(block.name, name).to(device) for name in models}
    merged = block.weights(host, device)
    found, before, after = refine(block, block.weights(opened.base, device), merged, models, rows, options)
    changed = {own for own, value in found.items() if not torch.equal(value, merged[own])}
    return _stored_arrays(host, block, {own: value.cpu() for own, value in found.items()}, changed), [before, after]


def _stored_arrays(
    host: StreamedModel, block: Block, found: Mapping[str, Any], changed: set[str]
) -> dict[str, np.ndarray]:
    """New weights of a block under the names, and in the shapes, in which the output has them: all of a tensor that changed."""
    arrays: dict[str, np.ndarray] = {}
    for own in changed:
        for tensor, *_ in host.stored(block.names[own]):
            arrays[tensor] = np.zeros(host.view.nodes[tensor].elements, np.float32)
    for own, value in found.items():
        flat = value.reshape(-1).numpy()
        for tensor, start, at, length in host.stored(block.names[own]):
            if tensor in arrays:
                arrays[tensor][start : start + length] = flat[at : at + length]
    return {name: values.reshape(host.view.nodes[name].shape) for name, values in arrays.items()}
