"""What to try in place of a word that is not known: what is near, or what other tools call it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from mergery.errors import did_you_mean
from mergery.recipe.paths import is_path, short_name

SLIP = 0.8  # likeness from which on a key is taken for a known one that is misspelt


def meant(key: str, known: Iterable[str]) -> str | None:
    """The known key that is misspelt, if it is one."""
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=SLIP)
    return near[0] if near else None


def model_hint(name: Any, models: Mapping[str, Any]) -> str:
    """What to try in place of a name that no model has."""
    if is_path(name):
        short = short_name(str(name), models)
        return f"name it under 'models', {{{short}: {name}}}, and say {short} here"
    return did_you_mean(str(name), models) or "name the models: models: {a: ./a, b: ./b}"
