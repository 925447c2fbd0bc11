"""`mergery methods`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergery.cli.common import Document, MethodName, console, flowed, flowing, print_json, table

if TYPE_CHECKING:
    from rich.console import Console

    from mergery.method import Method


@flowing
def methods(name: MethodName | None = None, /, *, all: bool = False, json: Document = False) -> None:
    """List the merging methods to know first, or all of them in groups, or describe one.

    Parameters
    ----------
    name
        A method, to read its formula, settings and an example.
    all
        List all methods, in groups.
    """
    from mergery.method import catalogue, find, methods

    if json:
        print_json([facts(method) for method in ([find(name)] if name is not None else methods().values())])
        return
    out = console(width=80)
    if name is not None:
        describe(out, find(name))
        return
    known = methods()
    groups = catalogue.groups() if all else {"To know first": [known[each] for each in catalogue.FIRST]}
    width = max(len(each) for each in known)
    for title, members in groups.items():
        show_group(out, title, members, width)
    if not all:
        out.print(f"mergery methods --all lists all {len(known)}, in groups.")
    out.print("mergery methods NAME says what one computes, with its settings and an example.")


def show_group(out: Console, title: str, members: Sequence[Method], width: int) -> None:
    """A title, and a line or two for each method: what it does, and when to use it."""
    from mergery.method import catalogue

    out.print(title, style="bold")
    rows = table(show_header=False)
    rows.add_column(width=width + 2)
    rows.add_column()
    for method in members:
        rows.add_row(f"  {method.name}", method.summary)
        if when := catalogue.occasion(method):
            rows.add_row("", f"Use it {when}.", style="dim")
    out.print(rows)
    out.print()


def describe(out: Console, method: Method) -> None:
    """All that is said of a method."""
    from mergery.method import catalogue

    out.print(method.name, style="bold")
    out.print(f"{method.summary}\n\n{flowed(method.about)}\n\n{catalogue.facts(method)} {catalogue.source(method)}\n")
    if method.settings:
        settings = table("setting", "value", "default", "meaning")
        for setting in method.settings.values():
            each = ", per model" if setting.per_model else ""
            settings.add_row(setting.name, setting.type_in_words() + each, catalogue.default(setting), setting.doc)
        out.print(settings)
        out.print()
    out.print(catalogue.example(method))


def facts(method: Method) -> dict[str, Any]:
    """A method as plain data."""
    from mergery.method import catalogue

    return {
        "name": method.name,
        "idea": method.summary,
        "models": method.models,
        "needs": method.needs,
        "reads": method.cost,
        "source": catalogue.source(method),
        "when": method.when,
        "first": method.name in catalogue.FIRST,
        "settings": {
            setting.name: {
                "value": setting.type_in_words(),
                "per_model": setting.per_model,
                "default": None if setting.required else setting.default,
                "required": setting.required,
                "meaning": setting.doc,
            }
            for setting in method.settings.values()
        },
        "example": catalogue.example(method),
    }
