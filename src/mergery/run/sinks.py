"""Where a run's bytes go: files laid out beforehand, or memory."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergery.dtypes import DType
from mergery.errors import PlanError
from mergery.kernels.devices import CPU
from mergery.planning.layout import Shard, Slot
from mergery.planning.plan import Plan
from mergery.planning.steps import Step
from mergery.run.journal import RESTART, Journal
from mergery.run.output import check_space, partial_folder

if TYPE_CHECKING:
    from torch import Tensor


class FolderSink:
    """Writes a model folder under a temporary name; finished bytes are synced and journalled in the background."""

    def __init__(self, plan: Plan, out: Path, device: str = CPU.kind, *, restart: bool = False) -> None:
        self.plan, self.out, self.device = plan, out, device
        self.partial = partial_folder(out)
        self.made = missing_folders(out.parent)
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            self.journal = Journal(self.partial, plan.digest, restart=restart)
        except OSError as error:
            remove_empty(self.partial, *self.made)
            raise write_problem(error, self.partial) from None
        self.files: list[int] = []
        self._pending: list[tuple[Step, str]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._failure: BaseException | None = None
        self._refuse_changed_inputs()
        self._refuse_another_device()
        try:
            check_space(self.partial, plan.layout)
            for shard in plan.layout.shards:
                self.files.append(lay_file(self.partial / shard.name, shard))
        except BaseException:
            self.abandon()
            raise
        self._thread = threading.Thread(target=self._sync_loop, name="mergery-sync", daemon=True)
        self._thread.start()

    def _refuse_changed_inputs(self) -> None:
        """An unfinished run must go on with the very files that it began with."""
        stamps = json.loads(json.dumps(self.plan.stamps))
        if self.journal.made_nothing:
            try:
                self._start_clean()
                self.journal.remember(inputs=stamps, device=self.device)
            except OSError as error:
                self.abandon()
                raise write_problem(error, self.partial) from None
            return
        before = self.journal.facts.setdefault("inputs", stamps)
        if before != stamps:
            self.journal.close()
            changed = [name for name in stamps if before.get(name) != stamps[name]]
            raise PlanError(
                f"{', '.join(changed)} changed since the unfinished run in {str(self.partial)!r} began",
                hint=RESTART,
            )

    def _start_clean(self) -> None:
        """Nothing is made yet: what an earlier run has laid out, perhaps for another plan, is removed."""
        self.journal.facts.clear()
        for path in self.partial.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != self.journal.path:
                path.unlink()

    def _refuse_another_device(self) -> None:
        """A tensor may differ by one rounding between kinds of devices, and a folder should be of one piece."""
        before = self.journal.facts.get("device", self.device)
        if before != self.device and self.journal.done:
            self.journal.close()
            raise PlanError(
                f"the unfinished run in {str(self.partial)!r} computed on {before}, and this one would on {self.device}",
                why="the two may differ by one rounding, so that the result would be neither's",
                hint=f"say --device {before} to finish it, or --restart to begin anew",
            )

    @property
    def done(self) -> Mapping[str, str]:
        """BLAKE3 digest of the tensors that are finished, by this run or an earlier one."""
        return self.journal.done

    @property
    def digests(self) -> Mapping[str, str]:
        """BLAKE3 digest of every tensor of the files, when all are finished."""
        return {step.name: self.done[step.name] for step in self.plan.steps}

    def shards_of(self, step: Step) -> set[int]:
        """The files in which bytes of a step lie."""
        return {step.slot.shard}

    def write(self, slot: Slot, start: int, data: np.ndarray) -> None:
        """Write bytes of a tensor; `start` counts bytes from its beginning."""
        try:
            write_whole(self.files[slot.shard], data.data, slot.offset + start)
        except OSError as error:
            raise write_problem(error, self.partial) from None

    def finished(self, steps: list[Step], digests: Mapping[str, str]) -> None:
        """These tensors' bytes have all been written."""
        with self._wake:
            if self._failure:
                raise self._failure
            self._pending += [(step, digests[step.name]) for step in steps]
            self._wake.notify()

    def _sync_loop(self) -> None:
        while True:
            with self._wake:
                while not self._pending and not self._closing:
                    self._wake.wait()
                batch, self._pending = self._pending, []
                if not batch:
                    return
            try:
                for shard in sorted({shard for step, _ in batch for shard in self.shards_of(step)}):
                    os.fdatasync(self.files[shard])
                self.journal.finished({step.name: digest for step, digest in batch})
            except BaseException as error:  # the thread ends here, and whoever waits for it has to know why
                with self._wake:
                    self._failure = write_problem(error, self.partial) if isinstance(error, OSError) else error
                return

    def drain(self) -> None:
        """Wait until all that was finished is on the disk and in the journal."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        if self._failure:
            raise self._failure

    def complete(self, texts: dict[str, bytes], *, replace: bool = False) -> None:
        """Write the small files, sync everything and give the folder its name."""
        self.drain()
        try:
            self._complete(texts, replace=replace)
        except OSError as error:
            raise write_problem(error, self.partial) from None

    def _complete(self, texts: dict[str, bytes], *, replace: bool) -> None:
        texts = {**texts, **self.plan.layout.index()}
        for name, content in texts.items():
            path = self.partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        written = (*texts, *(shard.name for shard in self.plan.layout.shards))
        for folder in {(self.partial / name).parent for name in written} - {self.partial}:
            _sync_folder(folder)
        for fd in self.files:
            os.fsync(fd)
        while self.files:
            os.close(self.files.pop())
        self.journal.path.unlink()
        for stray in self.partial.glob(".*.tmp"):
            stray.unlink()
        _sync_folder(self.partial)
        old = None
        if self.out.exists():
            if any(self.out.iterdir()):
                assert replace
                old = unused(self.out.with_name(self.out.name + ".replaced"))
                os.rename(self.out, old)
            else:
                self.out.rmdir()
        os.rename(self.partial, self.out)
        _sync_folder(self.out.parent)
        self.journal.close()
        if old is not None:
            shutil.rmtree(old)

    def abandon(self) -> None:
        """Stop, keeping what is finished for the next run; a folder in which nothing is finished is removed."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if getattr(self, "_thread", None) is not None and self._thread is not threading.current_thread():
            self._thread.join()
        for fd in self.files:
            os.close(fd)
        self.files = []
        if self.journal.made_nothing:
            shutil.rmtree(self.partial, ignore_errors=True)
            remove_empty(*self.made)
        self.journal.close()


class MemorySink:
    """Keeps the result as tensors, for a merge that is never written to disk."""

    def __init__(self, plan: Plan) -> None:
        self.buffers = {step.name: np.empty(step.slot.info.nbytes, dtype=np.uint8) for step in plan.steps}
        self.infos = {step.name: step.slot.info for step in plan.steps}
        self.done: dict[str, str] = {}

    def write(self, slot: Slot, start: int, data: np.ndarray) -> None:
        self.buffers[slot.info.name][start : start + data.size] = data

    def memory(self, slot: Slot) -> tuple[np.ndarray, DType]:
        """See `mergery.run.workers.Run.memory`."""
        return self.buffers[slot.info.name], slot.info.dtype

    def finished(self, steps: list[Step], digests: Mapping[str, str]) -> None:
        self.done.update(digests)

    def tensors(self) -> dict[str, Tensor]:
        """The merged tensors by name, in the donor's order."""
        import torch

        result: dict[str, Any] = {}
        for name, info in self.infos.items():
            result[name] = (
                torch.from_numpy(self.buffers[name]).view(getattr(torch, info.dtype.torch)).reshape(info.shape)
            )
        return result


def write_whole(file: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of it, however little the system takes at once. Raises OSError, also where it takes nothing."""
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, offset)
        if not count:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        view, offset = view[count:], offset + count


def write_problem(error: OSError, folder: Path, *, kept: bool = True) -> PlanError:
    """An error of the file system in the user's words. `kept` says that what is finished is kept for the next run."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    first = "free some space" if full else "see to it that it can be written"
    return PlanError(
        "the disk is full" if full else f"cannot write in {str(folder)!r}",
        why=error.strerror or str(error),
        hint=f"{first} and run the same command again{'; what is finished is kept' if kept else ''}",
    )


def missing_folders(folder: Path) -> list[Path]:
    """The folders that have to be made for this one, the innermost first."""
    missing: list[Path] = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing


def remove_empty(*folders: Path) -> None:
    """Remove folders in this order, up to the first that holds anything."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def unused(path: Path) -> Path:
    """The path, or the first with a number behind it that nothing has."""
    return next(each for number in itertools.count() if not (each := numbered(path, number)).exists())


def numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}-{number}") if number else path


def lay_file(path: Path, shard: Shard, *, kept: bool = True) -> int:
    """Open a file of weights that has its header and its full size; an earlier run's bytes are kept. Returns its number.

    For `kept` see `write_problem`.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            if os.fstat(fd).st_size != shard.size:
                os.ftruncate(fd, shard.size)
                try:
                    os.posix_fallocate(fd, 0, shard.size)
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                        raise
            if os.pread(fd, len(shard.header), 0) != shard.header:
                write_whole(fd, shard.header, 0)
        except BaseException:
            os.close(fd)
            raise
        return fd
    except OSError as error:
        raise write_problem(error, path.parent, kept=kept) from None


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
