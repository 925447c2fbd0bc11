"""Parameters and printing that several commands share."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mergery.recipe import Recipe
    from mergery.run.workers import Options

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
        negative="",
        help="A part of the model, to try a recipe: layers.0-1, a role such as embed, or a pattern of names. It may be given "
        "several times. The folder is a fragment, whose layers are counted from 0.",
    ),
]
RecipeFile = Annotated[Path, Parameter(allow_leading_hyphen=True)]
Set = Annotated[
    tuple[str, ...],
    Parameter(
        name="set",
        negative="",
        help="Change a value of the recipe, KEY=VALUE: keys with dots between them, and YAML, such as merge.t=0.3. "
        "It may be given several times.",
    ),
]
Allow = Annotated[
    tuple[str, ...],
    Parameter(negative="", help="A difference between the configs that is accepted on purpose, such as rope_theta."),
]
Drop = Annotated[
    tuple[str, ...],
    Parameter(negative="", help="Tensors that are left out on purpose: a pattern of names, such as '*.inv_freq'."),
]
Replace = Annotated[bool, Parameter(negative="")]
Restart = Annotated[
    bool, Parameter(negative="", help="Throw away what an interrupted run has left for OUT, and begin anew.")
]
Json = Annotated[bool, Parameter(negative="", help="Print JSON, one event a line, for other programs.")]
Quiet = Annotated[bool, Parameter(negative="", help="Print nothing but errors.")]


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
        raise RecipeError(f"--threads is {threads}", why="it must be 0 or more")
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


def console(width: int = 120) -> Console:
    """Standard output, as wide as the terminal, or so many characters where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, highlight=False, markup=False)


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
