"""Statistics that a command needs of a model: those that it is given, or those that it makes of data, beside its output."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergery.calibration.options import CalibrationOptions
from mergery.calibration.running import calibrate
from mergery.checkpoints import Checkpoint, open_checkpoint
from mergery.checkpoints.statistics import FILE, Statistics, read_statistics
from mergery.errors import PlanError
from mergery.planning.plan import Plan
from mergery.run.events import Notify
from mergery.run.output import check_inputs, check_writable, place_of

BESIDE = ".statistics"  # behind the output's name


@contextmanager
def statistics_beside(
    plan: Plan, data: str | Path, out: str | Path, options: CalibrationOptions, notify: Notify, *, replace: bool = False
) -> Iterator[Checkpoint]:
    """Statistics of what a plan makes: the folder `data`, or made of the file `data`, in a folder beside the output `out`.

    A run that goes on finds that folder again. It is removed where the context ends well. Raises MergeryError.
    """
    given = Path(data).expanduser()
    if given.is_dir():
        with open_checkpoint(given, label="statistics") as checkpoint:
            yield checkpoint
        return
    place = place_of(out)
    check_inputs(plan, place, replace=replace)
    check_writable(place)
    if place.exists() and any(place.iterdir()) and not replace:
        why = "nothing that exists is overwritten"
        raise PlanError(
            f"the output folder {str(place)!r} is not empty", why=why, hint="choose another, or say --replace"
        )
    folder = place.with_name(place.name + BESIDE)
    if not _are_there(folder, plan, given):
        calibrate(plan.recipe, given, folder, options=options, on_event=notify)
    with open_checkpoint(folder, label="statistics") as checkpoint:
        yield checkpoint
    shutil.rmtree(folder)


def _are_there(folder: Path, plan: Plan, data: Path) -> bool:
    """Whether an interrupted run has made them. Raises PlanError where something else has that name."""
    if not folder.exists():
        return False
    said: Statistics | None = None
    if (folder / FILE).is_file():
        with open_checkpoint(folder) as checkpoint:
            said = read_statistics(checkpoint)
    sha256 = hashlib.sha256(data.read_bytes()).hexdigest() if data.is_file() else ""
    if (
        said is not None
        and said.model.get("plan") == plan.digest
        and [each["sha256"] for each in said.data] == [sha256]
    ):
        return True
    why = "statistics of the data get that name, and these are others"
    hint = "remove it, or choose another output folder"
    raise PlanError(f"{str(folder)!r} stands in the way", why=why, hint=hint)
