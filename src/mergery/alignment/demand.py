"""Transforms that a recipe's `align` asks for: found before the merge, and kept.

They are kept under a hash of all that they are made of, so that a second merge of the same models finds them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mergery.alignment.finding import check_matching, find_centre, find_transform
from mergery.alignment.soft.finding import find_transport, find_zip
from mergery.calibration.opening import stored_view
from mergery.calibration.sources import mark_of
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.statistics import model_mark
from mergery.errors import PlanError, size
from mergery.planning.coordinates import anchor_of, in_words, spaces_of, unaligned
from mergery.planning.layout import lay_out
from mergery.planning.opening import open_all
from mergery.planning.plan import Plan, make_plan
from mergery.recipe import Recipe, Source
from mergery.recipe.aligning import Align
from mergery.recipe.soft import SOFT, TRANSPORT, ZIP
from mergery.run.events import Notify
from mergery.views.transforms import MemoryTransform, Transform
from mergery.views.transforms.transform import FILE

WHOLE = 1 << 62  # bytes of a file: what it is given stands in it
MADE = 2  # raised when the same models would be aligned in another way


@dataclass(frozen=True)
class Wanted:
    """A transform of one model that has to be there before the merge, and where it is kept."""

    model: str
    to: str
    folder: Path
    what: str  # in words
    resized: bool = False  # whether it gets the sizes of the model that it is aligned to
    takes: str = ""  # what finding it takes, where that is much

    @property
    def there(self) -> bool:
        """Whether it has been found before."""
        return (self.folder / FILE).exists()

    def words(self) -> str:
        """What is going to be done, or has been."""
        if self.there:
            return f"{self.what}: the transform is there, in {self.folder}"
        return f"{self.what} first{self.takes}, and the transform kept"


def kept_in() -> Path:
    """The folder in which transforms are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergery" / "transforms"


def wanted(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> list[Wanted]:
    """What has to be there before the merge. Raises PlanError where a model cannot be aligned."""
    align, found = recipe.align, []
    if align is None:
        return []
    for name in unaligned(recipe):
        source = recipe.models[name]
        assert isinstance(source, Source)
        if source.convert or getattr(recipe.models[anchor_of(recipe)], "convert", None):
            hint = "write it in its new shape to a folder first, and name that"
            raise PlanError("a model that is converted cannot be aligned", where=source.place, hint=hint)
        together = align.to not in recipe.models or align.method == ZIP
        others = (anchor_of(recipe), *(unaligned(recipe) if together else ()))
        marks = [model_mark(checkpoints[each]) for each in (name, *others)]
        data = mark_of(align.data, recipe.folder, align.place) if align.data else None
        facts = [MADE, *marks, align.method, align.spaces, data, *((align.samples, align.length) if data else ())]
        facts += align.learnt or ()
        facts += [name == align.to, align.soft.plain()] if align.method in SOFT else []
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:20]
        resized = align.method == TRANSPORT and _shapes(checkpoints[name]) != _shapes(checkpoints[align.to])
        need = Wanted(name, align.to, kept_in() / key, in_words(recipe, name), resized)
        found.append(need if need.there else replace(need, takes=_takes(align, checkpoints[name])))
    return found


def _takes(align: Align, checkpoint: Checkpoint) -> str:
    """What learning a transform takes, in words. Raises PlanError where the machine lacks it."""
    if align.learnt is None:
        return ""
    from mergery.alignment.matching.learning.running import check_memory, memory

    view = stored_view(checkpoint)
    need = memory(spaces_of(view), sum(node.elements for node in view.nodes.values()), align)
    check_memory(need)
    return f", in {align.learnt[0]} steps on texts with {size(need)} of memory beside activations"


def _shapes(checkpoint: Checkpoint) -> list[tuple[int, ...]]:
    return sorted(info.shape for info in checkpoint.tensors.values())


def plan_aligning(recipe: Recipe, only: Any = ()) -> tuple[Recipe, Plan | None]:
    """The recipe with the transforms that are there; and where some are still to be found, the plan as it will be once they
    are, which `Plan.before` tells. Raises MergeryError.
    """
    needs = _wanted(recipe)
    known = _with_transforms(recipe, [need for need in needs if need.there])
    if all(need.there for need in needs):
        return known, None
    check_matching(recipe, [need.model for need in needs if not need.there])
    plan = make_plan(_as_wide(known, needs), only=only)
    return known, replace(plan, recipe=known, notes=(*(need.words() for need in needs), *plan.notes))


def _as_wide(recipe: Recipe, needs: list[Wanted]) -> Recipe:
    """The recipe with models that are going to get the reference's widths as the reference, whose shapes they will have."""
    models = dict(recipe.models)
    for need in needs:
        if need.resized and not need.there:
            models[need.model] = models[need.to]
    return replace(recipe, models=models)


def aligned_recipe(recipe: Recipe, notify: Notify) -> Recipe:
    """The recipe with a transform for each model that it aligns: those that are not there are found. Raises MergeryError."""
    needs, align = _wanted(recipe), recipe.align
    waiting = [need for need in needs if not need.there]
    if waiting and align is not None and align.to not in recipe.models:
        found = find_centre(recipe, [need.model for need in needs], align, notify)
        for need in waiting:
            keep(found[need.model], need.folder)
    elif waiting and align is not None and align.method == ZIP:
        found = find_zip(recipe, tuple(need.model for need in needs), align, notify)
        for need in waiting:
            keep(found[need.model], need.folder)
    elif align is not None:
        find = find_transport if align.method == TRANSPORT else find_transform
        for need in waiting:
            keep(find(recipe, need.model, align, notify), need.folder)
    return _with_transforms(recipe, needs)


def _wanted(recipe: Recipe) -> list[Wanted]:
    checkpoints = open_all(recipe)
    try:
        return wanted(recipe, checkpoints)
    finally:
        for checkpoint in checkpoints.values():
            checkpoint.close()


def _with_transforms(recipe: Recipe, needs: list[Wanted]) -> Recipe:
    models = dict(recipe.models)
    for need in needs:
        source = models[need.model]
        assert isinstance(source, Source)
        models[need.model] = replace(source, transform=str(need.folder))
    return replace(recipe, models=models)


def keep(transform: Transform, folder: Path) -> None:
    """Write a transform as a checkpoint; whole, or not at all."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    for name, content in files_of(transform).items():
        (partial / name).write_bytes(content)
    try:
        partial.rename(folder)
    except OSError:  # another process has been faster
        shutil.rmtree(partial)


def files_of(transform: Transform) -> dict[str, bytes]:
    """The files of a transform's checkpoint."""
    held = MemoryTransform(transform)
    layout = lay_out(held.tensors.values(), WHOLE, {"format": "pt"})
    (shard,) = layout.shards
    content = np.zeros(shard.size, np.uint8)
    content[: len(shard.header)] = np.frombuffer(shard.header, np.uint8)
    for slot in layout.slots:
        held.read(slot.info.name, 0, slot.info.elements, content[slot.offset : slot.offset + slot.info.nbytes])
    return {shard.name: content.tobytes(), FILE: held.file(FILE)}
