"""docs/python.md: what `import mergery` offers, from signatures, docstrings and the comments of fields."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import mergery

HEAD = """\
# Python

Made by `python -m benchmarks.reference` from the program itself; do not edit. `help(mergery.merge)` says the same.

```python
import mergery

plan = mergery.plan(models=["./llama-math", "./llama-code"], method="linear")
state = mergery.merge(plan)                   # a state dict in memory; with a second argument, a folder
```

[Python and notebooks](notebooks.md) is a guide: sweeps, scores of one's own, models in memory, the hub.

Everything that a user can get wrong raises `MergeryError`, whose text says what, where, why and what to try.

"""
VERBS = ("merge", "plan", "explain", "verify", "push", "inspect", "open", "pack", "evaluate", "compare", "load_recipe")
SCORES = ("split", "TaskScore", "Score", "Splits", "load_task", "read_result", "open_subject", "EvaluationOptions")
CLASSES = ("Options", "MergeryError")
RETURNED = (
    "mergery.run.merging:Result",
    "mergery.evaluation.results:Evaluation",
    "mergery.evaluation.findings:Comparison",
)


def page() -> str:
    """The page, in Markdown."""
    others = [name for name in mergery.__all__ if name not in (*VERBS, *CLASSES, "evaluation", "methods", "Recipe")]
    lines = ["## Functions", ""]
    for name in (*VERBS, *(other for other in others if inspect.isfunction(getattr(mergery, other)))):
        lines += function(f"mergery.{name}", getattr(mergery, name))
    lines += ["## Methods", "", *methods()]
    lines += ["## Classes", ""]
    for name in CLASSES:
        lines += described(f"mergery.{name}", getattr(mergery, name))
    for home in RETURNED:
        module, _, name = home.partition(":")
        lines += described(name, getattr(importlib.import_module(module), name))
    lines += [
        "## Evaluation",
        "",
        "Under `mergery.evaluation`; [Evaluation](evaluation.md) shows how they go together.",
        "",
    ]
    for name in SCORES:
        value = getattr(mergery.evaluation, name)
        if inspect.isfunction(value):
            lines += function(f"mergery.evaluation.{name}", value)
        else:
            lines += described(f"mergery.evaluation.{name}", value)
    return HEAD + "\n".join(lines).rstrip() + "\n"


def methods() -> list[str]:
    return [
        "`mergery.methods.NAME` is a method, to be called on plain tensors: the models in a list, the base by name, and its"
        " settings. [Methods](methods.md) has them all.",
        "",
        "```python",
        "import torch",
        "",
        "math, code, base = torch.ones(2, 2), torch.zeros(2, 2), torch.full((2, 2), 0.25)",
        "mergery.methods.ties([math, code], base=base, density=0.5)",
        "```",
        "",
    ]


def function(title: str, value: Callable[..., Any]) -> list[str]:
    """A function: its signature and what it says of itself."""
    shown = signature(title.rpartition(".")[2], value)
    return [f"### {title}", "", "```text", shown, "```", "", *prose(inspect.getdoc(value) or "")]


def described(title: str, value: type) -> list[str]:
    """A class: what it says of itself, its fields, and its methods that a user calls."""
    lines = [f"### {title}", "", *prose(inspect.getdoc(value) or "")]
    if dataclasses.is_dataclass(value):
        notes = comments(value)
        own = [field for field in dataclasses.fields(value) if not field.name.startswith("_")]
        lines += ["| field | type | default | |", "|---|---|---|---|"]
        for field in own:
            default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
            lines.append(
                f"| `{field.name}` | `{cell(str(field.type))}` | {cell(default)} | {cell(notes.get(field.name, ''))} |"
            )
        lines.append("")
    for name, each in vars(value).items():
        if inspect.isfunction(each) and not name.startswith("_") and inspect.getdoc(each):
            lines += [f"`{signature(name, each, width=1000)}`", "", *prose(inspect.getdoc(each) or "")]
    return lines


def signature(name: str, value: Callable[..., Any], width: int = 100) -> str:
    """A call, as one writes it; a line for each parameter where it is long."""
    told = inspect.signature(value)
    parameters = [str(each) for key, each in told.parameters.items() if key != "self"]
    kinds = [each.kind for key, each in told.parameters.items() if key != "self"]
    for number, kind in enumerate(kinds):
        if kind is inspect.Parameter.KEYWORD_ONLY and inspect.Parameter.VAR_POSITIONAL not in kinds[:number]:
            parameters.insert(number, "*")
            break
    parameters = [tidy(each) for each in parameters]
    result = "" if told.return_annotation is inspect.Signature.empty else f" -> {tidy(str(told.return_annotation))}"
    line = f"{name}({', '.join(parameters)}){result}"
    return (
        line if len(line) <= width else f"{name}(\n" + "".join(f"    {each},\n" for each in parameters) + f"){result}"
    )


def tidy(text: str) -> str:
    """An annotation without the quotes and addresses that a reader does not want."""
    text = re.sub(r"<function ([\w.]+) at 0x[0-9a-f]+>", r"\1", text).replace("'", "")
    return (
        re.sub(r"\b\w+\((?:[^()]|\([^()]*\))*\)$", lambda m: m[0].partition("(")[0] + "()", text)
        if "=" in text
        else text
    )


def prose(text: str) -> list[str]:
    """A docstring as Markdown: what is indented is code, lines of `name:   meaning` are a list."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        rows = block.splitlines()
        if all(row.startswith("    ") for row in rows):
            lines += ["```text", *inspect.cleandoc("\n".join(rows)).splitlines(), "```", ""]
        elif all(re.match(r"\w+: +\S|  ", row) for row in rows):
            for row in rows:
                name, _, meaning = row.partition(":")
                if row.startswith("  "):
                    lines[-1] += " " + row.strip()
                else:
                    lines.append(f"- `{name}`: {meaning.strip()}")
            lines.append("")
        else:
            lines += [" ".join(block.split()), ""]
    return lines


def comments(value: type) -> dict[str, str]:
    """What stands behind the fields of a class in its source."""
    found = re.findall(r"^    (\w+): [^#\n]*?(?:  # (.*))?$", inspect.getsource(value), re.M)
    return {name: note for name, note in found if note}


def cell(text: str) -> str:
    return text.replace("|", "\\|")
