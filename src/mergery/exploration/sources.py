"""The models of a search, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergery.recipe.paths import short_name


def named_sources(models: Sequence[Any] | Mapping[str, Any], taken: Iterable[str] = ()) -> dict[str, Any]:
    """Sources by name. In a list, those that are paths are named by them, and never by a name that is taken."""
    if isinstance(models, Mapping):
        return {str(name): source for name, source in models.items()}
    named: dict[str, Any] = {}
    for number, source in enumerate(models, 1):
        if isinstance(source, (str, Path)):
            named[short_name(str(source), [*named, *taken])] = str(source)
        else:
            named[f"model-{number}"] = source
    return named
