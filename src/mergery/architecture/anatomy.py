"""What changes of shape know of each family: the space that each axis of each tensor belongs to, and its norms.

Spaces: R residual stream, Q query heads, K key/value heads, F inner neurons, N gains of a norm over the residual stream; a
dash is an axis that no conversion touches. `A+B` are spaces one behind the other in a fused tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_LLAMA = {
    r"(embed_tokens|lm_head|score)\.weight": "- R",
    r"self_attn\.q_proj\.weight": "Q R",
    r"self_attn\.q_proj\.bias": "Q",
    r"self_attn\.[kv]_proj\.weight": "K R",
    r"self_attn\.[kv]_proj\.bias": "K",
    r"self_attn\.o_proj\.weight": "R Q",
    r"mlp\.(gate|up)_proj\.weight": "F R",
    r"mlp\.(gate|up)_proj\.bias": "F",
    r"mlp\.down_proj\.weight": "R F",
    r"(o_proj|down_proj)\.bias": "R",
    r"\w+_layernorm\.weight": "N",
    r"model\.norm\.weight": "N",
    r"rotary_emb\.inv_freq": "-",
}
_HEAD_NORMS = {r"self_attn\.[qk]_norm\.weight": "-"}
_WIDE_NORMS = {r"self_attn\.q_norm\.weight": "Q", r"self_attn\.k_norm\.weight": "K"}
_EXPERTS = {  # whose inner size is not the config's intermediate_size
    r"mlp\.(gate|shared_expert_gate)\.weight": "- R",
    r"mlp\.(experts\.\d+|shared_expert)\.(gate|up)_proj\.weight": "- R",
    r"mlp\.(experts\.\d+|shared_expert)\.down_proj\.weight": "R -",
}
_MIXTRAL = {
    r"block_sparse_moe\.gate\.weight": "- R",
    r"block_sparse_moe\.experts\.\d+\.w[13]\.weight": "F R",
    r"block_sparse_moe\.experts\.\d+\.w2\.weight": "R F",
}
_PHI3 = {r"self_attn\.qkv_proj\.weight": "Q+K+K R", r"mlp\.gate_up_proj\.weight": "F+F R"}
_GPT2 = {  # matrices stand the other way round
    r"(wte|wpe|lm_head|score)\.weight": "- R",
    r"attn\.c_attn\.weight": "R -",
    r"attn\.c_attn\.bias": "-",
    r"attn\.c_proj\.weight": "Q R",
    r"mlp\.c_fc\.weight": "R F",
    r"mlp\.c_fc\.bias": "F",
    r"mlp\.c_proj\.weight": "F R",
    r"c_proj\.bias": "R",
    r"ln_\w\.(weight|bias)": "N",
    r"attn\.(masked_)?bias": "-",
}


@dataclass(frozen=True)
class Anatomy:
    """A family's tensors and norms."""

    axes: tuple[tuple[re.Pattern[str], str], ...]
    norm: Literal["rms", "offset", "layer"] = "rms"  # x/rms(x) times w, times 1 + w, or with the mean taken off
    scales_embeddings: bool = False  # by the root of the hidden size
    grouped: bool = True  # key/value heads may be fewer than query heads
    normed_heads: bool = False  # norms of queries and keys share the epsilon of the others
    inner: str = "intermediate_size"

    def of(self, name: str) -> tuple[str, ...] | None:
        """The spaces of a tensor's axes; None for a name that the family does not have."""
        return next((tuple(axes.split()) for pattern, axes in self.axes if pattern.search(name)), None)


def _axes(*tables: Mapping[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple(
        (re.compile(rf"(^|\.){pattern}$"), axes) for table in reversed(tables) for pattern, axes in table.items()
    )


_PLAIN = Anatomy(_axes(_LLAMA))
_GEMMA = Anatomy(_axes(_LLAMA), norm="offset", scales_embeddings=True)
_QWEN3 = Anatomy(_axes(_LLAMA, _HEAD_NORMS), normed_heads=True)
ANATOMIES = {
    "llama": _PLAIN,
    "mistral": _PLAIN,
    "granite": _PLAIN,
    "qwen2": _PLAIN,
    "qwen2_moe": Anatomy(_axes(_LLAMA, _EXPERTS)),
    "qwen3": _QWEN3,
    "qwen3_moe": Anatomy(_axes(_LLAMA, _HEAD_NORMS, _EXPERTS), normed_heads=True),
    "olmo2": Anatomy(_axes(_LLAMA, _WIDE_NORMS), normed_heads=True),
    "mixtral": Anatomy(_axes(_LLAMA, _MIXTRAL)),
    "phi3": Anatomy(_axes(_LLAMA, _PHI3)),
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3_text": Anatomy(_axes(_LLAMA, _HEAD_NORMS), norm="offset", scales_embeddings=True, normed_heads=True),
    "gpt2": Anatomy(_axes(_GPT2), norm="layer", grouped=False, inner="n_inner"),
}

# Families whose block adds nothing where the output projections of its attention and MLP are zero.
RESIDUAL = frozenset(ANATOMIES) | {
    "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "exaone4", "falcon", "gpt_neo", "gpt_neox", "gptj", "mamba", "mamba2",
    "olmo", "phi", "smollm3", "stablelm", "starcoder2",
}  # fmt: skip
