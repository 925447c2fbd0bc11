"""All merging methods by name: Mergery's own, and those that other packages add."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points

from mergery.errors import RecipeError, did_you_mean
from mergery.method.declaring import Method

GROUP = "mergery.methods"
"""The package of Mergery's own methods, one file each, and the group of entry points of others', which are `Method`s."""

_registry: dict[str, Method] = {}


def register(new: Method) -> Method:
    """Add a method to the registry, under its name."""
    _registry[new.name] = new
    return new


def methods() -> Mapping[str, Method]:
    """All methods by name. They are looked for once."""
    if not _registry:
        package = importlib.import_module(GROUP)
        for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
            for value in vars(importlib.import_module(f"{GROUP}.{module}")).values():
                if isinstance(value, Method):
                    register(value)
                    setattr(package, value.name, value)  # rather than the module of that name
        for entry in entry_points(group=GROUP):
            register(entry.load())
    return dict(sorted(_registry.items()))


def find(name: str) -> Method:
    """The method called `name`. Raises RecipeError with the nearest name."""
    known = methods()
    if name not in known:
        raise RecipeError(f"unknown method {name!r}", hint=did_you_mean(name, known))
    return known[name]
