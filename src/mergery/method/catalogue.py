"""The methods as a page: idea, formula, settings, source. Made from the methods themselves.

python -m mergery.method.catalogue > docs/methods.md
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mergery.method import Method, Setting, methods
from mergery.method.roles import BASE, Preset, Rest

HEAD = """\
# Methods

Made by `python -m mergery.method.catalogue`; do not edit. In all formulas x_i are the models, b is the base, d_i = x_i - b are
the task vectors, w_i are the weights. A setting marked *per model* takes one value for all, or a mapping by model name; every
setting can be a gradient over depth or filtered by layer and role. [which-tensors.md](which-tensors.md) says which tensors a
method works on, what the others get, and how a recipe says otherwise. `mergery methods` prints the table, and
`mergery methods NAME` what is said of one.

"""


def page() -> str:
    """All methods in Markdown."""
    rows = ["| method | in one sentence | models | needs | reads | use it | source |", "|---|---|---|---|---|---|---|"]
    for method in methods().values():
        facts = (count(method), ", ".join(method.needs), method.cost, occasion(method), source(method))
        rows.append(f"| [{method.name}](#{method.name}) | {method.summary} | " + " | ".join(map(_cell, facts)) + " |")
    return HEAD + "\n".join(rows) + "\n" + "".join(f"\n{section(method)}" for method in methods().values())


def section(method: Method) -> str:
    """One method in Markdown."""
    lines = [f"## {method.name}", "", method.summary, "", method.about, "", f"Reads {method.cost}.", ""]
    if method.settings:
        lines += ["| setting | value | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{s.name}` | {s.type_in_words()}{', per model' if s.per_model else ''} | {default(s)} | {_cell(s.doc)} |"
            for s in method.settings.values()
        ]
        lines.append("")
    lines += [*treatments(method), "```yaml", example(method), "```", ""]
    return "\n".join(lines)


def worked_on() -> str:
    """Where each method works that does not work on every tensor, by itself and by the paper's choice: a Markdown table."""
    rows = ["| method | works on | the rest gets | `preset: paper` |", "|---|---|---|---|"]
    for method in methods().values():
        if method.roles is not None:
            own = f"| [{method.name}](methods.md#{method.name}) | {listed(method.roles)} | {treatment(method.rest)} |"
            paper = method.presets.get("paper")
            rows.append(f"{own} {chosen(paper) if paper else 'none'} |")
    return "\n".join(rows) + "\n"


def chosen(preset: Preset) -> str:
    """What a preset sets, in words."""
    facts = [f"{key}: {value}" for key, value in preset.settings.items()]
    facts += [f"works on {listed(preset.roles)}"] if preset.roles else []
    facts += [f"the rest: {treatment(preset.rest)}"] if preset.rest else []
    return "; ".join(facts) or "the defaults"


def treatments(method: Method) -> list[str]:
    """Where a method works, what the rest gets, and its presets, in Markdown."""
    lines = []
    if method.roles is not None:
        lines += [f"Works on {listed(method.roles)} tensors; the rest: {treatment(method.rest)}.", ""]
    for name, preset in method.presets.items():
        lines += [f"`preset: {name}`: {chosen(preset)}.", ""]
    return lines


def listed(roles: Sequence[str]) -> str:
    return ", ".join(f"`{role}`" for role in roles)


def treatment(rest: Rest) -> str:
    """What the rest gets, in words."""
    if isinstance(rest, str):
        return "the base's own" if rest == BASE else f"`{rest}`"
    settings = ", ".join(f"{key}: {value}" for key, value in rest.items() if key != "method")
    return f"`{rest['method']}` ({settings.lower()})"


def example(method: Method) -> str:
    """A recipe for one method."""
    count = max(method.models[0], min(method.models[1] or 2, 2))
    names = ["math", "code"][:count]
    base = ["base"] if method.base == "required" else []
    models = ", ".join(f"{name}: ./{name}" for name in base + names)
    words = {"float": "0.5", "fraction": "0.5", "task": names[0]}
    wanted = [s for s in method.settings.values() if s.required or s.kind == "task"]
    needed = {s.name: words.get(s.kind, "1") for s in wanted}
    parts = [f"method: {method.name}", *(["base: base"] if base else [])]
    parts += [f"{name}: {value}" for name, value in needed.items()]
    return f"models: {{{models}}}\nmerge: {{{', '.join(parts)}}}"


def occasion(method: Method) -> str:
    """When to use a method, up to the first stop."""
    return re.split(r"[.:;](?:\s|$)|, (?:where|since|which|so that|and the)\b", method.when.removeprefix("Use it "))[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def count(method: Method) -> str:
    """How many models it merges."""
    least, most = method.models
    return str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"


def source(method: Method) -> str:
    """The paper, or the tool that it comes from."""
    return f"arXiv:{method.paper}" if method.paper[:4].isdigit() else method.paper


def default(setting: Setting) -> str:
    """A setting's default, as a recipe has it."""
    if setting.required:
        return "required"
    value = setting.default
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
