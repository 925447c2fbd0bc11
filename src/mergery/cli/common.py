"""Parameters and printing that several commands share."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TextIO, TypeVar, cast

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mergery.recipe import Recipe
    from mergery.report.progress import Reporter
    from mergery.run.workers import Options

MERGING, FINDING, MEASURING, RECIPES, MACHINE = (
    Group(title, sort_key=place)
    for place, title in enumerate(("Merging", "Finding a merge", "Measuring", "Recipes", "This machine"))
)
OPTIONS, HELP = Group("Options"), Group("Help", sort_key=9)
COMMANDS = Group("Commands")  # of a command that has some

Threads = Annotated[int, Parameter(help="Worker threads; 0 takes one for each core.")]
DeviceName = Annotated[
    str,
    Parameter(
        name="device", help="Where to compute: cpu, cuda (all GPUs), cuda:0, or auto (GPUs where there are any)."
    ),
]
CHUNK = "512Ki"  # as in `mergery.engine`, which this must not load
Chunk = Annotated[str, Parameter(help="Elements that are computed at once, a multiple of 64Ki.")]
Only = Annotated[
    tuple[str, ...],
    Parameter(
        help="A part of the model, to try a recipe: layers.0-1, a role such as embed, or a pattern of names. It may be given "
        "several times. The folder is a fragment, whose layers are counted from 0.",
    ),
]


def method_names(context: Any) -> list[str]:
    """The names of all methods, for a shell that completes them."""
    from mergery.method import methods

    return list(methods())


MethodName = Annotated[str, Parameter(completer=method_names)]


def no_option(kind: Any, value: Path) -> None:
    """A recipe may be called `-`, standard input; what else begins so is an option that is not known."""
    if str(value).startswith("-") and str(value) != "-":
        raise ValueError(str(value))


RecipeFile = Annotated[Path, Parameter(allow_leading_hyphen=True, validator=no_option)]
Set = Annotated[
    tuple[str, ...],
    Parameter(
        name="set",
        help="Change a value of the recipe, KEY=VALUE: keys with dots between them, and YAML, such as merge.t=0.3. "
        "It may be given several times.",
    ),
]
Allow = Annotated[
    tuple[str, ...],
    Parameter(help="A difference between the configs that is accepted on purpose, such as rope_theta."),
]
Drop = Annotated[
    tuple[str, ...],
    Parameter(help="Tensors that are left out on purpose: a pattern of names, such as '*.inv_freq'."),
]
Restart = Annotated[bool, Parameter(help="Throw away what an interrupted run has left for OUT, and begin anew.")]
DryRun = Annotated[bool, Parameter(help="Only say what would be done: nothing is written.")]
Json = Annotated[bool, Parameter(help="Print JSON for other programs, one event a line; errors too.")]
Document = Annotated[bool, Parameter(name="--json", help="Print JSON for other programs, one document; errors too.")]
Quiet = Annotated[bool, Parameter(name=("--quiet", "-q"), help="Print nothing but errors.")]
Verbose = Annotated[bool, Parameter(name=("--verbose", "-v"), help="Also print what happens inside, with the time.")]

Command = TypeVar("Command", bound=Callable[..., Any])


@Parameter(name="*")
@dataclass(frozen=True)
class Telling:
    """How a command tells of what it does."""

    json: Json = False
    quiet: Quiet = False
    verbose: Verbose = False

    @property
    def in_words(self) -> bool:
        """Whether a person reads of what was done."""
        return not (self.json or self.quiet)

    def reporter(self) -> Reporter:
        """What tells of events as the user wants."""
        from mergery.cli.progress import reporter

        return reporter(json=self.json, quiet=self.quiet, verbose=self.verbose)


@Parameter(name="*")
@dataclass(frozen=True)
class Writing:
    """How a command writes OUT, and how it tells of it."""

    replace: Annotated[bool, Parameter(help="Exchange what stands in OUT for the new one, once that is complete.")] = (
        False
    )
    restart: Restart = False
    threads: Threads = 0
    telling: Telling = Telling()

    @property
    def in_words(self) -> bool:
        """Whether a person reads of what was done."""
        return self.telling.in_words

    @property
    def options(self) -> Options:
        """The options of its run. Raises RecipeError."""
        return run_options(self.threads, CHUNK)

    def reporter(self) -> Reporter:
        """What tells of events as the user wants."""
        return self.telling.reporter()


def flowing(command: Command) -> Command:
    """A command whose docstring has one line for each paragraph: its help is as wide as the terminal."""
    command.__doc__ = flowed(inspect.getdoc(command) or "")
    return command


def flowed(text: str) -> str:
    """A text with one line for each paragraph; what is indented, as formulas are, stays as it is."""
    blocks = re.split(r"\n\s*\n", text)
    return "\n\n".join(each if each.startswith(" ") else _flowed_block(each) for each in blocks)


def _flowed_block(block: str) -> str:
    return _settings(block) if "\n---" in block else " ".join(block.split())


def _settings(block: str) -> str:
    """The part of a docstring that says what each setting is, one line for each."""
    lines: list[str] = []
    for line in block.splitlines():
        if line.startswith("    ") and lines[-1].startswith("    "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)


def read_recipe(
    recipe: Path, values: tuple[str, ...] = (), allow: tuple[str, ...] = (), drop: tuple[str, ...] = ()
) -> Recipe:
    """The recipe of a file, or of standard input where its name is `-`, with what the options change. Raises RecipeError."""
    from mergery.recipe.changes import Changes
    from mergery.recipe.reading import load_recipe

    return load_recipe(recipe, changes=Changes(values, allow, drop))


def run_options(threads: int, chunk: str, device: str = "cpu") -> Options:
    """The options of a run as the user wrote them. Raises RecipeError."""
    from mergery.errors import RecipeError
    from mergery.kernels import BLOCK
    from mergery.run.workers import Options

    if threads < 0:
        raise RecipeError(f"--threads is {threads}", why="it must be 0 or more", hint="leave it out for one a core")
    text = chunk.removesuffix("Ki").removesuffix("Mi")
    scale = 1024 if chunk.endswith("Ki") else 1024**2 if chunk.endswith("Mi") else 1
    size = int(text) * scale if text.isdigit() else 0
    if size < BLOCK or size % BLOCK:
        raise RecipeError(
            f"--chunk is {chunk!r}", why=f"it must be a multiple of {BLOCK // 1024}Ki", hint=f"--chunk {CHUNK}"
        )
    options = Options(threads, size, device=device)
    _ = options.devices  # says so at once where it is not there
    return options


def print_json(data: Any) -> None:
    """Print data for other programs."""
    print(json.dumps(data, indent=2, default=str))


class Trimmed:
    """A stream without the spaces with which tables fill their lines."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(re.sub(r" +(?=\n)", "", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def console(width: int = 120) -> Console:
    """Standard output: as wide as the terminal; elsewhere as wide as COLUMNS says, else `width`."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False, markup=False)
    columns = os.environ.get("COLUMNS", "")
    wide = int(columns) if columns.isdigit() and int(columns) else width
    return Console(file=cast(IO[str], Trimmed(sys.stdout)), width=wide, highlight=False, markup=False)


def table(*columns: str, **options: Any) -> Table:
    """A table without lines."""
    from rich.table import Table

    return Table(*columns, box=None, header_style="bold", pad_edge=False, **options)


def wait_without_spinning() -> None:
    """Let torch's threads sleep while they wait for one another, unless the user has said how they shall wait.

    Threads that spin take the core from those they wait for: on a machine with other work, an evaluation took four times the
    processor time. It must be said before torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
