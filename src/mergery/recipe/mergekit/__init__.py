"""Reads a mergekit file as a recipe with the settings that reproduce its result.

The language is that of mergekit 0.1.5, with the several documents of mergekit-multi. Every setting on which the two
programs differ by default is written into the recipe, so that it means the same without its mergekit file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergery.errors import RecipeError
from mergery.recipe.changes import Changes
from mergery.recipe.document import Document
from mergery.recipe.recipe import Recipe


def recognises(data: Any) -> bool:
    """Whether plain data is a document of mergekit, or of one of its other programs.

    A merge has `merge_method` where a recipe has `merge`; `models` by name are a recipe's, whatever it calls its method.
    """
    if not isinstance(data, dict) or "merge" in data:
        return False
    models = data.get("models")
    listed = isinstance(models, list) and any(isinstance(item, dict) and "model" in item for item in models)
    merge = "merge_method" in data and not isinstance(models, dict)
    return merge or listed or "slices" in data or other_program(data) is not None


def other_program(data: Any) -> RecipeError | None:
    """What to say of a file of another program of mergekit's; None for a merge."""
    keys = data.keys() if isinstance(data, dict) and "merge_method" not in data else ()
    if "experts" in keys or "gate_mode" in keys:
        return RecipeError(
            "this is a file of mergekit-moe",
            why="Mergery makes no mixture of experts of dense models",
            hint="make it with mergekit-moe; mixtures that are there can be merged with each other here",
        )
    if "genome" in keys:
        return RecipeError(
            "this is a file of mergekit-evolve",
            why="Mergery searches by a recipe that leaves settings open",
            hint="write the merge_method and the models of its 'genome' as a recipe, with what is to be found as in weight: "
            "{search: [0, 1.5], per: model}, and say `mergery search RECIPE OUT --tasks FILE`",
        )
    return None


def read(documents: list[Document], folder: Path, changes: Changes = Changes()) -> Recipe:
    """The recipe of a mergekit file.

    Relative paths start from `folder`, or from the working directory where only that holds them. `changes` are of the last
    merge, or of the one whose name they begin with. Raises RecipeError, or Problems with everything that is wrong, each
    with file:line:column.
    """
    from mergery.recipe.mergekit.translate import translate

    for document in documents:
        error = other_program(document.data)
        if error is not None:
            raise error.at(document.where())
    return translate(documents, folder, changes)
