"""How far the work is: a bar on a terminal, lines of text elsewhere, or nothing."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Self

from mergery.report.telling import Share, logger, sentences, share
from mergery.report.words import duration
from mergery.run import events
from mergery.run.events import Event

INTERVAL = 5.0  # seconds between lines where there is no terminal
SETTLED = 1.0  # seconds after which a rate means something


class Reporter:
    """Says nothing. The other reporters say more."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """No more events will come."""


class LogReporter(Reporter):
    """All that is logged, on standard error with the time of day; what happens inside as well."""

    def __init__(self) -> None:
        self.handler = logging.StreamHandler(sys.stderr)
        self.handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
        self.level = logger.level

    def __enter__(self) -> Self:
        logger.addHandler(self.handler)
        logger.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        logger.removeHandler(self.handler)
        logger.setLevel(self.level)


class PlainReporter(Reporter):
    """Lines of text on standard error; how far the work is, now and then."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.compiling = False
        self.began: dict[str, tuple[float, int]] = {}  # by what goes on: when it was first heard of, and how far it was
        self.shown: dict[str, int] = {}  # and how far it was last

    def event(self, event: Event) -> None:
        for text in sentences(event):
            self.say(text)
        if isinstance(event, events.Compiling) and not self.compiling:
            self.compiling = True
            self.say("compiling what merges, for this processor; the next run will not have to")
        if found := share(event):
            self.advance(found)

    def say(self, text: str) -> None:
        """Say what happens once."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - it is for a terminal

    def advance(self, share: Share) -> None:
        """Say how far something is."""
        now = time.monotonic()
        if share.done < self.shown.get(share.what, 0):  # it has begun anew, such as another sweep
            del self.began[share.what]
        self.shown[share.what] = share.done
        began, first = self.began.setdefault(share.what, (now, share.done))
        if now - self.last >= INTERVAL:
            self.last = now
            self.say(progress_line(share, now - began, share.done - first))


def progress_line(share: Share, seconds: float, done: int) -> str:
    """`merging: 734.0 MB of 861.0 MB (85 %), 92.0 MB/s, 2 s left`, of so much that was done in so many seconds."""
    text = f"{share.what}: {share.amount(share.done)} of {share.amount(share.total)}"
    if share.total:
        text += f" ({100 * share.done // share.total} %)"
    if seconds >= SETTLED and done:
        left = (share.total - share.done) * seconds / done
        text += f", {share.amount(done / seconds)}/s, {duration(left)} left"
    return text


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

    def advance(self, share: Share) -> None:
        if self.bars is None:
            from rich import progress

            bytewise = (progress.DownloadColumn(), progress.TransferSpeedColumn())
            self.bars = progress.Progress(
                progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
                *(bytewise if share.bytes else (progress.MofNCompleteColumn(),)), progress.TimeRemainingColumn(),
                console=self.console, transient=True,
            )  # fmt: skip
            self.bars.start()
        if share.what not in self.rows:
            self.rows[share.what] = self.bars.add_task(share.what, total=share.total)
        self.bars.update(self.rows[share.what], completed=share.done, total=share.total)

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()
