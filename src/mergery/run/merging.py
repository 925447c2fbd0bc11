"""A plan carried out: into a folder, which gets its name when it is whole, or into memory."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as replaced
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from mergery.engine import Held
from mergery.errors import DataError, PlanError, size
from mergery.kernels.devices import CPU
from mergery.planning.plan import Plan
from mergery.run import lock
from mergery.run.estimate import machine_warnings
from mergery.run.events import Downloading, Finished, Noticed, Notify, Planned, ignore
from mergery.run.output import check_output, place_of
from mergery.run.rounding import near_rounding
from mergery.run.sinks import FolderSink, MemorySink
from mergery.run.workers import Options, Run

if TYPE_CHECKING:
    from torch import Tensor

SideFiles = Callable[[Plan], dict[str, bytes]]  # the small files beside a plan's weights: content by name


@dataclass(frozen=True, repr=False)
class Result:
    """A finished merge."""

    folder: Path
    plan: Plan
    seconds: float  # from the first byte that is read to the folder's name
    resumed: int  # tensors that an earlier, interrupted run had made
    already: bool = False  # the folder was there before, made by the same plan

    def __repr__(self) -> str:
        what = f"{len(self.plan.steps)} tensors, {size(self.plan.bytes_out)}"
        how = "there before, made by the same plan" if self.already else f"written in {self.seconds:.1f} s"
        return f"<Result: {self.folder}, {what}, {how}>"

    def _repr_html_(self) -> str:
        """The result in a line, for a notebook."""
        return f"<pre>{escape(repr(self)[1:-1])}</pre>"


def merge_to_memory(plan: Plan, options: Options, notify: Notify, held: Held | None = None) -> dict[str, Tensor]:
    """The merged tensors by name. `held`: see `mergery.run.workers.Run`. Raises MergeryError."""
    prepare(plan, notify, options)
    sink = MemorySink(plan)
    Run(plan, sink, options, notify, hashed=False, held=held).execute()
    return sink.tensors()


def merge_to_folder(
    plan: Plan,
    out: Path,
    side_files: SideFiles,
    options: Options,
    notify: Notify,
    *,
    replace: bool = False,
    restart: bool = False,
    ray: str | None = None,
    make_sink: Callable[..., FolderSink] = FolderSink,
) -> Result:
    """Write the model folder `out`; see `mergery.api.merge`. `ray` is the address of a cluster, `make_sink` what makes a
    sink of plan, folder and device. Raises MergeryError.
    """
    if ray is not None and options.devices[0] != CPU:
        raise PlanError(
            f"the workers of a cluster compute on cpu, not on {options.device}", hint="leave out --device or --ray"
        )
    out = place_of(out)
    if check_output(plan, out, replace=replace):
        notify(Finished(out, 0.0, already=True))
        return Result(out, plan, 0.0, 0, already=True)
    prepare(plan, notify, options)
    found = tuple(near_rounding(plan))
    if found:
        notify(Noticed(found))
        plan = replaced(plan, warnings=(*plan.warnings, *found))
    sink = make_sink(plan, out, options.devices[0].kind, restart=restart)
    try:
        resumed = len(sink.done)
        run = make_run(plan, sink, options, notify, ray)
        run.execute()
        sink.drain()
        if changed := plan.changed():
            sink.journal.discard()
            raise DataError(
                f"the files of {', '.join(changed)} were written to during the merge",
                why="the result would be of two states of a model",
                hint="let nothing write to the models, and run the same command again",
            )
        texts = side_files(plan)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in texts.items()}
        record = lock.make_lock(plan, sink.digests, digests, sink.device)
        texts[lock.NAME] = (json.dumps(record, indent=1, default=str) + "\n").encode()
        sink.complete(texts, replace=replace)
    except BaseException:
        sink.abandon()
        raise
    seconds = time.perf_counter() - run.started
    notify(Finished(out, round(seconds, 3)))
    return Result(out, plan, seconds, resumed)


def make_run(plan: Plan, sink: FolderSink, options: Options, notify: Notify, ray: str | None) -> Run:
    """A run on this machine, or on the cluster at the address `ray`."""
    if ray is None:
        return Run(plan, sink, options, notify)
    from mergery.run.cluster import ClusterRun, import_ray

    import_ray()
    return ClusterRun(plan, sink, options, notify, ray)


def prepare(plan: Plan, notify: Notify, options: Options) -> None:
    """Tell what is going to be merged, and download what is not here yet. Raises PlanError for what cannot be carried out."""
    plan.check_ready()
    if notify is not ignore:
        facts = (plan.recipe.title, plan.digest, len(plan.steps), plan.bytes_in, plan.bytes_out)
        notify(Planned(*facts, plan.notes, [*plan.warnings, *machine_warnings(plan, options)]))
    for name, checkpoint in plan.checkpoints.items():

        def report(done: int, total: int, name: str = name) -> None:
            notify(Downloading(name, done, total))

        checkpoint.prepare(report)
