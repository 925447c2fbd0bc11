"""How a command tells what happens: a bar on a terminal, lines of text elsewhere, JSON for programs, or nothing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from mergery.errors import size
from mergery.run import events
from mergery.run.events import Event

INTERVAL = 5.0  # seconds between lines where there is no terminal


class Reporter:
    """Says nothing. The other reporters say more."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        """No more events will come."""


class JsonReporter(Reporter):
    """One JSON object a line on standard output."""

    def event(self, event: Event) -> None:
        print(json.dumps(event.plain(), default=str) + "\n", end="", flush=True)  # in one piece, whichever thread tells


class PlainReporter(Reporter):
    """Lines of text on standard error; how far the work is, now and then."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.compiling = False

    def event(self, event: Event) -> None:
        match event:
            case events.Planned():
                facts = f"{event.tensors} tensors, {size(event.bytes_in)} in, {size(event.bytes_out)} out"
                self.say(f"{event.what}: {facts}")
                for note in event.notes:
                    self.say(note)
                for warning in event.warnings:
                    self.say(f"warning: {warning}")
            case events.Started(resumed=resumed) if resumed:
                self.say(f"going on: {resumed} of {event.tensors} tensors are done")
            case events.Compiling() if not self.compiling:
                self.compiling = True
                self.say("compiling what merges, for this processor; the next run will not have to")
            case events.Downloading():
                self.advance(f"downloading {event.model}", event.bytes, event.total, size)
            case events.Progress():
                self.advance(event.doing, event.bytes, event.total, size)
            case events.Finished(already=True):
                self.say(f"{event.folder} is already there, made by the same plan")
            case events.Finished():
                self.say(f"wrote {event.folder} in {event.seconds:.1f} s")
            case events.Loading():
                self.say(f"loading {event.model}")
            case events.Asked():
                if 0 < event.resumed < event.items:
                    self.say(f"{event.task}: going on: {event.resumed} of {event.items} items are done")
                self.advance(event.task, event.resumed, event.items, str)
            case events.Answered():
                self.advance(event.task, event.items, event.total, str)
            case events.Scored(cut=cut) if cut:
                self.say(f"{event.task}: {cut} items are longer than the model takes at once, and were cut")

    def say(self, text: str) -> None:
        """Say what happens once."""
        print(text, file=sys.stderr, flush=True)

    def advance(self, what: str, done: int, total: int, told: Callable[[int], str]) -> None:
        """Say how far something is, in bytes (`told` is `size`) or in items."""
        if time.monotonic() - self.last >= INTERVAL:
            self.last = time.monotonic()
            self.say(f"{what}: {told(done)} of {told(total)}")


class BarReporter(PlainReporter):
    """Lines of text, and a bar for each thing that goes on."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self.console = Console(stderr=True)
        self.bars: Any = None
        self.rows: dict[str, Any] = {}

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def advance(self, what: str, done: int, total: int, told: Callable[[int], str]) -> None:
        if self.bars is None:
            from rich import progress

            bytewise = (progress.DownloadColumn(), progress.TransferSpeedColumn())
            self.bars = progress.Progress(
                progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
                *(bytewise if told is size else (progress.MofNCompleteColumn(),)), progress.TimeRemainingColumn(),
                console=self.console, transient=True,
            )  # fmt: skip
            self.bars.start()
        if what not in self.rows:
            self.rows[what] = self.bars.add_task(what, total=total)
        self.bars.update(self.rows[what], completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()


def reporter(*, json: bool, quiet: bool = False) -> Reporter:
    """The reporter that suits where the output goes."""
    if json:
        return JsonReporter()
    if quiet:
        return Reporter()
    return BarReporter() if sys.stderr.isatty() else PlainReporter()
