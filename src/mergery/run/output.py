"""Where an output will stand: what the user means by its name, and all that forbids to write there, before any work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mergery.checkpoints.adapted import stored_in
from mergery.checkpoints.file_kinds import is_weight_file, other_form
from mergery.checkpoints.formats.packed import CARD as PACKED
from mergery.errors import PlanError, size
from mergery.planning.layout import Layout
from mergery.planning.plan import Plan
from mergery.run import journal, lock

ROOM = 64 << 20  # bytes wanted free beyond the output
ELSEWHERE = "choose another folder"
EXCHANGED = "choose another folder, or say --replace to exchange it once the new one is complete"


def place_of(out: str | Path) -> Path:
    """The folder that a user means by `out`: `~` is the home folder, and a link stands for what it leads to.

    Raises PlanError where it can be no folder of its own.
    """
    try:
        path = Path(out).expanduser()
    except RuntimeError as error:
        raise PlanError(f"the output {str(out)!r} names no folder", why=str(error), hint=ELSEWHERE) from None
    if path.is_symlink() or path.name in ("", ".."):
        path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise PlanError(f"the output {str(out)!r} is a link that leads to itself", hint=ELSEWHERE)
    if path.exists() and not path.is_dir():
        raise PlanError(f"the output {str(out)!r} is a file", hint="name a folder")
    if path.exists() and (os.path.ismount(path) or path.samefile(os.curdir)):
        what = "the folder that you are in" if path.samefile(os.curdir) else "the root of a disk"
        raise PlanError(
            f"the output {str(out)!r} is {what}",
            why="the output is written under another name and then renamed, which cannot be done to it",
            hint="name a folder in it",
        )
    return path


def partial_folder(out: Path) -> Path:
    """The name under which an unfinished output stands."""
    return out.with_name(out.name + ".partial")


def write_at_once(path: Path, text: str) -> None:
    """Write a small file, whole or not at all: a run that is killed while it writes leaves no half for a later one to read."""
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def check_output(plan: Plan, out: Path, *, replace: bool = False) -> bool:
    """Refuse an output that would overwrite anything or that cannot be written. True where it is there already.

    `out` comes from `place_of`. Raises PlanError.
    """
    check_beforehand(plan, out, replace=replace)
    if replace or not (out.exists() and any(out.iterdir())):
        return False
    check_finished(plan, out)
    return True


def check_beforehand(plan: Plan, out: Path, *, replace: bool = False) -> None:
    """The same before the plan is known to the last: another plan's result is not refused. Raises PlanError."""
    check_inputs(plan, out, replace=replace)
    there = out.exists() and any(out.iterdir())
    if there and not replace:
        check_ours(out)
        return
    if there:
        check_replaceable(out)
    check_writable(out)
    check_unfinished(partial_folder(out))
    check_space(partial_folder(out), plan.layout)


def outlook(plan: Plan, out: Path, *, replace: bool = False, restart: bool = False) -> str:
    """What a run would do about its output folder, in words. Raises PlanError where it would be refused."""
    if check_output(plan, out, replace=replace):
        return f"{out} is already there, made by the same plan: nothing is to be done"
    held = out.exists() and any(out.iterdir())
    words = f"{out} holds a model, which is exchanged at the end" if held else f"{out} is written"
    partial = partial_folder(out)
    done = 0 if restart else journal.finished_tensors(partial, plan.digest)
    return f"{words}; {done} of {len(plan.steps)} tensors are done by an interrupted run" if done else words


def check_inputs(plan: Plan, out: Path, *, replace: bool = False) -> None:
    """Refuse an output that lies in a model that is read, or that would be exchanged with one in it."""
    target, unfinished = out.resolve(), partial_folder(out).resolve()
    for name, checkpoint in plan.checkpoints.items():
        for each in stored_in(checkpoint):
            place = Path(str(each.location))
            if not place.exists():
                continue
            what = f"the model {name!r}" if place == Path(checkpoint.location) else f"an adapter of {name!r}"
            place = place.resolve()
            if place in (target, *target.parents) and (place.is_dir() or place == target):
                raise PlanError(f"the output {str(out)!r} is, or lies in, {what}", hint=ELSEWHERE)
            if unfinished in (place, *place.parents) or (replace and target in place.parents):
                where = out if target in place.parents else partial_folder(out)
                raise PlanError(f"{what} lies in the output {str(where)!r}", hint=ELSEWHERE)
    if replace and target in Path.cwd().parents:
        raise PlanError(f"the folder that you are in lies in the output {str(out)!r}", hint=ELSEWHERE)


def check_finished(plan: Plan, out: Path) -> None:
    """Refuse a folder that is not what the plan gives."""
    check_ours(out)
    if lock.read_lock(out).get("plan") != plan.digest:
        raise PlanError(f"the output {str(out)!r} holds the result of another plan", hint=EXCHANGED)


def check_ours(out: Path) -> None:
    """Refuse a folder that no plan has given."""
    if not (out / lock.NAME).exists():
        what, why = f"the output folder {str(out)!r} is not empty", "nothing that exists is overwritten"
        raise PlanError(what, why=why, hint=EXCHANGED if is_model(out) else ELSEWHERE)


def check_replaceable(out: Path) -> None:
    """Refuse to exchange a folder that is neither Mergery's nor a model."""
    if not is_model(out):
        raise PlanError(
            f"the output folder {str(out)!r} is not exchanged",
            why="it is no model: it has neither weight files nor a lock of Mergery",
            hint="choose another folder, or remove what is in it",
        )


def is_model(folder: Path) -> bool:
    """Whether a folder's files are those of a model, or of an output of Mergery."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    return any(name in (lock.NAME, PACKED) or is_weight_file(name) or other_form(name) for name in names)


def check_writable(out: Path) -> None:
    """Refuse an output in a folder that cannot be made or written."""
    parent = out.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise PlanError(f"cannot write in {str(out.parent)!r}", why=f"{str(parent)!r} is a file", hint=ELSEWHERE)
    if not os.access(parent, os.W_OK | os.X_OK):
        only_read = os.statvfs(parent).f_flag & os.ST_RDONLY
        why = "the disk can only be read" if only_read else "Permission denied"
        raise PlanError(f"cannot write in {str(parent)!r}", why=why, hint=ELSEWHERE)


def check_unfinished(partial: Path) -> None:
    """Refuse an output whose unfinished name is taken by something else."""
    if not (partial.exists() or partial.is_symlink()):
        return
    ours = partial.is_dir() and not partial.is_symlink()
    if not ours or (
        any(partial.iterdir()) and not any((partial / name).exists() for name in (journal.NAME, lock.NAME))
    ):
        raise PlanError(
            f"{str(partial)!r} stands in the way",
            why="an unfinished output gets that name, and this is none",
            hint="rename it, or choose another output folder",
        )


def check_space(folder: Path, layout: Layout) -> None:
    """Refuse an output that the disk cannot hold. Space that an unfinished run has reserved counts as there."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    have = sum((folder / s.name).stat().st_blocks * 512 for s in layout.shards if (folder / s.name).exists())
    if free + have < layout.nbytes + ROOM:
        raise PlanError(
            f"the disk is too small for the output in {str(folder.parent)!r}",
            why=f"{size(layout.nbytes + ROOM)} are needed and {size(free + have)} are free",
            hint="free some space, choose another disk, or write a narrower dtype",
        )
