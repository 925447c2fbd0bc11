"""How a fine-tune is moved to another base."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from mergery.errors import RecipeError, did_you_mean

Way = Literal["shift", "transplant", "transfusion", "theseus", "gradfix"]
WAYS: dict[str, str] = {
    "shift": "Orthogonal shift",
    "transplant": "transplant",
    "transfusion": "TransFusion",
    "theseus": "Theseus",
    "gradfix": "GradFix",
}
"""Every way, and what it is called in a sentence."""


OF: dict[str, tuple[Way, ...]] = {
    **dict.fromkeys(("ridge", "whiten", "heads", "sizes"), ("theseus",)),
    **dict.fromkeys(("mask", "vote"), ("gradfix",)),
    **dict.fromkeys(("samples", "length"), ("theseus", "gradfix")),
}
"""The ways that look at an option; those that are not named are of all."""


@dataclass(frozen=True)
class RebaseOptions:
    """How a fine-tune is moved to another base.

    way:     `transplant` adds what it has learned; `shift` without what the new base has learned as well; `transfusion` with
             neurons, heads and channels of the old base matched to those of the new one; `theseus` through
             orthogonal maps of all spaces; `gradfix` the part alone that goes down the new base's loss on data.
    scale:   factor of what is moved.
    samples: so many texts of the data are read at most.
    length:  tokens of a text.
    ridge:   of theseus, how much of what weights say is added to what texts say of a space.
    whiten:  of theseus, the power w of C_A^-w C C_B^-w, from 0 to .5.
    heads:   of theseus, whether an attention's spaces are mapped head by head (`each`), where the bases have equally many,
             or whole (`whole`, as published).
    sizes:   of theseus, whether what is carried is brought to the size that the new base's rows have (`matched`), or
             keeps its own (`kept`, as published).
    mask:    of gradfix, `drop` leaves out what goes up the loss, `turn` changes its sign.
    vote:    of gradfix, the sign of the `mean` gradient, or of the `majority` of texts.
    seed:    of texts that are drawn.
    """

    way: Way = "shift"
    scale: float = 1.0
    samples: int = 256
    length: int = 256
    ridge: float = 1e-2
    whiten: float = 0.0
    heads: Literal["each", "whole"] = "each"
    sizes: Literal["matched", "kept"] = "matched"
    mask: Literal["drop", "turn"] = "drop"
    vote: Literal["mean", "majority"] = "mean"
    seed: int = 0
    threads: int = 0  # of torch; 0 takes one for each core

    def __post_init__(self) -> None:
        words: dict[str, tuple[Any, ...]] = {
            "way": tuple(WAYS), "heads": ("each", "whole"), "sizes": ("matched", "kept"),
            "mask": ("drop", "turn"), "vote": ("mean", "majority"),
        }  # fmt: skip
        for name, known in words.items():
            value = getattr(self, name)
            if value not in known:
                raise RecipeError(f"unknown {name} {value!r}", hint=did_you_mean(str(value), known))
        for name, least, most in (
            ("samples", 1, None), ("length", 2, None), ("ridge", 0.0, None), ("whiten", 0.0, 0.5), ("threads", 0, None),
        ):  # fmt: skip
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                limits = f"from {least:g} to {most:g}" if most is not None else f"{least:g} or more"
                raise RecipeError(f"{name} is {value:g}", why=f"it must be {limits}", hint=f"{name}: {least:g}")
        for name, ways in OF.items():
            if self.way not in ways and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                what, why = f"{name} is of {' and '.join(ways)}", f"{WAYS[self.way]} does not look at it"
                raise RecipeError(what, why=why, hint=f"leave it out, or --way {ways[0]}")
        if not math.isfinite(self.scale):
            raise RecipeError(f"scale is {self.scale}", why="it must be a number", hint="scale: 1")

    def plain(self) -> dict[str, Any]:
        """What determines the result, as plain data."""
        own = {
            "theseus": ("samples", "length", "ridge", "whiten", "heads", "sizes", "seed"),
            "gradfix": ("samples", "length", "mask", "vote", "seed"),
        }
        names = ("way", "scale", *own.get(self.way, ()))
        return {name: getattr(self, name) for name in names}
