"""Weft weaves several trained models into one.

    import weft
    weft.merge("recipe.yaml", "out")
    weft.plan("recipe.yaml")
    weft.methods.ties([math, code], base=base, density=0.2)

Names are loaded on first use: `import weft` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from weft import methods
    from weft.api import merge, plan, verify
    from weft.checkpoints import open_checkpoint as open
    from weft.errors import WeftError
    from weft.evaluate import compare, evaluate
    from weft.inspection import inspect
    from weft.packing import pack
    from weft.recipe import Recipe
    from weft.recipe.reading import load_recipe
    from weft.run.workers import Options

_HOMES = {
    "merge": "weft.api",
    "inspect": "weft.inspection",
    "pack": "weft.packing",
    "plan": "weft.api",
    "verify": "weft.api",
    "compare": "weft.evaluate.comparison",
    "open": "weft.checkpoints:open_checkpoint",
    "Options": "weft.run.workers",
    "Recipe": "weft.recipe",
    "load_recipe": "weft.recipe.reading",
    "WeftError": "weft.errors",
}

__all__ = [
    "Options", "Recipe", "WeftError", "compare", "evaluate", "inspect", "load_recipe", "merge", "methods", "open", "pack",
    "plan", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("methods", "evaluate"):
        return importlib.import_module(f"weft.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "evaluate", "methods"})
