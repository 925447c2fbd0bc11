"""How a model is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergery.errors import RecipeError

DTYPES = ("float32", "bfloat16", "float16", "auto")


@dataclass(frozen=True)
class EvaluationOptions:
    """How to run. Only `chat`, `dtype` and `longest` can change a result by more than rounding."""

    batch: int = 32  # rows at once
    chat: bool = False  # put prompts through the tokenizer's chat template
    dtype: str = "float32"  # of the weights; logits are float32 in any case
    longest: int | None = None  # tokens at once; what the model says where None
    threads: int = 0  # of torch; 0 takes one for each core
    device: str = "auto"  # the first GPU where there is one

    def __post_init__(self) -> None:
        for name, least, hint in (
            ("batch", 1, "leave it out for 32"),
            ("threads", 0, "leave it out for one a core"),
            ("longest", 2, "leave it out for all that the model takes"),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}", why=f"it must be {least} or more", hint=hint)
        if self.dtype not in DTYPES:
            raise RecipeError(f"unknown dtype {self.dtype!r}", hint=f"one of {', '.join(DTYPES)}")

    def plain(self) -> dict[str, Any]:
        """What belongs to the question that is asked."""
        return {"chat": self.chat, "dtype": self.dtype, "longest": self.longest}
