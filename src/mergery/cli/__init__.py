"""The command line: a thin shell over `mergery.api`. Each command is a file of its own, loaded when it is wanted."""

from __future__ import annotations

import gc
import signal
import sys
from typing import NoReturn

from cyclopts import App, CycloptsError

from mergery.errors import MergeryError
from mergery.version import __version__

app = App(
    name="mergery",
    help="Mergery merges several trained models into one.",
    version=__version__,
    version_flags=["--version"],
    help_format="plaintext",
)
for name, command, summary in (
    ("merge", "merge:merge", "Merge models as a recipe says, and write the model folder."),
    ("plan", "plan:plan", "Show what a merge would do, from headers alone."),
    ("methods", "methods:methods", "List the merging methods, or describe one."),
    ("pack", "pack:pack", "Keep the models that a method serves by task, in less space than each on its own."),
    ("inspect", "inspect:inspect", "Show what a model is, and what may be merged with it."),
    ("verify", "verify:verify", "Check a merged model against its lock."),
    ("evaluate", "evaluate:evaluate", "Score a model on tasks."),
    ("compare", "compare:compare", "Compare models on the same tasks, and say what is noise."),
    ("import", "import_:import_", "Print the native recipe that gives what a mergekit file gives."),
    ("schema", "schema:schema", "Print the JSON schema of recipes, for editors."),
    ("vocabulary", "vocabulary:app", "Give a model another tokenizer."),
):
    app.command(f"mergery.cli.{command}", name=name, help=summary)


class Stopped(BaseException):
    """The user, or the system, wants the program to end."""


def _stop(number: int, frame: object) -> NoReturn:
    raise Stopped("interrupted" if number == signal.SIGINT else "terminated", 128 + number)


def run() -> None:
    """The program: `main`, without looking for garbage while all is loaded, and once more at the end."""
    gc.set_threshold(300_000)
    try:
        main()
    finally:
        gc.freeze()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Mistakes of the user exit with code 2 and one clear message."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        fail(str(error))
    except MergeryError as error:
        fail(str(error))
    except BrokenPipeError:
        sys.exit(1)
    except Stopped as stop:
        print(f"mergery: {stop.args[0]}; run the same command again to go on", file=sys.stderr)
        sys.exit(stop.args[1])
    except OSError as error:
        fail(f"{error.filename or 'the system'}: {error.strerror or error}")


def fail(message: str) -> NoReturn:
    """Print what is wrong and exit with code 2."""
    for line in message.splitlines() or [message]:
        print(line if line.startswith("  ") else f"mergery: {line}", file=sys.stderr)
    sys.exit(2)
