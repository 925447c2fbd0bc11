"""The command line: a thin shell over `weft.api`."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Parameter

from weft import __version__
from weft.errors import WeftError

if TYPE_CHECKING:
    from weft.run import Options

app = App(
    name="weft",
    help="Weft weaves several trained models into one.",
    version=__version__,
    version_flags=["--version"],
    help_format="plaintext",
)

Threads = Annotated[int, Parameter(help="Worker threads; 0 takes one for each core.")]
Chunk = Annotated[str, Parameter(help="Elements that are computed at once, a multiple of 64Ki.")]
Only = Annotated[
    tuple[str, ...],
    Parameter(
        negative="",
        help="A part of the model, to try a recipe: layers.0-1, a role such as embed, or a pattern of names.",
    ),
]
Json = Annotated[bool, Parameter(negative="", help="Print JSON, one event a line, for other programs.")]


class Stopped(BaseException):
    """The user, or the system, wants the program to end."""


def _stop(number: int, frame: object) -> NoReturn:
    raise Stopped("interrupted" if number == signal.SIGINT else "terminated", 128 + number)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Mistakes of the user exit with code 2 and one clear message."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        fail(str(error))
    except WeftError as error:
        fail(str(error))
    except BrokenPipeError:
        sys.exit(1)
    except Stopped as stop:
        print(f"weft: {stop.args[0]}; run the same command again to go on", file=sys.stderr)
        sys.exit(stop.args[1])
    except OSError as error:
        fail(f"{error.filename or 'the system'}: {error.strerror or error}")


def fail(message: str) -> NoReturn:
    """Print what is wrong and exit with code 2."""
    for line in message.splitlines() or [message]:
        print(line if line.startswith("  ") else f"weft: {line}", file=sys.stderr)
    sys.exit(2)


@app.command
def merge(
    recipe: Path,
    out: Path,
    /,
    *,
    threads: Threads = 0,
    chunk: Chunk = "256Ki",
    only: Only = (),
    replace: Annotated[bool, Parameter(negative="")] = False,
    ray: str | None = None,
    json: Json = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Merge models as RECIPE says and write the model folder OUT.

    RECIPE is a Weft recipe or a mergekit file. Run the same command again after an interruption and it goes on where
    it stopped, with the same bytes in the end.

    Parameters
    ----------
    recipe
        A YAML file.
    out
        The folder to write. It must not exist, or be empty.
    replace
        Exchange what stands in OUT for the new model, once that is complete.
    ray
        The address of a Ray cluster that does the work: auto for the one that is running, local for processes of this
        machine. --threads is then of each worker.
    quiet
        Print nothing but errors.
    """
    from weft import api
    from weft.progress import reporter

    options = _options(threads, chunk)
    plan = api.plan(recipe, only=only)
    report = reporter("json" if json else "quiet" if quiet else "auto")
    report.plan(plan)
    try:
        result = api.merge(plan, out, options=options, on_event=report.event, replace=replace, ray=ray)
    finally:
        report.close()
    assert isinstance(result, api.Result)
    report.result(result)


@app.command
def plan(
    recipe: Path, out: Path | None = None, /, *, threads: Threads = 0, only: Only = (), json: Json = False
) -> None:
    """Show what merging RECIPE would do, from headers alone, without writing anything.

    Exits with code 2 and every problem at once when the recipe cannot run.

    Parameters
    ----------
    recipe
        A YAML file: a Weft recipe or a mergekit file.
    out
        The output folder, to check that it can be written.
    """
    from weft import api
    from weft.explain import explain
    from weft.progress import show_plan
    from weft.sinks import check_space, partial_folder

    planned = api.plan(recipe, only=only)
    if out is not None:
        api.check_output(planned, out)
        check_space(partial_folder(out), planned.layout)
    facts = explain(planned, _options(threads, "256Ki"))
    planned.close()
    if json:
        _print_json(facts)
    else:
        show_plan(facts)


@app.command(name="import")
def import_(config: Path, /) -> None:
    """Print the native recipe that gives what the mergekit file CONFIG gives."""
    from weft.document import write_yaml
    from weft.reading import load_recipe

    recipe = load_recipe(config)
    for note in recipe.notes:
        print(f"weft: {note}", file=sys.stderr)
    print(write_yaml(recipe.plain()).rstrip())


@app.command
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from weft.schema import recipe_schema

    _print_json(recipe_schema())


@app.command
def verify(folder: Path, /, *, sample: int = 0, json: Json = False) -> None:
    """Check a merged model against its lock. Exits with code 1 when something has changed.

    Parameters
    ----------
    folder
        A folder that `weft merge` wrote.
    sample
        Make that many tensors again from the inputs and compare their bytes.
    """
    from weft import api
    from weft.progress import reporter

    report = reporter("json" if json else "auto")
    try:
        wrong = api.verify(folder, sample=sample, on_event=report.event)
    finally:
        report.close()
    if json:
        _print_json({"event": "verified", "sound": not wrong, "wrong": wrong})
    elif wrong:
        print("\n".join(f"weft: {line}" for line in wrong), file=sys.stderr)
    else:
        again = f"; {sample} tensors made again came out the same" if sample else ""
        print(f"{folder} is what its lock says{again}")
    if wrong:
        sys.exit(1)


def _options(threads: int, chunk: str) -> Options:
    from weft.errors import RecipeError
    from weft.kernels import BLOCK
    from weft.run import Options

    if threads < 0:
        raise RecipeError(f"--threads is {threads}", why="it must be 0 or more")
    text = chunk.removesuffix("Ki").removesuffix("Mi")
    scale = 1024 if chunk.endswith("Ki") else 1024**2 if chunk.endswith("Mi") else 1
    size = int(text) * scale if text.isdigit() else 0
    if size < BLOCK or size % BLOCK:
        raise RecipeError(
            f"--chunk is {chunk!r}", why=f"it must be a multiple of {BLOCK // 1024}Ki", hint="--chunk 256Ki"
        )
    return Options(threads, size)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, default=str))
