"""`mergery import`."""

from __future__ import annotations

import sys

from mergery.cli.common import Document, RecipeFile, flowing, print_json


@flowing
def import_(config: RecipeFile, /, *, json: Document = False) -> None:
    """Print the native recipe that gives what the mergekit file CONFIG gives.

    Parameters
    ----------
    config
        A mergekit file, in YAML; - is standard input.
    """
    from mergery.recipe.document import write_yaml
    from mergery.recipe.reading import load_recipe

    recipe = load_recipe(config)
    if json:
        print_json(recipe.plain())
        return
    for note in recipe.notes:
        print(f"mergery: {note}", file=sys.stderr)
    print(write_yaml(recipe.plain()).rstrip())
