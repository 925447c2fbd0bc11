"""What one process of a cluster does: it makes tensors of a plan into files that the driver has laid out."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mergery.errors import PlanError
from mergery.kernels.threads import quiet_torch
from mergery.planning.layout import Slot
from mergery.planning.plan import Plan, make_plan
from mergery.planning.steps import Step
from mergery.recipe import Recipe
from mergery.run.sinks import write_problem, write_whole
from mergery.run.workers import Options, Run, needs_torch


@dataclass(frozen=True)
class Job:
    """What a worker must know to make any tensor of a plan."""

    recipe: Recipe
    only: tuple[str, ...]
    digest: str
    stamps: Mapping[str, Any]
    folder: Path
    options: Options
    statistics: Mapping[tuple[int, str], Any]


class Worker:
    """One process of the cluster: makes tensors of a plan into files that the driver has laid out."""

    def start(self, job: Job) -> tuple[str, int]:
        """Make the plan and open its files. Returns the machine's name and the process's number."""
        plan = make_plan(job.recipe, only=job.only)
        changed = [name for name, stamp in plan.checkpoints.items() if stamp.stamp() != job.stamps[name]]
        if plan.digest != job.digest or changed:
            raise PlanError(
                f"a worker on {os.uname().nodename} does not see what the driver sees",
                why=f"the files of {', '.join(changed)} differ" if changed else "the same recipe gives another plan",
                hint="give all machines one version of Mergery and one file system, and change no model during a run",
            )
        for checkpoint in plan.checkpoints.values():
            checkpoint.prepare()
        self.plan = plan
        self.files = SharedFiles(plan, job.folder)
        self.run = Run(plan, self.files, job.options)
        self.run.shared.statistics.update(job.statistics)
        self.quiet = ExitStack()  # as long as the process: calls of `make` overlap
        self.quiet.enter_context(quiet_torch(load=needs_torch(list(plan.steps))))
        return os.uname().nodename, os.getpid()

    def make(self, numbers: list[int]) -> dict[str, str]:
        """Make some of the plan's steps. Returns the digests of their bytes, which are on the disk."""
        steps = [self.plan.steps[number] for number in numbers]
        digests = {step.name: self.run.make(step) for step in steps}
        self.files.finished(steps, digests)
        return digests


class SharedFiles:
    """Files of an output that another process has laid out."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.done: Mapping[str, str] = {}
        self._files: dict[int, int] = {}
        self._lock = threading.Lock()

    def write(self, slot: Slot, start: int, data: np.ndarray) -> None:
        """Write bytes of a tensor; `start` counts bytes from its beginning."""
        try:
            write_whole(self._file(slot.shard), data.data, slot.offset + start)
        except OSError as error:
            raise write_problem(error, self.folder) from None

    def finished(self, steps: list[Step], digests: Mapping[str, str]) -> None:
        """Bring these tensors' bytes to the disk."""
        try:
            for shard in sorted({step.slot.shard for step in steps}):
                os.fdatasync(self._file(shard))
        except OSError as error:
            raise write_problem(error, self.folder) from None

    def _file(self, shard: int) -> int:
        with self._lock:
            if shard not in self._files:
                path = self.folder / self.plan.layout.shards[shard].name
                self._files[shard] = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            return self._files[shard]
