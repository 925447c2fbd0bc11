"""`mergery schema`."""

from __future__ import annotations

from mergery.cli.common import print_json


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from mergery.recipe.schema import recipe_schema

    print_json(recipe_schema())
