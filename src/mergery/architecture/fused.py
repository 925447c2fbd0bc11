"""Several matrices stored as one: query, key and value; gate and up; the experts of a layer.

`fused_parts` says where each part's elements lie, from a name, a shape and the config.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mergery.architecture.sections import part_of
from mergery.checkpoints.config import Config

Span = tuple[int, int]  # first index and length along one axis


@dataclass(frozen=True)
class FusedPart:
    """One matrix, or one bias, inside a fused tensor: spans of one axis, in the rows [low, high) of all axes before it."""

    key: str  # tells it from the other parts: "q", "gate", "expert 3", "expert 3 up"
    roles: tuple[str, ...]
    shape: tuple[int, ...]
    whole: tuple[int, ...]  # shape of the fused tensor
    axis: int
    spans: tuple[Span, ...]
    rows: Span
    transposed: bool = False  # stored [in, out]

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the part's elements lie in the flattened whole, in the part's own order: starts and lengths, int64."""
        inner = math.prod(self.whole[self.axis + 1 :])
        size = self.whole[self.axis] * inner
        rows = np.arange(self.rows[0], self.rows[1], dtype=np.int64)
        first, count = (np.array(column, dtype=np.int64) * inner for column in zip(*self.spans, strict=True))
        starts = (rows[:, None] * size + first[None, :]).reshape(-1)
        return _joined(starts, np.tile(count, len(rows)))


def _joined(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same runs, where those that go on where the last ended are one."""
    fresh = np.ones(len(starts), dtype=bool)
    fresh[1:] = starts[1:] != starts[:-1] + lengths[:-1]
    return starts[fresh], np.add.reduceat(lengths, np.flatnonzero(fresh))


# --- which tensors are fused, and how -----------------------------------------------------------------------------

# Query, key and value are stored one after the other, unless the family interleaves them: for each head ("heads"), or for
# each key head with the query heads that share it ("groups").
_QKV = {
    "gpt_neox": "heads", "gpt_neox_japanese": "heads", "bloom": "heads", "persimmon": "heads", "fuyu": "heads",
    "stablelm_alpha": "heads", "internlm2": "groups", "phi3small": "groups", "codegen": "codegen",
}  # fmt: skip
_CONV1D = re.compile(r"(^|\.)(c_attn|c_proj|c_fc|q_attn)\.weight$")
_CONV1D_FAMILIES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_TRANSPOSED_EXPERTS = ("llama4", "llama4_text", "gpt_oss")
_EXPERTS_GATE_UP = re.compile(r"experts\.gate_up_proj(_bias)?$|input_linear\.weight$")
_EXPERTS_DOWN = re.compile(r"experts\.down_proj(_bias)?$|output_linear\.weight$")
_EXPERTS_ROWS = re.compile(r"experts\.mlp\.(w1|v1|w2)$")  # DBRX: all experts' rows in one matrix
_SWIGLU = re.compile(r"(^|\.)(gate_up_proj|input_linear)\.(weight|bias)$|(^|\.)dense_h_to_4h\.(weight|bias)$")
_LAYER = re.compile(r"\.(\d{1,6})\.")


def transposed(name: str, shape: tuple[int, ...], config: Config) -> bool:
    """Whether a matrix is stored [in, out], as GPT-2 and some stacks of experts do, not [out, in] as most are."""
    family = config.family_of(part_of(name))
    if len(shape) == 2:
        conv = family in _CONV1D_FAMILIES and bool(_CONV1D.search(name))
        return conv or (family == "dbrx" and name.endswith("experts.mlp.w2"))
    return (
        len(shape) == 3
        and family in _TRANSPOSED_EXPERTS
        and bool(_EXPERTS_GATE_UP.search(name) or _EXPERTS_DOWN.search(name))
    )


def fused_parts(
    name: str, shape: tuple[int, ...], roles: tuple[str, ...], config: Config
) -> tuple[FusedPart, ...] | None:
    """The parts of a fused tensor, weight or bias: they cover it, and each element belongs to exactly one.

    Empty where it is not fused; None where it is, and the config does not say how, or not of this shape.
    """
    if math.prod(shape) < 2:
        return ()
    if "expert" in roles or "experts" in name or "block_sparse_moe" in name:
        stacks = _experts(name, shape, config)
        if stacks != ():
            return stacks
    if "attention.qkv" in roles:
        return _attention(name, shape, config)
    if "attention.kv" in roles and name.endswith("kv_b_proj.weight"):
        return _latent(name, shape, config)
    if "mlp.gate_up" in roles and _SWIGLU.search(name):
        if config.family_of(part_of(name)) in ("phi3small", "gpt_oss"):  # gate and up take turns, row by row
            return ()
        half = shape[0] // 2
        spans = [("gate", "mlp.gate", ((0, half),)), ("up", "mlp.up", ((half, half),))]
        return _parts(shape, 0, spans, bias=name.endswith("bias"))
    return ()


def _parts(
    shape: tuple[int, ...],
    axis: int,
    spans: Sequence[tuple[str, str, tuple[Span, ...]]],
    *,
    bias: bool,
    flip: bool = False,
) -> tuple[FusedPart, ...] | None:
    """Parts along one axis of a vector or matrix. None where the spans do not fill the axis."""
    if sum(length for _, _, each in spans for _, length in each) != shape[axis]:
        return None
    parts = []
    for key, role, each in spans:
        own = list(shape)
        own[axis] = sum(length for _, length in each)
        roles = (role, "bias") if bias else (role,)
        parts.append(FusedPart(key, roles, tuple(own), shape, axis, each, (0, math.prod(shape[:axis])), flip))
    return tuple(parts)


def _attention(name: str, shape: tuple[int, ...], config: Config) -> tuple[FusedPart, ...] | None:
    flip = transposed(name, shape, config)
    axis = 1 if flip else 0
    spans = _qkv_spans(_layout(name, config), heads_of(name, config), shape[axis])
    if not spans:
        return None
    named = [(key, f"attention.{key}", tuple(spans[key])) for key in "qkv"]
    return _parts(shape, axis, named, bias=name.endswith("bias"), flip=flip)


def _layout(name: str, config: Config) -> str:
    part = part_of(name)
    family, own = config.family_of(part), config.section(part)
    if family == "falcon":
        if own.get("new_decoder_architecture"):
            return "groups"
        return "rows" if own.get("multi_query", True) else "heads"
    if family == "gpt_bigcode":
        return "rows" if own.get("multi_query", True) else "heads"
    return _QKV.get(family or "", "rows")


def _qkv_spans(layout: str, heads: tuple[int, int, int] | None, rows: int) -> dict[str, list[Span]] | None:
    """Where q, k and v lie among the rows; None where the numbers do not fit."""
    if layout == "codegen":
        block = rows // 12  # of four devices, each with its q, v and k
        starts = range(0, rows, 3 * block)
        if rows % 12:
            return None
        return {key: [(start + turn * block, block) for start in starts] for turn, key in enumerate("qvk")}
    if heads is None:
        third = rows // 3
        plain = layout == "rows" and rows % 3 == 0
        return {key: [(turn * third, third)] for turn, key in enumerate("qkv")} if plain else None
    queries, keys, size = heads
    if (queries + 2 * keys) * size != rows:
        return None
    if layout == "rows":
        first, second = queries * size, (queries + keys) * size
        return {"q": [(0, first)], "k": [(first, keys * size)], "v": [(second, keys * size)]}
    if layout == "heads" and keys != queries:
        return None
    shared = queries // keys
    block = (shared + 2) * size
    starts = range(0, rows, block)
    return {
        "q": [(start, shared * size) for start in starts],
        "k": [(start + shared * size, size) for start in starts],
        "v": [(start + (shared + 1) * size, size) for start in starts],
    }


def heads_of(name: str, config: Config) -> tuple[int, int, int] | None:
    """Query heads, key heads and the size of a head, of the layer that the name stands in; None where not all are known."""
    part = part_of(name)
    family, own = config.family_of(part), config.section(part)
    layer = _LAYER.search(name)

    def number(*keys: str) -> int | None:
        for key in keys:
            value = own.get(key)
            if isinstance(value, list) and layer and int(layer[1]) < len(value):
                value = value[int(layer[1])]
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        return None

    queries = number("num_attention_heads", "n_head", "n_heads", "num_heads", "num_query_heads")
    hidden = number("hidden_size", "n_embd", "d_model", "embed_dim")
    if part != "language" or queries is None:
        return None
    size = number("head_dim", "kv_channels") or (hidden // queries if hidden and hidden % queries == 0 else None)
    keys = number("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
    if family == "falcon":
        keys = (number("num_kv_heads") or queries) if own.get("new_decoder_architecture") else None
        keys = keys or (1 if own.get("multi_query", True) else queries)
    elif family == "gpt_bigcode":
        keys = 1 if own.get("multi_query", True) else queries
    elif family in ("mpt", "dbrx") and isinstance(own.get("attn_config"), dict):
        keys = own["attn_config"].get("kv_n_heads") or queries
    elif _QKV.get(family or "") == "heads" or (family == "chatglm" and not own.get("multi_query_attention")):
        keys = queries
    keys = keys or queries
    if size is None or not isinstance(keys, int) or queries % keys:
        return None
    return queries, keys, size


def _latent(name: str, shape: tuple[int, ...], config: Config) -> tuple[FusedPart, ...] | None:
    """DeepSeek's `kv_b_proj`: for each head, the rows of its key and then those of its value."""
    own = config.section(part_of(name))
    numbers = [own.get(key) for key in ("num_attention_heads", "qk_nope_head_dim", "v_head_dim")]
    if not all(isinstance(each, int) and each > 0 for each in numbers):
        return None
    heads, key, value = (int(each) for each in numbers if each)
    block = key + value
    spans = [
        ("k", "attention.k", tuple((head * block, key) for head in range(heads))),
        ("v", "attention.v", tuple((head * block + key, value) for head in range(heads))),
    ]
    return _parts(shape, 0, spans, bias=False)


def _experts(name: str, shape: tuple[int, ...], config: Config) -> tuple[FusedPart, ...] | None:
    """A layer's experts in one tensor: [experts, out, in], or [experts, in, out] where they are stored transposed."""
    rows = _EXPERTS_ROWS.search(name)
    if rows and len(shape) == 2:
        return tuple(_dbrx(rows[1], shape, config)) or None
    gate_up, down = _EXPERTS_GATE_UP.search(name), _EXPERTS_DOWN.search(name)
    bias = name.endswith("bias")
    if not (gate_up or down) or len(shape) != (2 if bias else 3):
        return ()
    flip = transposed(name, shape, config)
    own = shape[1:]
    before = own[0] if flip else 1  # rows of all axes before the outputs' that one expert has
    axis = len(shape) - 1 if flip or bias else 1
    halves = gate_up and config.family_of(part_of(name)) != "gpt_oss" and shape[axis] % 2 == 0
    half = shape[axis] // 2
    kinds = [(" gate", "mlp.gate", (0, half)), (" up", "mlp.up", (half, half))] if halves else []
    kinds = kinds or [("", "mlp.gate_up" if gate_up else "mlp.down", (0, shape[axis]))]
    parts = []
    for expert in range(shape[0]):
        for word, role, span in kinds:
            size = list(own)
            size[axis - 1] = span[1]
            roles = ("expert", role, "bias") if bias else ("expert", role)
            at = (expert * before, (expert + 1) * before)
            parts.append(FusedPart(f"expert {expert}{word}", roles, tuple(size), shape, axis, (span,), at, flip))
    return tuple(parts)


def _dbrx(word: str, shape: tuple[int, ...], config: Config) -> Iterator[FusedPart]:
    ffn = config.language.get("ffn_config")
    count = ffn.get("moe_num_experts") if isinstance(ffn, dict) else None
    if not isinstance(count, int) or count < 1 or shape[0] % count:
        return
    height = shape[0] // count
    role = {"w1": "mlp.gate", "v1": "mlp.up", "w2": "mlp.down"}[word]
    for expert in range(count):
        span = (expert * height, height)
        own = (height, shape[1])
        yield FusedPart(f"expert {expert}", ("expert", role), own, shape, 0, (span,), (0, 1), word == "w2")
