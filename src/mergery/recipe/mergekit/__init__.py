"""Reads a mergekit file as a recipe with the settings that reproduce its result.

The language is that of mergekit 0.1.5, with the several documents of mergekit-multi. Every setting on which the two
programs differ by default is written into the recipe, so that it means the same without its mergekit file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergery.recipe.document import Document
from mergery.recipe.recipe import Recipe


def recognises(data: Any) -> bool:
    """Whether plain data is a mergekit document: it has `merge_method` where a recipe has `merge`."""
    return isinstance(data, dict) and "merge_method" in data


def read(documents: list[Document], folder: Path) -> Recipe:
    """The recipe of a mergekit file. Relative paths start from `folder`, or from the working directory where only that
    holds them. Raises RecipeError, or Problems with everything that is wrong, each with file:line:column."""
    from mergery.recipe.mergekit.translate import translate

    return translate(documents, folder)
