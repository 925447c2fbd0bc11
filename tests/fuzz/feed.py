"""Feeds one hostile input to Mergery and watches what happens: the error, the time, the memory and every file touched."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from mergery.errors import MergeryError, Problems
from tests.fuzz.feeds import FEEDS, ON_DISK, RECIPES, WRITTEN, sound
from tests.fuzz.inputs import Case
from tests.fuzz.weights import safetensors

SECONDS = 1.0  # of processor time, for one input
MEMORY = 96 << 10  # KiB by which one input may raise the largest size that the process ever had
TEXT = 1 << 20  # characters of one message
CODE = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn",
    "socket.connect", "socket.bind", "pickle.find_class", "ctypes.dlopen", "code.__new__", "webbrowser.open",
)  # fmt: skip
CHANGES = (
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
)


class SlowError(BaseException):
    """One input took too long."""


@dataclass
class Outcome:
    """What became of one input."""

    accepted: bool = False
    message: str = ""
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Watch:
    """Records, for as long as it is open, what an input may not do. There is one for each process."""

    def __init__(self) -> None:
        self.open = False
        self.allowed: tuple[str, ...] = ()
        self.faults: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.open:
            return
        if event in CODE:
            self.faults.append(f"it ran {event}{arguments!r:.200}")
        elif event == "open":
            path, mode, flags = arguments
            writes = (
                bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)) if flags is not None else mode != "r"
            )
            if isinstance(path, (str, bytes)) and (writes or "secret" in os.fsdecode(path)):
                self._check(os.fsdecode(path), "opened")
        elif event in CHANGES:
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                if isinstance(path, (str, bytes, os.PathLike)):
                    self._check(os.path.join(_folder(event, arguments), os.fsdecode(path)), event)

    def _check(self, path: str, what: str) -> None:
        real = os.path.abspath(path)  # noqa: PTH100 - links are not followed
        if not any(real == place or real.startswith(place + "/") for place in self.allowed):
            self.faults.append(f"{what} {path!r}")

    @contextmanager
    def on(self, *allowed: str) -> Iterator[None]:
        self.allowed, self.faults, self.open = allowed, [], True
        try:
            yield
        finally:
            self.open = False


class Feeder:
    """Feeds inputs, one after the other, in a folder of its own (in memory where there is /dev/shm)."""

    def __init__(self, room: Path, seconds: float = SECONDS) -> None:
        self.room, self.seconds = room, seconds
        (room / "secret.safetensors").write_bytes(safetensors(b"{}", b""))
        for name in ("base", "a", "b"):
            _write(room, {f"{name}/{file}": content for file, content in sound().items()})
        self.watch = Watch()
        signal.signal(signal.SIGPROF, _too_slow)
        self.warm_up()

    def warm_up(self) -> None:
        """Load what is loaded once."""
        import torch  # noqa: F401

        from mergery import api

        (self.room / "warm.yaml").write_text("models: {a: ./a, b: ./b}\nmerge: {method: linear}\n")
        for recipe in (self.room / "warm.yaml", {"models": {"a": "org/name"}, "merge": {"method": "passthrough"}}):
            try:
                api.merge(recipe, self.room / "warm")
            except MergeryError:
                continue
        shutil.rmtree(self.room / "warm")

    def feed(self, case: Case) -> Outcome:
        """One input. `faults` is empty where it did no harm. Where it was slow, it is fed again: the machine may have been."""
        outcome = self.feed_once(case)
        for _ in range(2):
            if outcome.seconds > self.seconds and "it would not end" not in outcome.faults:
                outcome = self.feed_once(case)
        return outcome

    def feed_once(self, case: Case) -> Outcome:
        outcome = Outcome()
        case = self.prepare(case)
        before = snapshot(self.room / "case") if case.kind in ON_DISK else {}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        allowed = [
            str(self.room / "case/out"),
            str(self.room / "case/out.partial"),
            str(self.room / "case/out.replaced"),
        ]
        if case.kind in RECIPES:  # a recipe is its user's own, and may name any file
            allowed.append(str(self.room / "secret.safetensors"))
        signal.setitimer(signal.ITIMER_PROF, 3 * self.seconds)
        try:
            with self.watch.on(*allowed):
                FEEDS[case.kind](case, self.room)
            outcome.accepted = True
        except MergeryError as error:
            outcome.message = str(error)
            if not outcome.message.strip() or any(not each.what.strip() for each in _each(error)):
                outcome.faults.append("an error without text")
            if len(outcome.message) > TEXT:
                outcome.faults.append(f"a message of {len(outcome.message):,} characters")
        except SlowError:
            outcome.faults.append("it would not end")
        except (Exception, RecursionError, MemoryError) as error:
            outcome.faults.append(f"{type(error).__name__}: {str(error)[:200]} {_place(error)}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        outcome.seconds = time.process_time() - started
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        outcome.faults += self.watch.faults
        if outcome.seconds > self.seconds:
            outcome.faults.append(f"it took {outcome.seconds:.1f} s")
        if grown > MEMORY:
            outcome.faults.append(f"it took {grown >> 10} MiB of memory")
        if case.kind in ON_DISK:
            after = snapshot(self.room / "case")
            changed = [name for name in {*before, *after} if before.get(name) != after.get(name)]
            outcome.faults += [f"{name!r} changed" for name in changed]
            shutil.rmtree(self.room / "case", ignore_errors=True)
        return outcome

    def prepare(self, case: Case) -> Case:
        """Write the files of a case that needs a disk."""
        if case.kind in WRITTEN:
            _write(self.room, case.files)
        if case.kind not in ON_DISK:
            return case
        place = self.room / "case"
        place.mkdir()
        case = Case(case.kind, dict(case.files))
        if case.kind == "merged":
            from mergery.planning.plan import make_plan

            _write(place, {name: data for name, data in case.files.items() if not name.startswith("out.")})
            plan = make_plan(place / "recipe.yaml")
            plan.close()
            name = "out.partial/journal.jsonl"
            if name in case.files:
                case.files[name] = case.files[name].replace(b"DIGEST", plan.digest.encode())
        _write(place, case.files)
        return case


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files of a case that are not of its output."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in ("out", "out.partial")
    }


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _folder(event: str, arguments: tuple[Any, ...]) -> str:
    """The folder by whose number a name is meant, as `shutil.rmtree` says it; empty for the one that the process is in."""
    number = arguments[1] if event in ("os.remove", "os.rmdir") and len(arguments) > 1 else -1
    return str(Path(f"/proc/self/fd/{number}").readlink()) if isinstance(number, int) and number >= 0 else ""


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise SlowError


def _each(error: MergeryError) -> tuple[MergeryError, ...]:
    return error.errors if isinstance(error, Problems) else (error,)


def _place(error: BaseException) -> str:
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "/mergery/" in file:
            place = f"({file.partition('/mergery/')[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place
