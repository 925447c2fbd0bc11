"""Short names for models that a mergekit file knows by their paths only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from mergery.recipe.mergekit.references import Reference

_RESERVED = {"gradient", "value", "where"}  # words that mean something where a value by model may stand


def name_models(references: Iterable[Reference], taken: Iterable[str] = ()) -> dict[Reference, str]:
    """One name for each model: the last part of its path; with its parent's, its revision or a number where needed."""
    references = list(references)
    names: dict[Reference, str] = {}
    used = set(taken)
    for reference in references:
        last, both = _tail(reference, 1), _tail(reference, 2)
        rivals = [other for other in references if other != reference and _tail(other, 1) == last]
        tries = [] if rivals else [last]
        if not any(_tail(other, 2) == both for other in rivals):
            tries.append(both)
        if reference.revision:
            tries.append(f"{last}-{reference.revision}")
        tries += [f"{last}-{number}" for number in range(1, len(references) + len(used) + 2)]
        names[reference] = next(name for name in tries if name not in used and not _misread(name))
        used.add(names[reference])
    return names


def _tail(reference: Reference, count: int) -> str:
    """The last parts of a path that hold a letter or digit."""
    path = PurePosixPath((reference.adapter or reference.path).replace("\\", "/"))
    parts = [part for part in path.parts if re.search(r"\w", part)]
    return "-".join(parts[-count:]) or "model"


def _misread(name: str) -> bool:
    """Whether a recipe would read the name as a number, or as a word of its own."""
    try:
        float(name)
    except ValueError:
        return name in _RESERVED
    return True
