"""The numbers of a config that widths are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mergery.errors import PlanError


@dataclass(frozen=True)
class Sizes:
    """The numbers of a config that conversions change."""

    hidden: int
    heads: int
    kv_heads: int
    head: int
    inner: int

    def of(self, space: str) -> int | None:
        """The length of an axis; None for one that no conversion touches."""
        lengths = {"R": self.hidden, "N": self.hidden, "F": self.inner}
        return lengths.get(space, {"Q": self.heads * self.head, "K": self.kv_heads * self.head}.get(space))


def read_sizes(section: Mapping[str, Any], inner: str) -> Sizes:
    """The sizes that a config states. Raises PlanError where it lacks one."""

    def number(*keys: str, default: int | None = None) -> int:
        value = next((section[key] for key in keys if section.get(key) is not None), default)
        if not isinstance(value, int) or value < 1:
            raise PlanError(
                f"config.json has {keys[0]} of {value!r}",
                why="a conversion must know it",
                hint="mend the model's config.json",
            )
        return value

    hidden, heads = number("hidden_size", "n_embd"), number("num_attention_heads", "n_head")
    kv_heads = number("num_key_value_heads", default=heads)
    return Sizes(
        hidden, heads, kv_heads, number("head_dim", default=hidden // heads), number(inner, default=4 * hidden)
    )
