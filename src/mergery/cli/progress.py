"""How a command tells what happens: to a person, to a program, or not at all."""

from __future__ import annotations

import json
import sys

from mergery.report.progress import BarReporter, LogReporter, PlainReporter, Reporter
from mergery.run.events import Event


class JsonReporter(Reporter):
    """One JSON object a line on standard output."""

    def event(self, event: Event) -> None:
        print(json.dumps(event.plain(), default=str) + "\n", end="", flush=True)  # in one piece, whichever thread tells


class Both(Reporter):
    """Two reporters, side by side."""

    def __init__(self, one: Reporter, other: Reporter) -> None:
        self.one, self.other = one, other

    def event(self, event: Event) -> None:
        self.one.event(event)
        self.other.event(event)

    def __enter__(self) -> Both:
        self.one.__enter__()
        self.other.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.other.__exit__(*error)
        self.one.__exit__(*error)


def reporter(*, json: bool, quiet: bool = False, verbose: bool = False) -> Reporter:
    """The reporter that suits what the user wants and where the output goes."""
    if json:
        return Both(JsonReporter(), LogReporter()) if verbose else JsonReporter()
    if verbose:
        return LogReporter()
    if quiet:
        return Reporter()
    return BarReporter() if sys.stderr.isatty() else PlainReporter()
