"""A vocabulary transplant as a recipe: one model, copied, with the tokens of another."""

from __future__ import annotations

from mergery.recipe.reading import load_recipe
from mergery.recipe.recipe import Recipe


def transplant_recipe(
    model: str, donor: str, *, fill: str = "omp", neighbours: int = 64, dtype: str | None = None, seed: int = 0
) -> Recipe:
    """The recipe that gives `model` the tokenizer of `donor` and copies all else. Raises RecipeError.

    `fill` says how rows of tokens that the model lacks are made; see `mergery.views.vocabulary.filling`.
    """
    return load_recipe(
        {
            "models": {"model": model, "donor": donor},
            "merge": {"method": "passthrough", "models": ["model"]},
            "output": {"dtype": dtype} if dtype else None,
            "vocabulary": {"from": "donor", "unknown": {"omp": neighbours} if fill == "omp" else fill},
            "seed": seed,
        }
    )
