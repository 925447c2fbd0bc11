"""The command line: a thin shell over `mergery.api`. Each command is a file of its own, loaded when it is wanted."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from cyclopts import App, CycloptsError, Parameter

from mergery.cli.common import FINDING, HELP, MACHINE, MEASURING, MERGING, OPTIONS, RECIPES
from mergery.cli.examples import DOCS, EXAMPLES, OPTIONAL, epilogue
from mergery.errors import MergeryError
from mergery.version import __version__


def shown_default(value: Any) -> str | None:
    """A default in the help; nothing where it means that nothing is said."""
    return None if value is None or value is False or value in ((), "") else str(value)


app = App(
    name="mergery",
    help="Mergery merges several trained models into one.",
    help_epilogue=f"`mergery` alone says what can be done here. Documentation: {DOCS}/index.md",
    version=f"mergery {__version__}",
    version_flags=["--version", "-V"],
    help_format="plaintext",
    default_parameter=Parameter(negative=(), show_default=shown_default),
    group_parameters=OPTIONS,
    group_commands=HELP,
)
COMMANDS = {
    MERGING: {
        "merge": "merge:merge",
        "plan": "plan:plan",
        "methods": "methods:methods",
        "inspect": "inspect:inspect",
        "diagnose": "diagnose:diagnose",
        "verify": "verify:verify",
        "push": "push:push",
        "export": "export:app",
        "pack": "pack:pack",
        "rebase": "rebase:rebase",
        "transport": "transport:transport",
        "fuse": "fuse:fuse",
        "align": "align:align",
        "vocabulary": "vocabulary:app",
        "adapter": "adapter:app",
    },
    FINDING: {
        "auto": "auto:auto",
        "search": "search:search",
        "soup": "soup:soup",
        "flow": "flow:flow",
        "learn": "learn:learn",
    },
    MEASURING: {
        "evaluate": "evaluate:evaluate",
        "compare": "compare:compare",
        "calibrate": "calibrate:calibrate",
        "anchors": "anchors:app",
        "refine": "anchors:refine",
    },
    RECIPES: {"import": "import_:import_", "schema": "schema:schema"},
    MACHINE: {"doctor": "doctor:doctor", "completion": "completion:completion"},
}
"""All commands by what they are for: the file and the function of each."""

for group, members in COMMANDS.items():
    for place, (name, home) in enumerate(members.items()):
        told: dict[str, Any] = (
            {"group": group, "sort_key": place, "help_epilogue": epilogue(name)}
            if name in EXAMPLES and not home.endswith(":app")
            else {}
        )
        if name in OPTIONAL:
            told["usage"] = f"Usage: mergery {name} {OPTIONAL[name]} [OPTIONS]"
        app.command(f"mergery.cli.{home}", name=name, **told)


class Stopped(BaseException):
    """The user, or the system, wants the program to end."""


def _stop(number: int, frame: object) -> NoReturn:
    raise Stopped("interrupted" if number == signal.SIGINT else "terminated", 128 + number)


def run() -> None:
    """The program: `main`, without looking for garbage while all is loaded, and once more at the end."""
    gc.set_threshold(300_000)
    open_streams()
    try:
        main()
    finally:
        gc.freeze()


def open_streams() -> None:
    """See to it that anything can be printed: to a stream that is closed, and text that the terminal's encoding has not."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the program
        elif stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Mistakes of the user exit with code 2 and one clear message."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] in (["--help"], ["-h"], ["help"]):
        words = [*words[1:], "--help"] if words[0] == "help" else words
        load_all()  # the list of commands says what each does
    try:
        if not words:
            from mergery.cli.next_steps import next_steps

            return next_steps()
        app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        from mergery.cli.usage import usage_error

        fail(usage_error(error, app), words)
    except MergeryError as error:
        fail(error, words)
    except BrokenPipeError:
        sys.exit(1)
    except Stopped as stop:
        hint = "run the same command again to go on"
        print(f"mergery: {stop.args[0]}; {hint}", file=sys.stderr)
        tell_program([{"what": stop.args[0], "try": hint}], words)
        sys.exit(stop.args[1])
    except OSError as error:
        what = f"{error.filename or 'the system'}: {error.strerror or error}"
        fail(MergeryError(what, hint="mend that, and run the same command again"), words)


def load_all() -> None:
    """Load every command."""
    for name in app:
        app[name]


def fail(error: MergeryError, words: list[str]) -> NoReturn:
    """Say what is wrong, on the standard error and, with --json, on the standard output, and exit with code 2."""
    message = str(error)
    for line in message.splitlines() or [message]:
        print(line if line.startswith("  ") else f"mergery: {line}", file=sys.stderr)
    tell_program(error.plain(), words)
    sys.exit(2)


def tell_program(problems: list[dict[str, Any]], words: list[str]) -> None:
    """What went wrong as one line of JSON, where the user has asked for JSON."""
    if "--json" in words:
        from mergery.run.events import Failed

        print(json.dumps(Failed(problems).plain()), flush=True)
