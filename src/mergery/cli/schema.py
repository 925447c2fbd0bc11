"""`mergery schema`."""

from __future__ import annotations

from mergery.cli.common import flowing


@flowing
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from mergery.recipe.schema import schema_text

    print(schema_text(), end="")
