"""Anchors of all blocks and models of a recipe, kept as a checkpoint; and the recipe's merge, refined on them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mergery.calibration.anchors import PRESETS, AnchorOptions, find_anchors
from mergery.calibration.blocks import Block, blocks_of
from mergery.calibration.model import StreamedModel
from mergery.calibration.opening import merged_statistics, stored_view
from mergery.calibration.refining import REFINING, RefineOptions, refine
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.json_files import parse_object
from mergery.checkpoints.statistics import model_mark
from mergery.errors import CheckpointError, PlanError, RecipeError, Where
from mergery.evaluation.loading import quiet
from mergery.evaluation.running import torch_threads
from mergery.graph.nodes import Stored
from mergery.planning.plan import Plan, Searched, make_plan
from mergery.planning.steps import kinds_of
from mergery.report.files import side_files
from mergery.run.events import Notify, Refined, ignore
from mergery.run.merging import Result, merge_to_folder
from mergery.run.output import check_writable, partial_folder, place_of
from mergery.run.workers import Options

CARD = "anchors.json"
FORMAT = 1


@dataclass(frozen=True)
class _Models:
    """The base of a recipe's merge, and the models that it merges, as they can be run."""

    plan: Plan
    base: StreamedModel
    models: Mapping[str, StreamedModel]
    blocks: list[Block]

    @property
    def marks(self) -> dict[str, Any]:
        """What tells base and models from others."""
        names = [str(self.plan.recipe.merge.base), *self.models]
        return {name: model_mark(self.plan.checkpoints[name]) for name in names}


@contextlib.contextmanager
def _opened(recipe: Any, whole: bool | None) -> Iterator[_Models]:
    plan = make_plan(recipe)
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
            blocks = blocks_of(base, whole)
        for name, model in models.items():
            wrong = [
                each
                for each in base.nodes
                if each not in model.nodes or model.nodes[each].shape != base.nodes[each].shape
            ]
            if wrong and any(each in block.names.values() for each in wrong for block in blocks):
                what = f"{name!r} has no {wrong[0]!r} of the base's shape"
                raise CheckpointError(what, hint="anchors are of models of one architecture")
        yield _Models(plan, base, models, blocks)
    finally:
        plan.close()


def _chosen(options: Any, presets: Mapping[tuple[str, bool], Any], opened: _Models) -> Any:
    """The options that are meant: themselves, made for whole blocks or MLPs, or the cheap ones."""
    whole = opened.blocks[0].whole
    return options(whole) if callable(options) else options or presets["cheap", whole]


# --- finding ------------------------------------------------------------------------------------------------------------


def find_all(
    recipe: Any,
    out: str | Path,
    options: AnchorOptions | Callable[[bool], AnchorOptions] | None = None,
    *,
    whole: bool | None = None,
    threads: int = 0,
    on_event: Notify = ignore,
) -> Path:
    """Find the anchors of each block for each model of a recipe's merge, and keep them in the folder `out`.

    A run that was interrupted goes on with the blocks and models that it lacks. `options` are given, or told of whether blocks
    are whole; the cheap ones where None. Raises MergeryError.
    """
    place = place_of(out)
    if place.exists() and any(place.iterdir()):
        raise PlanError(f"the output folder {str(place)!r} is not empty", hint="choose another folder")
    check_writable(place)
    with _opened(recipe, whole) as opened, torch_threads(threads):
        chosen = _chosen(options, PRESETS, opened)
        card = {
            "format": FORMAT,
            "options": chosen.plain(),
            "whole": opened.blocks[0].whole,
            "models": opened.marks,
            "blocks": [block.name for block in opened.blocks],
        }
        partial = _begin(place, card)
        losses: dict[str, list[float]] = {}
        done, total = 0, len(opened.blocks) * len(opened.models)
        for block in opened.blocks:
            base = None
            for name, model in opened.models.items():
                done += 1
                path = partial / f"{block.name}.{name}.safetensors"
                if not path.exists():
                    base = block.weights(opened.base) if base is None else base
                    rows, first, last = find_anchors(block, base, block.weights(model), chosen, name)
                    _write(path, {f"{block.name}.{name}.anchors": rows.numpy()}, {"loss": json.dumps([first, last])})
                losses[f"{block.name}.{name}"] = _losses(path)
                on_event(Refined(block.name, name, losses[f"{block.name}.{name}"], done, total))
        _finish(partial, place, {**card, "losses": losses})
    return place


def _begin(place: Path, card: Mapping[str, Any]) -> Path:
    """The folder of an unfinished run: a new one, or that of an earlier run for the same anchors."""
    partial, text = partial_folder(place), json.dumps(card, indent=1) + "\n"
    if partial.exists():
        kept = partial / CARD
        if not kept.exists():
            raise PlanError(f"{str(partial)!r} stands in the way", hint="rename it, or choose another folder")
        if kept.read_text() == text:
            return partial
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    (partial / CARD).write_text(text)
    return partial


def _write(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """A weight file, whole or not at all."""
    from safetensors.numpy import save_file

    unfinished = path.with_suffix(".part")
    save_file(
        {name: np.ascontiguousarray(value) for name, value in arrays.items()}, unfinished, {"format": "pt", **metadata}
    )
    unfinished.rename(path)


def _losses(path: Path) -> list[float]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["loss"])


def _finish(partial: Path, place: Path, card: Mapping[str, Any]) -> None:
    files = sorted(partial.glob("*.safetensors"))
    weight_map = {}
    for number, path in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        weight_map[f"{path.name.removesuffix('.safetensors')}.anchors"] = name
        path.rename(partial / name)
    index = {"metadata": {}, "weight_map": weight_map}
    (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (partial / CARD).write_text(json.dumps(card, indent=1) + "\n")
    if place.exists():
        place.rmdir()
    partial.rename(place)


# --- refining -----------------------------------------------------------------------------------------------------------


def refine_all(
    recipe: Any,
    anchors: str | Path,
    out: str | Path,
    options: RefineOptions | Callable[[bool], RefineOptions] | None = None,
    *,
    threads: int = 0,
    on_event: Notify = ignore,
) -> Result:
    """Write a recipe's merge with its blocks refined on anchors, block by block. Raises MergeryError.

    The recipe may be any that merges the models of the anchors over their base. What is in no block, and in decoders all but
    the MLPs, is the merge's own.
    """
    import torch

    folder, card = _read_card(Path(anchors).expanduser())
    place = place_of(out)
    if place.exists() and any(place.iterdir()):
        raise PlanError(f"the output folder {str(place)!r} is not empty", hint="choose another folder")
    check_writable(place)
    work = place.with_name(place.name + ".refined")
    if work.exists():
        shutil.rmtree(work)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(_opened(recipe, card["whole"]))
        if json.loads(json.dumps(opened.marks)) != card["models"]:
            why = f"they are of {', '.join(card['models'])}"
            raise CheckpointError(
                "these are anchors of other models", where=Where(str(folder)), why=why, hint="find them anew"
            )
        kept = stack.enter_context(open_checkpoint(folder))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        chosen = _chosen(options, REFINING, opened)
        work.mkdir(parents=True)
        with quiet(), torch_threads(threads):
            host = StreamedModel(opened.plan.view)
            host.shared = merged_statistics(opened.plan)
            for number, block in enumerate(opened.blocks, 1):
                models = {name: block.weights(model) for name, model in opened.models.items()}
                rows = {name: torch.from_numpy(_anchor(kept, f"{block.name}.{name}.anchors")) for name in models}
                merged = block.weights(host)
                found, before, after = refine(block, block.weights(opened.base), merged, models, rows, chosen)
                changed = {own: value for own, value in found.items() if not torch.equal(value, merged[own])}
                arrays = _stored_arrays(host, block, changed)
                if arrays:
                    _write(work / f"{number:05d}.safetensors", arrays, {})
                on_event(Refined(block.name, "", [before, after], number, len(opened.blocks)))
        planned = _with_refined(stack, opened.plan, work, chosen, card)
        return merge_to_folder(planned, place, side_files, Options(threads=threads), on_event)


def _read_card(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / CARD
    if not path.is_file():
        hint = "name a folder that `mergery anchors` wrote"
        raise CheckpointError("these are no anchors", where=Where(str(folder)), hint=hint)
    card = parse_object(path.read_bytes(), str(path))
    if card.get("format") != FORMAT or not {"whole", "models", "blocks"} <= card.keys():
        raise CheckpointError(f"this {CARD} cannot be read", where=Where(str(path)), hint="find the anchors anew")
    return folder, card


def _anchor(checkpoint: Any, name: str) -> np.ndarray:
    info = checkpoint.tensors.get(name)
    if info is None:
        what, where = f"these anchors have no {name!r}", Where(checkpoint.location)
        raise CheckpointError(what, where=where, hint="find them anew, for these models")
    values = np.empty(info.elements, np.float32)
    checkpoint.read(name, 0, info.elements, values.view(np.uint8))
    return values.reshape(info.shape)


def _stored_arrays(host: StreamedModel, block: Block, changed: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """New weights of a block under the names, and in the shapes, in which the output has them."""
    arrays: dict[str, np.ndarray] = {}
    for own, value in changed.items():
        flat = value.reshape(-1).numpy()
        for tensor, start, at, length in host.stored(block.names[own]):
            if tensor not in arrays:
                whole = host.view.nodes[tensor]
                arrays[tensor] = np.zeros(whole.elements, np.float32)
            arrays[tensor][start : start + length] = flat[at : at + length]
    return {name: values.reshape(host.view.nodes[name].shape) for name, values in arrays.items()}


def _with_refined(
    stack: contextlib.ExitStack, plan: Plan, work: Path, options: RefineOptions, card: Mapping[str, Any]
) -> Plan:
    """The plan with refined tensors in place of merged ones."""
    nodes: dict[str, Stored] = {}
    for path in sorted(work.glob("*.safetensors")):
        checkpoint = stack.enter_context(open_checkpoint(path, label="refined"))
        nodes |= {name: Stored("refined", checkpoint, info) for name, info in checkpoint.tensors.items()}
    steps = tuple(step._replace(node=nodes[step.name]) if step.name in nodes else step for step in plan.steps)
    told = json.dumps([plan.digest, asdict(options), card["options"], card["models"]], sort_keys=True)
    note = f"refined on functional dual anchors: {len(nodes)} tensors of {len(card['blocks'])} blocks"
    return replace(
        plan,
        steps=steps,
        kinds=kinds_of(steps),
        digest=hashlib.sha256(told.encode()).hexdigest(),
        notes=(*plan.notes, note),
        refined=Searched(plan.digest, tuple(nodes)),
        view=replace(plan.view, nodes={**plan.view.nodes, **nodes}),
    )
