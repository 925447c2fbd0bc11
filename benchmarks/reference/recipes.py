"""The lists in docs/recipe.md and docs/which-tensors.md that the program knows: roles, parts, dtypes, facts, treatments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from mergery.architecture.facts import ALLOWABLE
from mergery.architecture.sections import PARTS
from mergery.checkpoints.tokenizer.chat_templates import named_templates
from mergery.dtypes import OUTPUT_DTYPES
from mergery.method import methods
from mergery.method.catalogue import worked_on
from mergery.recipe.values import ROLES


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def presets() -> str:
    """The methods that have a preset, by preset."""
    found: dict[str, list[str]] = {}
    for method in methods().values():
        for preset in method.presets:
            found.setdefault(preset, []).append(f"[{method.name}](methods.md#{method.name})")
    return "\n".join(f"- `{preset}`: {', '.join(names)}" for preset, names in found.items())


LISTS: dict[str, Callable[[], str]] = {
    "roles": lambda: listed(ROLES),
    "parts": lambda: listed(PARTS),
    "dtypes": lambda: listed(OUTPUT_DTYPES),
    "facts": lambda: listed(ALLOWABLE),
    "templates": lambda: listed(named_templates()),
    "presets": presets,
    "treatments": lambda: worked_on().rstrip(),
}


def filled(text: str) -> str:
    """The page with its lists as they are."""
    for name, make in LISTS.items():
        pattern = rf"(<!-- made: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda match, made=make(): f"{match[1]}\n{made}\n\n{match[2]}", text, flags=re.S)
    return text
