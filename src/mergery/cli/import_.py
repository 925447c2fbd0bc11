"""`mergery import`."""

from __future__ import annotations

import sys

from mergery.cli.common import RecipeFile


def import_(config: RecipeFile, /) -> None:
    """Print the native recipe that gives what the mergekit file CONFIG gives."""
    from mergery.recipe.document import write_yaml
    from mergery.recipe.reading import load_recipe

    recipe = load_recipe(config)
    for note in recipe.notes:
        print(f"mergery: {note}", file=sys.stderr)
    print(write_yaml(recipe.plain()).rstrip())
