"""How codes are written: the layout of compressed-tensors, which vLLM, SGLang and transformers read.

integers  weight_packed [out, in · bits / 32] of 32-bit words, the lowest bits first, code + 2^(bits - 1); weight_shape
floats    weight [out, in] of eight bits
both      weight_scale [out, groups], in the dtype that the weight had
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.base import TensorInfo
from mergery.dtypes import DTYPES, DType
from mergery.errors import PlanError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

CODES = DTYPES["F8_E4M3"]
GROUPS = (16, 32, 64, 128, 256)
WORDS, SHAPE = DTYPES["I32"], DTYPES["I64"]


@dataclass(frozen=True)
class Scheme:
    """A way to quantise a model's matrices, under its name on the command line."""

    name: str
    bits: int
    words: str
    floating: bool = False
    group: int | None = None  # numbers of a row that share a scale; None: the row
    gptq: bool = False

    def in_groups(self, group: int | None) -> Scheme:
        """The same in groups of another size; None leaves it. Raises PlanError."""
        if group is None or group == self.group:
            return self
        if self.group is None:
            what, why = f"{self.name} has no groups", "each row has one scale"
            raise PlanError(what, why=why, hint="leave out --group, or take w4a16")
        if group not in GROUPS:
            why = "programs that run such models know others"
            raise PlanError(
                f"groups of {group} cannot be written", why=why, hint=f"one of {', '.join(map(str, GROUPS))}"
            )
        return replace(self, group=group)

    def infos(self, name: str, shape: Sequence[int], dtype: DType) -> tuple[TensorInfo, ...]:
        """The tensors in which a matrix is written: codes, scales, and of packed codes the shape."""
        stem = name.removesuffix(".weight")
        rows, width = shape
        scales = TensorInfo(f"{stem}.weight_scale", (rows, 1 if self.group is None else width // self.group), dtype)
        if self.floating:
            return TensorInfo(name, (rows, width), CODES), scales
        codes = TensorInfo(f"{stem}.weight_packed", (rows, -(-width * self.bits // 32)), WORDS)
        return codes, scales, TensorInfo(f"{stem}.weight_shape", (2,), SHAPE)

    def config(self, ignore: Sequence[str]) -> dict[str, Any]:
        """What `quantization_config` says; `ignore` are modules that are not quantised."""
        strategy = {"strategy": "channel"} if self.group is None else {"strategy": "group", "group_size": self.group}
        kind = "float" if self.floating else "int"
        weights = {"num_bits": self.bits, "type": kind, "symmetric": True, "dynamic": False, **strategy}
        inputs = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": True, "strategy": "token"}
        layout = "float-quantized" if self.floating else "pack-quantized"
        group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs if self.floating else None}
        return {
            "quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
            "config_groups": {"group_0": {**group, "output_activations": None, "format": layout}},
            "ignore": list(ignore), "kv_cache_scheme": None,
        }  # fmt: skip


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("w8a16", 8, "integers of 8 bits"),
        Scheme("w4a16", 4, "integers of 4 bits", group=128),
        Scheme("w4a16-gptq", 4, "integers of 4 bits, by GPTQ", group=128, gptq=True),
        Scheme("fp8", 8, "floats of 8 bits", floating=True),
    )
}
"""What `mergery export quantized` can write."""


def find_scheme(name: str) -> Scheme:
    """The scheme of this name. Raises PlanError."""
    known = SCHEMES.get(name.lower())
    if known is None:
        raise PlanError(f"there is no scheme {name!r}", hint=did_you_mean(name, SCHEMES))
    return known


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows of integers of 4 or 8 bits as bytes of 32-bit words, the lowest bits first, the last one filled with zeros."""
    import numpy as np

    rows, width = codes.shape
    full = np.zeros((rows, -(-width * bits // 32) * 32 // bits), np.uint8)
    full[:, :width] = (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    return full if bits == 8 else full[:, 0::2] | full[:, 1::2] << 4
