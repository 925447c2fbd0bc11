"""`mergery methods`."""

from __future__ import annotations

from typing import Any

from mergery.cli.common import Json, console, print_json, table


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
    out = console(width=160)
    if name is None:
        listed = table("method", "idea", "needs", "reads", "source", "use it")
        for method in chosen:
            number = catalogue.count(method)
            needs = ", ".join((f"{number} model{'s' if number != '1' else ''}", *method.needs))
            listed.add_row(
                method.name, method.summary, needs, method.cost, catalogue.source(method), catalogue.occasion(method)
            )
        out.print(listed)
        return
    (method,) = chosen
    out.print(method.name, style="bold")
    out.print(f"{method.summary}\n\n{method.about}\n\nReads {method.cost}.\n")
    if method.settings:
        settings = table("setting", "value", "default", "meaning")
        for setting in method.settings.values():
            each = ", per model" if setting.per_model else ""
            settings.add_row(setting.name, setting.type_in_words() + each, catalogue.default(setting), setting.doc)
        out.print(settings)
        out.print()
    out.print(catalogue.example(method))


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
