"""The recipe: what it states (`recipe`), its values (`values`), and how it is read (`reading`)."""

from mergery.recipe.recipe import (
    DEFAULT_SHARD,
    GROWTHS,
    Growth,
    Merge,
    Output,
    Override,
    Recipe,
    Slice,
    TokenRow,
    Vocabulary,
)
from mergery.recipe.source import CONVERSIONS, Source

__all__ = [
    "CONVERSIONS", "DEFAULT_SHARD", "GROWTHS", "Growth", "Merge", "Output", "Override", "Recipe", "Slice", "Source", "TokenRow",
    "Vocabulary",
]  # fmt: skip
