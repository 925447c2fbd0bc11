"""How far rotary positions are stretched: in keys of GGUF, in a tensor of factors, and in `config.json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.gguf.metadata import Metadata

FACTORS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
ORIGINAL = (
    8192,
    4096,
    2048,
    16384,
    32768,
    32,
    64,
    128,
    256,
    512,
    1024,
)  # contexts of training that are tried, most usual first
CLOSE = 1e-5


class Scaling(NamedTuple):
    """The rotation that is stretched: width of a head, and its base."""

    head: int
    theta: float


def llama3_factors(base: Scaling, factor: float, low: float, high: float, original: int) -> list[float]:
    """By how much each pair of dimensions turns more slowly, as Llama 3.1 defines it: long waves by `factor`, those that fit
    into the `original` context more than `high` times not at all.
    """
    found: list[float] = []
    for pair in range(base.head // 2):
        turns = original * base.theta ** (-2 * pair / base.head) / (2 * math.pi)
        if turns > high:
            found.append(1.0)
        elif turns < low:
            found.append(factor)
        else:
            smooth = (turns - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return found


def read_scaling(
    metadata: Metadata, tensors: Mapping[str, TensorInfo], values: Callable[[str], list[float]], base: Scaling
) -> dict[str, Any] | None:
    """The `rope_scaling` of a file; None where positions are not stretched. Raises CheckpointError for a kind that is not
    known.
    """
    word = metadata.all.get(f"{metadata.prefix}rope.scaling.type", "none")
    original = metadata.get("rope.scaling.original_context_length")
    if LONG in tensors and SHORT in tensors:
        found: dict[str, Any] = {"rope_type": "longrope", "short_factor": values(SHORT), "long_factor": values(LONG)}
        attention = metadata.get("rope.scaling.attn_factor")
        return found | ({"attention_factor": attention} if attention is not None else {})
    if FACTORS in tensors:
        return _llama3(metadata, [float(each) for each in values(FACTORS)], base)
    factor = metadata.get("rope.scaling.factor")
    if word == "none" or factor in (None, 0, 1):
        return None
    if word == "linear":
        return {"rope_type": "linear", "factor": float(factor)}
    if word == "yarn" and original:
        found = {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": int(original)}
        named = {"attn_factor": "attention_factor", "yarn_attn_factor": "attention_factor", "yarn_beta_fast": "beta_fast",
                 "yarn_beta_slow": "beta_slow"}  # fmt: skip
        stated = {ours: metadata.get(f"rope.scaling.{key}") for key, ours in named.items()}
        return found | {key: value for key, value in stated.items() if value is not None}
    raise metadata.error(
        f"positions are stretched in a way that is not known here: {word!r:.40}", "by rope.scaling.type"
    )


def _llama3(metadata: Metadata, factors: list[float], base: Scaling) -> dict[str, Any] | None:
    """The settings whose factors are those of the file."""
    largest = max(factors, default=1.0)
    if largest == 1:
        return None
    for original in ORIGINAL if largest > 1 else ():  # what is no stretching is that of no context
        settings = {"factor": round(largest, 4), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        made = llama3_factors(base, largest, 1.0, 4.0, original)
        if len(made) == len(factors) and all(
            math.isclose(one, other, rel_tol=CLOSE) for one, other in zip(made, factors, strict=True)
        ):
            return {"rope_type": "llama3", **settings, "original_max_position_embeddings": original}
    why = f"{FACTORS} holds factors up to {largest:g} that are not those of Llama 3.1 for any context that was tried"
    raise metadata.error("positions are stretched in a way that config.json cannot say", why)
