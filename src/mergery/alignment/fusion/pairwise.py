"""Fuse, then merge: each teacher into a student of its own, from one beginning, and the students into one model.

    OUT/students/NAME   the target, fused with one teacher        OUT/recipe.yaml   their merge, with the target as base
    OUT/merged          the model

With SCE it is FuseChat (arXiv 2408.07990). With a target that has learnt nothing yet and `text: 0` it turns models of any
architectures into students of one, which can be merged.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergery.alignment.fusion.options import FuseOptions
from mergery.alignment.fusion.preparing import prepare
from mergery.alignment.fusion.running import fuse
from mergery.alignment.fusion.telling import MARK
from mergery.errors import PlanError, RecipeError
from mergery.evaluation.task import digest
from mergery.method import find
from mergery.planning.plan import make_plan
from mergery.recipe.document import write_yaml
from mergery.report.files import side_files
from mergery.run.events import Notify
from mergery.run.merging import merge_to_folder
from mergery.run.output import check_writable, place_of, write_at_once
from mergery.run.workers import Options

STUDENTS, RECIPE, MERGED, STORE = "students", "recipe.yaml", "merged", "distributions"
PIVOT = "pivot"


def fuse_pairwise(
    target: str | Path,
    teachers: Sequence[Any],
    data: str | Path,
    out: str | Path,
    *,
    method: str,
    options: FuseOptions,
    notify: Notify,
    store: str | Path | None = None,
    restart: bool = False,
) -> Path:
    """Write the folder `out`: students, recipe and merge. Returns the merged model's folder. See `mergery.api.fuse`."""
    merging = find(method)
    if not isinstance(target, (str, Path)) or not Path(target).expanduser().is_dir():
        what = "fusing pairwise needs the target as a model folder"
        raise RecipeError(what, why="it is the base of the merge", hint="merge it into a folder first")
    if len(teachers) < 2:
        raise RecipeError("fusing pairwise needs two teachers at least", hint="leave pairwise out to fuse with one")
    place = place_of(out)
    fusion = prepare(target, teachers, data, options)
    mark = digest([fusion.digest, method])
    check_writable(place)
    _take_up(place, mark, restart=restart)
    kept = Path(store) if store is not None else place / STORE
    names = [member.name for member in fusion.teachers]
    for name, teacher in zip(names, teachers, strict=True):
        student = place / STUDENTS / name
        student.parent.mkdir(exist_ok=True)
        fuse(target, [teacher], data, student, options=options, notify=notify, store=kept)
    recipe = place / RECIPE
    text = recipe_of(Path(target).expanduser(), names, merging.name, place, base=merging.base != "unused")
    recipe.write_text(text, encoding="utf-8")
    plan = make_plan(recipe)
    try:
        result = merge_to_folder(plan, place / MERGED, side_files, Options(options.threads), notify)
    finally:
        plan.close()
    if store is None:
        shutil.rmtree(kept, ignore_errors=True)
    return result.folder


def recipe_of(target: Path, names: Sequence[str], method: str, place: Path, *, base: bool) -> str:
    """The recipe that merges the students, as a file in `place`."""
    pivot = os.path.relpath(target.resolve(), place.resolve())
    models = {PIVOT: pivot if pivot.startswith(".") else f"./{pivot}"} if base else {}
    models |= {name: f"./{STUDENTS}/{name}" for name in names}
    merge = {"method": method, **({"base": PIVOT} if base else {}), "models": list(names)}
    return write_yaml({"models": models, "merge": merge})


def _take_up(place: Path, mark: str, *, restart: bool) -> None:
    """Make the folder, or take up what an interrupted run of the same has left. Raises PlanError."""
    kept = place / MARK
    if place.exists() and any(place.iterdir()):
        try:
            known = json.loads(kept.read_text()).get("pairwise")
        except (OSError, ValueError, AttributeError):
            known = None
        if known is None:
            why = "nothing that exists is overwritten"
            raise PlanError(f"the output folder {str(place)!r} is not empty", why=why, hint="choose another folder")
        if known != mark and not restart:
            what = f"{str(place)!r} holds a fusion of other models, data or options"
            raise PlanError(what, hint="choose another folder, or say --restart to begin anew")
        if restart:
            shutil.rmtree(place)
    place.mkdir(parents=True, exist_ok=True)
    write_at_once(kept, json.dumps({"pairwise": mark}) + "\n")
