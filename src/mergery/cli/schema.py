"""`mergery schema`."""

from __future__ import annotations

from mergery.cli.common import flowing, print_json


@flowing
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from mergery.recipe.schema import recipe_schema

    print_json(recipe_schema())
