"""The recipe: what it states (`recipe`), its values (`values`), and how it is read (`reading`)."""

from mergery.recipe.recipe import (
    CONVERSIONS,
    DEFAULT_SHARD,
    GROWTHS,
    Growth,
    Merge,
    Output,
    Override,
    Recipe,
    Slice,
    Source,
    TokenRow,
    Vocabulary,
)

__all__ = [
    "CONVERSIONS", "DEFAULT_SHARD", "GROWTHS", "Growth", "Merge", "Output", "Override", "Recipe", "Slice", "Source", "TokenRow",
    "Vocabulary",
]  # fmt: skip
