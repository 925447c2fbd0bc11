"""Packing: base, shared parts and one small part for each task, instead of one model for each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.formats.packed import CARD, FORMAT, WEIGHTS, part_info, part_name
from mergery.engine import Merging, calling
from mergery.errors import PlanError, RecipeError
from mergery.graph.nodes import Merged, Stored
from mergery.kernels.threads import quiet_torch
from mergery.method import Method, find, methods
from mergery.planning.layout import Layout, Slot, lay_out
from mergery.planning.plan import Plan, make_plan
from mergery.recipe import Recipe, Source
from mergery.recipe.reading import load_recipe
from mergery.recipe.values import Constant
from mergery.run.events import Notify, Packed, Tally
from mergery.run.merging import prepare
from mergery.run.output import check_inputs, check_space, check_writable, partial_folder, place_of
from mergery.run.sinks import lay_file, write_problem, write_whole
from mergery.run.workers import Options, Run

ONE_FILE = 1 << 62  # bytes


def pack(recipe: Recipe | str | Path | Mapping[str, Any], folder: Path, options: Options, notify: Notify) -> Packed:
    """Write the folder of a recipe's packed models; see `mergery.api.pack`."""
    with _planned(recipe, folder) as (plan, method, folder):
        prepare(plan, notify, options)
        return _write(plan, method, folder, options, notify)


def pack_beforehand(recipe: Recipe | str | Path | Mapping[str, Any], folder: Path) -> Packed:
    """What `pack` would write, from headers alone; nothing is. Raises MergeryError where it would be refused."""
    with _planned(recipe, folder) as (plan, method, folder):
        _, _, layout = _laid_out(plan, method)
        _check_room(partial_folder(folder), layout)
        return _packed(plan, folder, layout)


@contextmanager
def _planned(recipe: Recipe | str | Path | Mapping[str, Any], folder: Path) -> Iterator[tuple[Plan, Method, Path]]:
    """The plan of all that is packed, its method, and where it is written, once that is known to be free."""
    loaded = load_recipe(recipe)
    method = packable(loaded)
    settings = {**loaded.merge.settings}
    if "task" in method.settings:
        settings["task"] = Constant(loaded.merge.models[0])  # all are packed, whichever is named
    plan = make_plan(replace(loaded, merge=replace(loaded.merge, settings=settings)))
    try:
        folder = place_of(folder)
        if folder.exists():
            raise PlanError(f"the output {str(folder)!r} is already there", hint="choose another folder")
        check_inputs(plan, folder)
        check_writable(folder)
        yield plan, method, folder
    finally:
        plan.close()


def packable(recipe: Recipe) -> Method:
    """The recipe's method. Raises RecipeError where its models cannot be packed."""
    merge = recipe.merge
    method = find(merge.method)
    able = [name for name, each in methods().items() if each.packing is not None]
    if method.packing is None:
        raise RecipeError(
            f"{method.name} cannot be packed",
            where=merge.place,
            why="it gives one model, which `mergery merge` writes",
            hint=f"methods that serve several by task: {', '.join(able)}",
        )
    if merge.stack:
        raise RecipeError("a stack cannot be packed", where=merge.place, hint="merge it first")
    if merge.overrides or merge.rest:
        why = "packed models keep of each tensor what their method gives, or the base's"
        hint = "leave out 'parts' and 'rest'"
        raise RecipeError("parts of a model cannot be packed otherwise", where=merge.place, why=why, hint=hint)
    base = recipe.models[merge.base] if merge.base else None
    if not isinstance(base, Source) or not isinstance(base.path, (str, os.PathLike)) or base.task:
        raise RecipeError(
            "the base of packed models must be a folder, a file or a model of the hub",
            where=merge.place,
            why="the packed folder refers to it",
            hint="merge or save it first",
        )
    return method


def _laid_out(plan: Plan, method: Method) -> tuple[list[Merged], dict[str, str], Layout]:
    """The tensors that are packed, the kinds of their parts, and the file of these. Raises PlanError."""
    assert method.packing is not None
    tasks = plan.recipe.merge.models
    nodes = [step.node for step in plan.steps if isinstance(step.node, Merged)]
    reshaped = [step.name for step in plan.steps if not isinstance(step.node, (Stored, Merged))]
    reshaped += [node.name for node in nodes if node.matrices is not None and len(node.shape) != 2]
    if reshaped:
        why = "the base stores it in another form than the merge makes it"
        raise PlanError(f"{reshaped[0]!r} cannot be packed", why=why, hint="pack models of the base's shape")
    kinds: dict[str, str] = {}
    infos: list[TensorInfo] = []
    for node in nodes:
        for part, rule in method.packing.parts(node.shape, node.settings).items():
            kinds[part] = rule.kind
            owners = tasks if rule.each else (None,)
            infos += [part_info(part_name(node.name, part, task), rule, node.shape) for task in owners]
    return nodes, kinds, lay_out(infos, ONE_FILE, {"format": "pt"})


def _check_room(partial: Path, layout: Layout) -> None:
    """Refuse a folder that the disk cannot hold, or whose unfinished name is taken."""
    check_space(partial, layout)
    if partial.exists():
        hint = f"it is left of a run that was interrupted: remove {str(partial)!r}"
        raise PlanError(f"{str(partial)!r} stands in the way", hint=hint)


def _packed(plan: Plan, folder: Path, layout: Layout) -> Packed:
    apart = len(plan.recipe.merge.models) * sum(4 * step.node.elements for step in plan.steps)
    return Packed(folder, plan.recipe.merge.models, layout.nbytes, apart)


def _write(plan: Plan, method: Method, folder: Path, options: Options, notify: Notify) -> Packed:
    """Write the parts of every tensor and the card under a temporary name, which becomes `folder` at the very end."""
    tasks = plan.recipe.merge.models
    nodes, kinds, layout = _laid_out(plan, method)
    partial = partial_folder(folder)
    _check_room(partial, layout)
    partial.mkdir(parents=True)
    try:
        with open(lay_file(partial / WEIGHTS, layout.shards[0], kept=False), "wb") as file:
            writer = Writer(file.fileno(), {slot.info.name: slot for slot in layout.slots}, tasks, notify)
            run = Run(plan, writer, options, notify)
            with quiet_torch(load=True), ThreadPoolExecutor(options.workers, thread_name_prefix="mergery") as pool:
                run.statistics(pool, list(plan.steps))
                run.scan(pool, nodes, lambda merging: writer.pack(merging, method))
            os.fsync(file.fileno())
        text = json.dumps(make_card(plan, method, kinds), indent=1, default=str) + "\n"
        (partial / CARD).write_text(text, encoding="utf-8")
        os.rename(partial, folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise write_problem(error, partial, kept=False) from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    packed = _packed(plan, folder, layout)
    notify(packed)
    return packed


def make_card(plan: Plan, method: Method, kinds: Mapping[str, str]) -> dict[str, Any]:
    """What `packed.json` says."""
    from mergery.version import __version__

    assert plan.recipe.merge.base
    base = plan.checkpoints[plan.recipe.merge.base]
    mark = base.fingerprint()
    return {
        "format": FORMAT,
        "mergery": __version__,
        "method": method.name,
        "tasks": list(plan.recipe.merge.models),
        "base": {
            "location": mark["location"] if "commit" in mark else str(Path(base.location).resolve()),
            "revision": mark.get("commit"),
            "fingerprint": mark,
        },
        "parts": dict(kinds),
        "recipe": plan.recipe.plain(),
    }


class Writer:
    """Writes the parts of each tensor to their places in the one file."""

    def __init__(self, file: int, slots: Mapping[str, Slot], tasks: tuple[str, ...], notify: Notify) -> None:
        self.file, self.slots, self.tasks = file, slots, tasks
        self.tally = Tally("packing", sum(slot.info.nbytes for slot in slots.values()), notify)
        self.done: dict[str, str] = {}

    def write(self, slot: Slot, start: int, data: np.ndarray) -> None:
        data = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
        write_whole(self.file, data.data, slot.offset + start)
        self.tally.add(data.size)

    def finished(self, steps: Any, digests: Any) -> None:
        """Nothing is journalled: packing begins anew."""

    def pack(self, merging: Merging, method: Method) -> None:
        """Write all parts of one tensor."""
        assert method.packing is not None
        reader, node = merging.reader, merging.node
        rules = method.packing.parts(node.shape, node.settings)
        known = {**merging.settings, **merging.before().asked}
        loose: dict[str, np.ndarray] = {}  # bits that do not fill a byte yet
        for start, stop in reader.slices(0, reader.n):
            reader.load(start, stop)
            parts = calling.call(reader, method.packing.pack, known, merging.keys, start, start, stop)
            for part, rule in rules.items():
                owners = self.tasks if rule.each else (None,)
                values = parts[part] if rule.each else [parts[part]]
                for task, value in zip(owners, values, strict=True):
                    slot = self.slots[part_name(node.name, part, task)]
                    if rule.kind == "values":
                        self.write(slot, 4 * start, value.reshape(-1).float().numpy())
                    elif rule.kind == "bits":
                        before = loose.get(slot.info.name, np.zeros(0, bool))
                        bits = np.concatenate([before, value.reshape(-1).numpy()])
                        whole = len(bits) if stop == reader.n else len(bits) // 8 * 8
                        loose[slot.info.name] = bits[whole:]
                        first = (start - len(before)) // 8
                        self.write(slot, first, np.packbits(bits[:whole], bitorder="little"))
                    elif rule.kind == "rows":
                        self.write(slot, 4 * rule.width * (start // reader.columns), value.float().numpy())
                    elif start == 0:
                        whole_part = value.float().numpy() if rule.kind == "matrix" else np.array([value], np.float32)
                        self.write(slot, 0, whole_part)
