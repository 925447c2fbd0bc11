"""Quantised weights told by the names and dtypes of tensors, whatever a config says: averages of codes mean nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mergery.checkpoints.base import TensorInfo

# What the names of quantised tensors end in, and who stores them so. Of two that fit, the first.
ENDINGS = {
    ".SCB": "bitsandbytes, int8", ".weight.absmax": "bitsandbytes, 4 bits", ".g_idx": "GPTQ", ".qzeros": "GPTQ or AWQ",
    ".qweight": "GPTQ or AWQ", ".scales_and_zeros": "torchao", "_qdata": "torchao", ".weight_packed": "compressed-tensors",
    ".weight_zero_point": "compressed-tensors", ".weight_shape": "compressed-tensors", ".bitmask": "compressed-tensors",
    ".weight_scale_inv": "fp8", ".weight_scale_2": "nvfp4", ".W_q": "HQQ", ".weight._data": "quanto",
    ".weight._scale": "quanto", ".weight_scales": "EETQ",
}  # fmt: skip
SCALES = (".weight_scale", ".scales", ".weight_scales", "_scale_inv")  # of codes, where a config speaks of them
CODES = (".weight", "_proj", ".codes")  # what is never a matrix of integers in a model of plain numbers


class Codes(NamedTuple):
    """How weights are quantised, and what says so."""

    scheme: str
    why: str


def find_codes(tensors: Mapping[str, TensorInfo], *, declared: str = "") -> Codes | None:
    """How the weights are quantised; None where all are plain numbers. `declared` is the config's word for it, if any."""
    text = "\n".join(tensors) + "\n"
    for ending, scheme in ENDINGS.items():
        name = _with_ending(text, ending)
        if name:
            return Codes(declared or scheme, f"it stores {name!r}")
    if "_blocks" in text and "_scales" in text:
        name = next((name for name in tensors if name.endswith("_blocks")), None)
        if name and f"{name.removesuffix('_blocks')}_scales" in tensors:
            return Codes(declared or "mxfp4", f"it stores {name!r} with its scales")
    for name, info in tensors.items():
        if info.dtype.floating and not info.dtype.mergeable:
            return Codes(declared or str(info.dtype), f"tensor {name!r} is {info.dtype}")
        if not info.dtype.floating and len(info.shape) > 1 and name.endswith(CODES):
            return Codes(declared or str(info.dtype), f"tensor {name!r} is {info.dtype}")
    if declared and (name := next(filter(None, (_with_ending(text, ending) for ending in SCALES)), "")):
        return Codes(declared, f"it stores {name!r}")
    return None


def _with_ending(text: str, ending: str) -> str:
    """The first of the names, one a line, that ends so; empty where none does."""
    at = text.find(f"{ending}\n")
    return text[text.rfind("\n", 0, at) + 1 : at + len(ending)] if at >= 0 else ""
