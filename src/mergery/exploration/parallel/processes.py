"""Workers that are processes of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from mergery.errors import MergeryError
from mergery.exploration.parallel.team import Gone
from mergery.exploration.parallel.work import Opening

CALL = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve({file})"
LAST = 10.0  # seconds that a worker has to end by itself


class Process:
    """A process that scores candidates, and the line to it."""

    def __init__(self, setup: Opening, device: str) -> None:
        ours, theirs = socket.socketpair()
        call = CALL.format(path=sys.path, module=__name__, file=theirs.fileno())
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", call], pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=2,
                start_new_session=True,
            )  # fmt: skip
        self.line = Connection(ours.detach())
        self.line.send((setup, device))

    def __str__(self) -> str:
        return f"process {self.process.pid} on {os.uname().nodename}"

    def end(self) -> None:
        """Let it end; it does so as well where this process is gone."""
        self.line.close()
        try:
            self.process.wait(LAST)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Processes:
    """Processes of this machine, on devices in turn. See `team.Crew`."""

    def __init__(self, setup: Opening, size: int, devices: Sequence[str]) -> None:
        self.setup, self.size, self.devices = setup, size, devices
        self.workers: list[Process] = []

    def hire(self, place: int) -> Process:
        worker = Process(self.setup, self.devices[place % len(self.devices)])
        self.workers.append(worker)
        return worker

    def give(self, worker: Process, job: Any) -> None:
        with suppress(OSError):  # that it is gone is seen where its answer is waited for
            worker.line.send(job)

    def wait(self, busy: Sequence[Process]) -> list[tuple[Process, Any]]:
        ready = wait([worker.line for worker in busy])
        news: list[tuple[Process, Any]] = []
        for worker in busy:
            if worker.line not in ready:
                continue
            try:
                answer = worker.line.recv()
            except (EOFError, OSError):
                news.append((worker, self._gone(worker)))
                continue
            if isinstance(answer, BaseException):
                raise answer
            news.append((worker, answer))
        return news

    def _gone(self, worker: Process) -> Gone:
        self.workers.remove(worker)
        worker.end()
        code = worker.process.returncode
        reason = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with code {code}"
        return Gone(str(worker), reason)

    def close(self) -> None:
        """End all of them."""
        for worker in self.workers:
            with suppress(OSError):
                worker.process.terminate()
        for worker in self.workers:
            worker.end()


@contextmanager
def processes(setup: Opening, size: int, devices: Sequence[str]) -> Iterator[Processes]:
    """Processes that end with the block."""
    crew = Processes(setup, size, devices)
    try:
        yield crew
    finally:
        crew.close()


def serve(file: int) -> None:
    """What such a process does: answer until the line is closed."""
    line: Any = Connection(file)
    worker: Any = None
    try:
        setup, device = line.recv()
        while True:
            job = line.recv()
            try:
                worker = worker or setup.open(device)
                answer: Any = worker.answer(job)
            except MergeryError as error:
                answer = error
            except Exception:  # whatever a model makes of its input
                answer = RuntimeError(f"a worker failed:\n{traceback.format_exc()}")
            line.send(answer)
    except (EOFError, OSError):
        return
