"""What a plan waits for, done: statistics that its methods need, and the merge refined, as the recipe says."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mergery.calibration.demand import fulfilled
from mergery.errors import PlanError
from mergery.planning.plan import Plan
from mergery.run.events import Notify
from mergery.run.output import check_output, place_of

REFINED = ".refined"  # behind the output folder's name: where fitted tensors lie until the merge is written


@contextmanager
def all_done(
    plan: Plan, out: str | Path | None, threads: int, notify: Notify, *, replace: bool = False, ray: str | None = None
) -> Iterator[Plan]:
    """A plan that can be carried out at once, made of one that waits for something. Raises MergeryError.

    out: the folder that the merge is written to; None where it stays in memory. What an interrupted run has done is taken up.
    """
    if ray is not None and plan.recipe.refine is not None:
        why = "its workers make the plan again from the recipe alone"
        raise PlanError("a cluster cannot carry out a refined merge", why=why, hint="leave out --ray")
    with ExitStack() as stack:
        made = fulfilled(plan, threads, notify)
        stack.callback(made.close)
        if made.recipe.refine is None:
            yield made
            return
        from mergery.calibration.sequential.stage import refined_plan

        if out is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mergery-"))) / "refined"
        else:
            place = place_of(out)
            work = place.with_name(place.name + REFINED)
        there = (
            (lambda known: check_output(known, place_of(out), replace=replace))
            if out is not None
            else lambda known: False
        )
        with ExitStack() as files:
            yield refined_plan(files, made, work, threads, notify, there)
        shutil.rmtree(work, ignore_errors=True)
