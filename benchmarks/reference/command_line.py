"""docs/command-line.md: every command, with its arguments, from what it says of itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclopts import App

from mergery.cli import app
from mergery.cli.examples import EXAMPLES

HEAD = """\
# Command line

Made by `python -m benchmarks.reference` from the program itself; do not edit. `mergery COMMAND --help` says the same.

What a command needs stands before its options, without a name. Options can stand anywhere. `mergery` alone says what can be
done with what lies in the folder at hand, and `mergery --help` lists all commands. Progress and warnings go to the standard
error, results to the standard output. With `--json` the standard output is for programs: events as lines, or one document
([events](events.md)); what goes wrong is there too. `-q` prints nothing but errors, `-v` what happens inside, `-V` the version.

| exit code | meaning |
|--:|---|
| 0 | It is done. |
| 1 | `mergery verify` found that something has changed. |
| 2 | The input is wrong. Every problem is told at once, with its place, the reason and what to try; nothing was written. |
| 130, 143 | It was interrupted. The same command goes on where it stopped. |

"""


def page() -> str:
    """All commands in Markdown."""
    found = list(commands(app, ("mergery",)))
    lines = ["| command | what it does |", "|---|---|"]
    for path, command in found:
        name = " ".join(path)
        lines.append(f"| [`{name}`](#{name.replace(' ', '-')}) | {summary(command)} |")
    return HEAD + "\n".join(lines) + "\n" + "".join(f"\n{section(path, command)}" for path, command in found)


def commands(parent: App, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command that does something, with the words that call it."""
    for name in parent:
        if name.startswith("-"):
            continue
        child = parent[name]
        if child.default_command is not None:
            yield (*path, name), child
        yield from commands(child, (*path, name))


def summary(command: App) -> str:
    """What a command does, in one sentence."""
    return paragraphs(command)[0]


def paragraphs(command: App) -> list[str]:
    """What a command says of itself, without its parameters; what is indented stays as it is."""
    text = inspect.getdoc(command.default_command) or command.help
    text = re.split(r"^Parameters\n-+$", text, flags=re.M)[0]
    found = []
    for block in re.split(r"\n\s*\n", text.strip()):
        shown = all(line.startswith("    ") for line in block.splitlines())
        found.append(f"```text\n{inspect.cleandoc(block)}\n```" if shown else " ".join(block.split()))
    return found


def section(path: tuple[str, ...], command: App) -> str:
    """One command in Markdown."""
    found = command.assemble_argument_collection(default_parameter=app.default_parameter, parse_docstring=True)
    arguments = [each for each in found if each.parameter.show is not False]
    named = [each for each in arguments if each.names[0].startswith("-")]
    placed = [each for each in arguments if not each.names[0].startswith(("-", "*"))]  # `*` is several options
    usage = " ".join([*path, *map(place, placed), *["[options]"] * bool(named)])
    lines = [f"## {' '.join(path)}", "", f"```text\n{usage}\n```", ""]
    for text in paragraphs(command):
        lines += [text, ""]
    if rows := EXAMPLES.get(" ".join(path[1:])):
        width = max(len(typed) for typed, _ in rows)
        lines += ["```text", *(f"{typed:{width}}  # {meant}" for typed, meant in rows), "```", ""]
    if placed:
        lines += ["| argument | what it is |", "|---|---|"]
        lines += [f"| `{each.names[0]}` | {told(each)} |" for each in placed]
        lines.append("")
    if named:
        lines += ["| option | default | what it does |", "|---|---|---|"]
        lines += [f"| {names(each)} | {default(each)} | {told(each)} |" for each in named]
        lines.append("")
    return "\n".join(lines)


def place(argument: Any) -> str:
    """An argument that is told by its place, as usage lines have it."""
    name = argument.names[0]
    several = "..." if argument.field_info.kind.name == "VAR_POSITIONAL" or "tuple" in str(argument.hint) else ""
    return f"{name}{several}" if argument.required else f"[{name}{several}]"


def names(argument: Any) -> str:
    """An option's names, and what it takes."""
    flag = argument.hint is bool
    choices = re.findall(r"'([^']+)'", str(argument.hint)) if "Literal" in str(argument.hint) else []
    value = "" if flag else f" {'|'.join(choices)}" if choices else f" {kind(argument)}"
    return ", ".join(f"`{name}{value}`".replace("|", "\\|") for name in argument.names)


def kind(argument: Any) -> str:
    """What an option takes, in a word."""
    text = str(argument.hint)
    word = "NUMBER" if re.search(r"\b(int|float)\b", text) else "PATH" if Path.__name__ in text else "TEXT"
    return f"{word}..." if "tuple" in text or "list" in text else word


def default(argument: Any) -> str:
    """An option's default; nothing where it has none, or where saying so says nothing."""
    value = argument.field_info.default
    if argument.required:
        return "required"
    silent = value is None or value is False or value in ((), "") or value is inspect.Parameter.empty
    return "" if silent else f"`{value}`"


def told(argument: Any) -> str:
    return " ".join((argument.parameter.help or "").split()).replace("|", "\\|")
