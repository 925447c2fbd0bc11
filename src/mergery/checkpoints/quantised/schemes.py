"""Which decoder each quantised tensor wants: told by names, dtypes and shapes; a config only says what these leave open."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.quantised.decoders import Decoder, FourBits, Fours, Int8, Packed, Scaled, Scales, Sixes
from mergery.checkpoints.quantised.turned import Awq, Experts, Gptq, Kept
from mergery.dtypes import F32, DType

AWQ = "AWQ"
Peek = Callable[[str], bytes]  # a small tensor whole
BLOCK = 128  # rows and columns of DeepSeek's FP8, where nothing else is said
BESIDE = (
    ".input_scale", ".output_scale", ".k_scale", ".v_scale", ".q_scale", ".input_global_scale", ".input_zero_point",
    ".weight_format", ".weight_shape", ".weight_g_idx", ".weight_global_scale", ".weight_zero_point", ".bias_scale",
)  # fmt: skip
"""What may stand beside codes: facts of the layout, and scales of activations, which plain weights do not need."""
SCALES = (".weight_scale_inv", ".weight_scale", ".scale_weight")  # behind a module's name
MARKS = ("scaled_fp8",)  # tensors that say only that a file is quantised
WORDS = {
    FourBits: "bitsandbytes, 4 bits", Int8: "bitsandbytes, int8", Gptq: "GPTQ", Packed: "compressed-tensors, packed integers",
    Fours: "compressed-tensors, FP4", Sixes: "compressed-tensors, FP6", Experts: "MXFP4", Scaled: "eight bits with scales",
    Awq: AWQ,
}  # fmt: skip


def find_decoders(tensors: Mapping[str, TensorInfo], scheme: Any, peek: Peek) -> dict[str, Decoder]:
    """A decoder for every tensor of codes that one is known for. `scheme` is the config's `quantization_config`."""
    stated = scheme if isinstance(scheme, dict) else {}
    finder = _Finder(tensors, stated, peek)
    found: dict[str, Decoder] = {}
    for name, info in tensors.items():
        decoder = finder.find(name, info)
        if decoder is not None:
            found[decoder.info.name] = decoder
    return found


class _Finder:
    def __init__(self, tensors: Mapping[str, TensorInfo], stated: Mapping[str, Any], peek: Peek) -> None:
        self.tensors, self.stated, self.peek = tensors, stated, peek
        self.kept = Kept()
        self.scaled = any(
            "scale" in name.rpartition(".")[2] for name in tensors
        )  # then eight bits alone say too little

    def find(self, name: str, info: TensorInfo) -> Decoder | None:
        """The decoder of what begins with this tensor; None where it is no first of one."""
        stem = name.removesuffix(".weight")
        if name.endswith("_qdata") and "._" in name:
            return self._attached(name, info)
        if name.endswith(".qweight"):
            return self._gptq(name.removesuffix(".qweight"), info)
        if name.endswith(".weight_packed"):
            return self._packed(name.removesuffix(".weight_packed"), info)
        if name.endswith("_blocks") and f"{name.removesuffix('_blocks')}_scales" in self.tensors:
            return self._experts(name.removesuffix("_blocks"), info)
        if info.dtype.name.startswith("F8") and any(
            f"{name}{each}" in self.tensors for each in ("_scale_inv", "_scale")
        ):
            return self._scaled(name, name, info)
        if stem == name and not info.dtype.name.startswith("F8"):
            return None
        if info.dtype.name == "U8" and f"{name}.quant_map" in self.tensors:
            return self._four_bits(name)
        if info.dtype.name == "I8" and f"{stem}.SCB" in self.tensors and len(info.shape) == 2:
            return Int8(_made(name, info.shape), self._uses(name, stem, ".SCB"), name, f"{stem}.SCB")
        if info.dtype.name == "I8" or info.dtype.name.startswith("F8"):
            return self._scaled(name, stem, info)
        return None

    def _uses(self, *names: str) -> tuple[str, ...]:
        """The first name, and what of the others stands beside the second, which is a stem."""
        first, stem, *suffixes = names
        found = [f"{stem}{suffix}" for suffix in (*suffixes, *BESIDE)]
        return (first, *(each for each in found if each in self.tensors and each != first))

    def _four_bits(self, name: str) -> Decoder | None:
        state = next(
            (each for kind in ("nf4", "fp4") if (each := f"{name}.quant_state.bitsandbytes__{kind}") in self.tensors),
            "",
        )
        if not state or f"{name}.absmax" not in self.tensors:
            return None
        try:
            said = json.loads(self.peek(state))
            shape, block = tuple(map(int, said["shape"])), int(said["blocksize"])
            nested, offset = int(said.get("nested_blocksize") or 0), float(said.get("nested_offset") or 0)
        except (ValueError, KeyError, TypeError):
            return None
        nested = nested if f"{name}.nested_absmax" in self.tensors else 0
        blocks = -(-math.prod(shape) // block) if block > 0 else -1
        right = (
            self.tensors[name].elements == -(-math.prod(shape) // 2)
            and self.tensors[f"{name}.absmax"].elements == blocks
        )
        if not right or block % 2 or self.tensors[f"{name}.quant_map"].elements != 16:
            return None
        parts = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
        uses = (name, state, *(each for part in parts if (each := f"{name}.{part}") in self.tensors))
        return FourBits(_made(name, shape), uses, name, block, nested, offset)

    def _gptq(self, stem: str, info: TensorInfo) -> Decoder | None:
        scales, zeros = self.tensors.get(f"{stem}.scales"), self.tensors.get(f"{stem}.qzeros")
        if (
            scales is None
            or zeros is None
            or info.dtype.name != "I32"
            or len(info.shape) != 2
            or len(scales.shape) != 2
        ):
            return None
        height = scales.shape[1]
        if len(zeros.shape) != 2 or zeros.shape[1] == 0:
            return None
        if info.shape[1] * 8 == height and zeros.shape == (scales.shape[0], info.shape[1]):
            size, left = divmod(info.shape[0], scales.shape[0])
            uses = self._uses(f"{stem}.qweight", stem, ".scales", ".qzeros")
            shape = (height, info.shape[0])
            return None if left else Awq(_made(f"{stem}.weight", shape), uses, stem, size, self.kept)
        if info.shape[1] != height:
            return None
        bits = self.stated.get("bits") or 32 * zeros.shape[1] // height
        if bits not in (2, 3, 4, 8) or zeros.shape != (scales.shape[0], -(-height * bits // 32)):
            return None
        width = info.shape[0] * 32 // bits
        groups = f"{stem}.g_idx" if f"{stem}.g_idx" in self.tensors else None
        if groups and self.tensors[groups].shape != (width,):
            return None
        one = 0 if self.stated.get("checkpoint_format") == "gptq_v2" else 1
        uses = self._uses(f"{stem}.qweight", stem, ".scales", ".qzeros", ".g_idx")
        size = -(-width // scales.shape[0])
        return Gptq(_made(f"{stem}.weight", (height, width)), uses, stem, bits, groups, size, one, self.kept)

    def _attached(self, name: str, info: TensorInfo) -> Decoder | None:
        """torchao's codes of eight bits, which may be of fewer, with scales and zero points: `q_proj._weight_qdata`."""
        module, _, own = name.removesuffix("_qdata").rpartition("._")
        parts = {part: f"{module}._{own}_{part}" for part in ("qdata", "scale", "zero_point")}
        scale, zero = self.tensors.get(parts["scale"]), self.tensors.get(parts["zero_point"])
        integral = info.dtype.name == "I8"
        beside = [each for each in self.tensors if each.startswith(f"{module}._{own}_") and each not in parts.values()]
        if scale is None or beside or not (integral or info.dtype.name.startswith("F8")) or len(info.shape) < 2:
            return None
        if zero is not None and (zero.shape != scale.shape or zero.dtype.floating):
            return None
        scales = self._scales(scale, info.shape)
        uses = tuple(each for each in parts.values() if each in self.tensors)
        made = _made(f"{module}.{own}", info.shape)
        return Scaled(made, uses, name, scales, parts["zero_point"] if zero else None, not integral) if scales else None

    def _packed(self, stem: str, info: TensorInfo) -> Decoder | None:
        if len(info.shape) < 2 or f"{stem}.weight_scale" not in self.tensors:
            return None
        name, scale = f"{stem}.weight", self.tensors[f"{stem}.weight_scale"]
        uses = self._uses(info.name, stem, ".weight_scale")
        if info.dtype.name == "U8":  # floats of four bits, or of six
            six = scale.dtype.name == "U8" and info.shape[-1] == 24 * scale.shape[-1]
            shape = (*info.shape[:-1], info.shape[-1] * 4 // 3 if six else info.shape[-1] * 2)
            overall = f"{stem}.weight_global_scale"
            scales = self._scales(scale, shape, overall=overall if overall in self.tensors else None)
            return (Sixes if six else Fours)(_made(name, shape), uses, info.name, scales) if scales else None
        try:
            raw = self.peek(f"{stem}.weight_shape")
        except KeyError:
            return None
        shape = tuple(int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8))
        bits = self._bits()
        if info.dtype.name != "I32" or bits not in (2, 4, 8) or shape[:-1] != info.shape[:-1]:
            return None
        if info.shape[-1] != -(-shape[-1] * bits // 32):
            return None
        columns = f"{stem}.weight_g_idx" if f"{stem}.weight_g_idx" in self.tensors else None
        scales = self._scales(scale, shape, columns=columns)
        zeros = f"{stem}.weight_zero_point" if f"{stem}.weight_zero_point" in self.tensors else None
        if zeros and (self.tensors[zeros].dtype.name != "I32" or (len(shape) > 2 and shape[-2] * bits % 32)):
            return None
        return Packed(_made(name, shape), uses, info.name, scales, bits, zeros) if scales else None

    def _bits(self) -> int:
        """Bits of a weight, where all groups of layers have as many; 0 where nothing says it."""
        groups = self.stated.get("config_groups")
        found: set[Any] = set()
        for group in groups.values() if isinstance(groups, dict) else ():
            weights = group.get("weights") if isinstance(group, dict) else None
            found.add(weights.get("num_bits") if isinstance(weights, dict) else None)
        return found.pop() if len(found) == 1 and all(isinstance(each, int) for each in found) else 0

    def _scaled(self, name: str, stem: str, info: TensorInfo) -> Decoder | None:
        """Codes of eight bits under a weight's own name; of a stack of experts, scales stand behind its name."""
        endings = SCALES if stem != name else ("_scale_inv", "_scale", *SCALES)
        suffix = next((each for each in endings if f"{stem}{each}" in self.tensors), "")
        if not suffix:
            plain = (
                info.dtype.name.startswith("F8")
                and info.dtype.name != "F8_E8M0"
                and not self.stated
                and not self.scaled
            )
            made = _made(name, info.shape)
            return Scaled(made, (name,), name, floats=True) if plain and len(info.shape) == 2 else None
        if len(info.shape) not in (2, 3):
            return None
        scales = self._scales(self.tensors[f"{stem}{suffix}"], info.shape)
        zeros = f"{stem}.weight_zero_point"
        uses = self._uses(name, stem, suffix)
        known = self.tensors.get(zeros)
        if known is not None and (known.dtype.floating or known.shape != self.tensors[f"{stem}{suffix}"].shape):
            return None
        made, floats = _made(name, info.shape), info.dtype.floating
        return Scaled(made, uses, name, scales, zeros if known else None, floats) if scales else None

    def _scales(
        self, info: TensorInfo, shape: tuple[int, ...], *, columns: str | None = None, overall: str | None = None
    ) -> Scales | None:
        """How scales lie over a matrix, or over those of a stack, one above the other; None where that is not clear."""
        rows, width = math.prod(shape[:-1]), shape[-1]
        grid = info.shape
        if math.prod(grid) == 1:
            return Scales(info.name, (rows, width), None, overall)
        if len(shape) > 2 and len(grid) == len(shape) and grid[:-2] == shape[:-2]:
            tall = shape[-2]
            if math.prod(grid[-2:]) == 1:  # one for each matrix
                return Scales(info.name, (tall, width), None, overall)
            if tall % grid[-2] == 0 and (grid[-2] == tall or tall % BLOCK == 0):  # no block is of two matrices
                grid = (math.prod(grid[:-1]), grid[-1])
        if grid in ((rows,), (rows, 1)):
            return Scales(info.name, (1, width), None, overall)
        if len(grid) != 2 or not all(grid):
            return None
        if grid[0] == rows and width % grid[1] == 0:
            return Scales(info.name, (1, width // grid[1]), columns, overall)
        stated = self.stated.get("weight_block_size")
        blocks = [tuple(stated)] if isinstance(stated, list) and len(stated) == 2 else []
        for tall, wide in (*blocks, (BLOCK, BLOCK)):
            if tall > 0 and wide > 0 and grid == (-(-rows // tall), -(-width // wide)):
                return Scales(info.name, (tall, wide), None, overall)
        return None

    def _experts(self, stem: str, info: TensorInfo) -> Decoder | None:
        scales = self.tensors[f"{stem}_scales"]
        if info.dtype.name != "U8" or len(info.shape) != 4 or info.shape[3] != 16 or scales.shape != info.shape[:3]:
            return None
        shape = (info.shape[0], info.shape[2] * 32, info.shape[1])
        return Experts(_made(stem, shape), (info.name, scales.name), info.name, scales.name, self.kept)


def _made(name: str, shape: tuple[int, ...], dtype: DType = F32) -> TensorInfo:
    return TensorInfo(name, shape, dtype)
