"""What a notebook shows while a merge or an evaluation runs: lines, and a bar for each thing that goes on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from mergery.report.progress import Reporter, progress_line
from mergery.report.telling import Share, logged, sentences, share
from mergery.run.events import Event, Notify, ignore

INTERVAL = 0.2  # seconds between two showings of progress


@contextmanager
def listening(on_event: Notify | None) -> Iterator[Notify]:
    """Who listens while something is done: the caller's listener; None is a bar in a notebook, and nobody elsewhere.

    Python's logging listens as well.
    """
    if on_event is not None or not in_notebook():
        yield logged(on_event or ignore)
        return
    with NotebookReporter() as reporter:
        yield logged(reporter.event)


def in_notebook() -> bool:
    """Whether Python runs behind a notebook. Nothing is loaded to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookReporter(Reporter):
    """One output of a cell that is written again as things go on. Events may come from several threads."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bars: dict[str, tuple[Share, float, int]] = {}  # by what goes on: how far, since when, from where
        self.shown = 0.0
        self.handle: Any = None
        self.lock = threading.Lock()

    def event(self, event: Event) -> None:
        with self.lock:
            told, found, now = sentences(event), share(event), time.monotonic()
            self.lines += told
            if found:
                _, began, first = self.bars.get(found.what, (found, now, found.done))
                self.bars[found.what] = (found, began, first)
            if told or (found and now - self.shown >= INTERVAL):
                self.shown = now
                self.show()

    def __exit__(self, *_: object) -> None:
        self.bars.clear()
        if self.handle is not None:
            self.show()

    def show(self) -> None:
        """Write the output of the cell."""
        from IPython.display import display  # pyright: ignore[reportMissingImports] - a notebook has it

        now = time.monotonic()
        bars = [
            (each, progress_line(each, now - began, each.done - first)) for each, began, first in self.bars.values()
        ]
        lines = [f"<div>{escape(line)}</div>" for line in self.lines]
        lines += [
            f'<div><progress value="{each.done}" max="{max(each.total, 1)}"></progress> {escape(text)}</div>'
            for each, text in bars
        ]
        bundle = {"text/html": "".join(lines), "text/plain": "\n".join([*self.lines, *(text for _, text in bars)])}
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)
