"""Mergery merges several trained models into one.

    import mergery
    mergery.merge("recipe.yaml", "out")
    mergery.plan("recipe.yaml")
    mergery.methods.ties([math, code], base=base, density=0.2)

Names are loaded on first use: `import mergery` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mergery.version import __version__ as __version__

if TYPE_CHECKING:
    from mergery import methods
    from mergery.api import merge, plan, verify
    from mergery.checkpoints import open_checkpoint as open
    from mergery.errors import MergeryError
    from mergery.evaluation import compare, evaluate
    from mergery.recipe import Recipe
    from mergery.recipe.reading import load_recipe
    from mergery.report.inspection import inspect
    from mergery.run.packing import pack
    from mergery.run.workers import Options

_HOMES = {
    "merge": "mergery.api",
    "inspect": "mergery.report.inspection",
    "pack": "mergery.run.packing",
    "plan": "mergery.api",
    "verify": "mergery.api",
    "compare": "mergery.evaluation.comparison",
    "evaluate": "mergery.evaluation.running",
    "open": "mergery.checkpoints:open_checkpoint",
    "Options": "mergery.run.workers",
    "Recipe": "mergery.recipe",
    "load_recipe": "mergery.recipe.reading",
    "MergeryError": "mergery.errors",
}

__all__ = [
    "MergeryError",
    "Options",
    "Recipe",
    "compare",
    "evaluate",
    "inspect",
    "load_recipe",
    "merge",
    "methods",
    "open",
    "pack",
    "plan",
    "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "methods":
        return importlib.import_module(f"mergery.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'mergery' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "methods"})
