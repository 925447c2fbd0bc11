"""How models are fused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mergery.alignment.fusion.mapping import WAYS, By
from mergery.errors import RecipeError, did_you_mean

Rule = Literal["mince", "avgce"]
Match = Literal["spans", "warping"]
Precision = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]

KNOWN: Mapping[str, tuple[str, ...]] = {
    "rule": ("mince", "avgce"), "match": ("spans", "warping"), "vocabulary": WAYS, "precision": ("float32", "bfloat16"),
    "device": ("auto", "cpu", "cuda"),
}  # fmt: skip
LEAST: Mapping[str, int] = {
    "top": 1, "batch": 1, "at_once": 1, "longest": 4, "limit": 1, "lora": 1, "steps": 1, "save": 1, "shard": 1, "threads": 0,
}  # fmt: skip
BESIDES = ("device", "threads", "save", "at_once", "recompute")  # what does not decide the result
STAGE_ONE = ("match", "vocabulary", "top", "temperature", "longest", "limit", "shard", "precision")


@dataclass(frozen=True)
class FuseOptions:
    """How models are fused. The defaults are those of FuseLLM, but for `match` and `vocabulary`.

    rule:        which distributions are taught: those of the model that foretells the text best (`mince`), or of all, each
                 weighed by exp(-loss) (`avgce`); sequence by sequence.
    text:        weight of the text itself in the loss, the paper's lambda; the distributions have the rest.
    match:       how tokens of two models are matched: where they begin in the text (`spans`), or by dynamic time warping.
    vocabulary:  how a token becomes one of the target's: see `mergery.alignment.fusion.mapping`.
    top:         probabilities that are kept of each distribution, the largest. temperature: by which their logits are divided.
    with_target: whether the target's own distributions, as it is before, are among those that are chosen from.
    epochs, steps: times over the data, or steps, where they are given.
    rate, decay, warmup: of AdamW, whose betas are .9 and .95; the rate rises for the share `warmup` of all steps and then
                 falls along a cosine.
    batch:       sequences in a step; at_once: of them, in memory at a time.
    longest:     tokens of a sequence; None: what the target takes, 2048 at most. limit: items of the data.
    lora:        rank of an adapter that is trained instead of all weights, and then put on them.
    recompute:   whether activations are computed again on the way back: less memory, a third more time.
    save:        steps from one checkpoint of the training to the next. shard: letters of text in one file of distributions.
    """

    rule: Rule = "mince"
    text: float = 0.9
    match: Match = "spans"
    vocabulary: By = "first"
    top: int = 10
    temperature: float = 1.0
    with_target: bool = True
    epochs: float = 1.0
    steps: int | None = None
    rate: float = 1e-5
    decay: float = 0.1
    warmup: float = 0.008
    batch: int = 128
    at_once: int = 4
    longest: int | None = None
    limit: int | None = None
    lora: int | None = None
    seed: int = 0
    precision: Precision = "float32"
    recompute: bool = False
    save: int = 200
    shard: int = 1 << 22
    device: Device = "auto"
    threads: int = 0  # of torch; 0 takes one for each core

    def __post_init__(self) -> None:
        for name, known in KNOWN.items():
            value = getattr(self, name)
            if value not in known:
                raise RecipeError(f"unknown {name} {value!r}", hint=did_you_mean(str(value), known))
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}", why=f"it must be {least} or more", hint=f"{name}: {least}")
        for name in ("rate", "temperature", "epochs"):
            if not 0.0 < getattr(self, name) < float("inf"):
                hint = f"leave it out for {getattr(FuseOptions, name)}"
                raise RecipeError(f"{name} is {getattr(self, name)}", why="it must be above zero", hint=hint)
        for name in ("text", "warmup", "decay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                hint = f"leave it out for {getattr(FuseOptions, name)}"
                raise RecipeError(f"{name} is {getattr(self, name)}", why="it must be between 0 and 1", hint=hint)

    def plain(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        return {name: value for name, value in asdict(self).items() if name not in BESIDES}

    def told(self) -> dict[str, Any]:
        """What decides the stored distributions, as plain data."""
        return {name: value for name, value in self.plain().items() if name in STAGE_ONE}


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fusellm": {},
    "fusechat": {"rate": 5e-6, "epochs": 3.0, "temperature": 0.5, "vocabulary": "counts", "match": "warping"},
    "paper": {"vocabulary": "edit", "match": "warping"},
}
"""Options that differ from the defaults: FuseLLM with the better matching, FuseChat as published, FuseLLM as published."""


def steps_of(sequences: int, options: FuseOptions) -> int:
    """Steps of the training on so many sequences."""
    return options.steps or max(1, math.ceil(options.epochs * math.ceil(sequences / options.batch)))
