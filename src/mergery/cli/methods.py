"""`mergery methods`."""

from __future__ import annotations

import sys
from typing import Any

from mergery.cli.common import Json, print_json


def methods(name: str | None = None, /, *, json: Json = False) -> None:
    """List the merging methods: what each does, what it needs, what it costs, where it comes from, when to use it.

    Parameters
    ----------
    name
        A method, to read its formula, settings and an example.
    """
    from mergery.method import catalogue, find, methods

    chosen = list(methods().values()) if name is None else [find(name)]
    if json:
        print_json([facts(method) for method in chosen])
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
    if name is None:
        table = Table(
            "method", "idea", "needs", "reads", "source", "use it", box=None, header_style="bold", pad_edge=False
        )
        for method in chosen:
            number = catalogue.count(method)
            needs = ", ".join((f"{number} model{'s' if number != '1' else ''}", *method.needs))
            table.add_row(
                method.name, method.summary, needs, method.cost, catalogue.source(method), catalogue.occasion(method)
            )
        console.print(table)
        return
    (method,) = chosen
    console.print(method.name, style="bold")
    console.print(f"{method.summary}\n\n{method.about}\n\nReads {method.cost}.\n")
    if method.settings:
        table = Table("setting", "value", "default", "meaning", box=None, header_style="bold", pad_edge=False)
        for setting in method.settings.values():
            each = ", per model" if setting.per_model else ""
            table.add_row(setting.name, setting.type_in_words() + each, catalogue.default(setting), setting.doc)
        console.print(table)
        console.print()
    console.print(catalogue.example(method))


def facts(method: Any) -> dict[str, Any]:
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
