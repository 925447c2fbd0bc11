"""The methods as a page: idea, formula, settings, source. Made from the methods themselves.

python -m weft.catalogue > docs/methods.md
"""

from __future__ import annotations

from weft.method import Method, Setting, methods

HEAD = """\
# Methods

Made by `python -m weft.catalogue`; do not edit. In all formulas x_i are the models, b is the base, d_i = x_i - b are the
task vectors, w_i are the weights. A setting marked *per model* takes one value for all, or a mapping by model name; every
setting can be a gradient over depth or filtered by layer and role.

"""


def page() -> str:
    """All methods in Markdown."""
    rows = ["| method | in one sentence | models | base | source |", "|---|---|---|---|---|"]
    for method in methods().values():
        rows.append(
            f"| [{method.name}](#{method.name}) | {method.summary} | {_count(method)} | {method.base} | {_source(method)} |"
        )
    return HEAD + "\n".join(rows) + "\n" + "".join(f"\n{section(method)}" for method in methods().values())


def section(method: Method) -> str:
    """One method in Markdown."""
    lines = [f"## {method.name}", "", method.summary, "", method.about, ""]
    if method.settings:
        lines += ["| setting | value | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{s.name}` | {s.describe()}{', per model' if s.per_model else ''} | {_default(s)} | {_cell(s.doc)} |"
            for s in method.settings.values()
        ]
        lines.append("")
    lines += ["```yaml", example(method), "```", ""]
    return "\n".join(lines)


def example(method: Method) -> str:
    """A recipe for one method."""
    count = max(method.models[0], min(method.models[1] or 2, 2))
    names = ["math", "code"][:count]
    base = ["base"] if method.base == "required" else []
    models = ", ".join(f"{name}: ./{name}" for name in base + names)
    needed = {s.name: "0.5" if s.kind in ("float", "fraction") else "1" for s in method.settings.values() if s.required}
    parts = [f"method: {method.name}", *(["base: base"] if base else [])]
    parts += [f"{name}: {value}" for name, value in needed.items()]
    return f"models: {{{models}}}\nmerge: {{{', '.join(parts)}}}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _count(method: Method) -> str:
    least, most = method.models
    return str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"


def _source(method: Method) -> str:
    return f"arXiv:{method.paper}" if method.paper[:4].isdigit() else method.paper


def _default(setting: Setting) -> str:
    if setting.required:
        return "required"
    value = setting.default
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
