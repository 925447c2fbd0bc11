"""What a tensor is for, from its name: one table of module words, tried in order."""

from __future__ import annotations

import re

ROLES = (
    "embed",
    "head",
    "norm",
    "attention",
    "attention.q",
    "attention.k",
    "attention.v",
    "attention.o",
    "attention.qkv",
    "attention.kv",
    "attention.norm",
    "mlp",
    "mlp.gate",
    "mlp.up",
    "mlp.down",
    "mlp.gate_up",
    "expert",
    "router",
    "conv",
    "ssm",
    "buffer",
    "linear",
    "bias",
    "other",
)

_ATTENTION = r"(attn|attention|mixer|mlstm_layer)\w*"
_TABLE: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (role, re.compile(pattern, re.IGNORECASE))
    for role, pattern in (
        (
            "buffer",
            r"inv_freq$|masked_bias$|position_ids$|token_type_ids$|num_batches_tracked$|running_(mean|var)$|global_mean$"
            r"|global_invstd$|pos_idx_to_embed$|relative_position_index$|correction_bias$|rotary_emb\.\w+$",
        ),
        ("ssm", r"(^|\.)(A_log|D|dt_bias|[if]gate_preact\.\w+|x_[a-z])$|(^|\.)(dt_proj|x_proj)\.|(^|\.)time_\w+$"),
        ("router", r"(^|\.)router\b|(^|(?<!attn)(?<!attention)\.)gate\.(weight|bias|wg)|shared_expert_gate"),
        ("attention.norm", r"(attn|attention|mixer|mamba)\w*\.(\w+\.)*(q|k|query|key)_?(layer)?_?norm"),
        ("norm", r"norm|(^|\.)(pre_)?ln_?\w*(\.|$)"),
        ("conv", r"(^|\.)\w*conv\w*\."),
        ("attention.qkv", r"qkv|query_key_value|c_attn|W_pack|in_proj_(weight|bias)$"),
        ("attention.kv", r"(^|\.)kv_(a|b)_proj"),
        ("mlp.gate", r"^(0\.)?mlp\.w2\b"),  # Qwen 1: its first is the one that is gated
        ("mlp.up", r"(feed_forward|ffn)\.key\b|^(0\.)?mlp\.w1\b"),
        ("mlp.down", r"(feed_forward|ffn)\.value\b"),
        ("mlp.gate", r"(feed_forward|ffn)\.receptance\b|proj_up_gate"),
        ("attention.q", r"(^|\.)(q_proj|query|wq|q_lin|q_a_proj|q_b_proj|q)\b"),
        ("attention.k", r"(^|\.)(k_proj|key|wk|k_lin|k)\b"),
        ("attention.v", r"(^|\.)(v_proj|value|wv|v_lin|v)\b"),
        ("ssm", r"(^|\.)(mamba|mixer|ssm)\.(in_proj|out_proj|norm)\b"),
        (
            "attention.o",
            rf"{_ATTENTION}\.(\w+\.)*(o_proj|out_proj|c_proj|proj|dense|wo|out_lin|output|output\.dense|o)\b",
        ),
        ("mlp.gate_up", r"gate_up_proj|input_linear"),
        ("mlp.gate", r"gate_proj|(^|\.)w1\b|c_fc_0|wi_0"),
        (
            "mlp.up",
            r"up_proj|(^|\.)w3\b|(^|\.)v1\b|c_fc|wi_1|fc_?1\b|fc_in|dense_h_to_4h|lin1|(^|\.)wi\b|intermediate\.dense|proj_up",
        ),
        (
            "mlp.down",
            r"down_proj|(^|\.)w2\b|output_linear|fc_?2\b|(mlp|ffn)\.c_proj|fc_out|dense_4h_to_h|lin2|(^|\.)wo\b|output\.dense"
            r"|proj_down",
        ),
        ("attention", r"attn|attention"),
        ("mlp", r"mlp|ffn|feed_forward|block_sparse_moe"),
    )
)
_STATISTICS = re.compile(r"running_(mean|var)$|global_(mean|invstd)$")
_EXPERT = re.compile(r"experts?\.|shared_expert|experts$|experts?_|block_sparse_moe\.(input|output)_linear")
_EMBED = re.compile(
    r"(^|\.)(wte|wpe|shared|embed_in|embed_positions|(\w+_)?embed|(\w+_)?embed_tokens|(\w*_)?embeddings?)(\.(weight|bias))?$"
)
_HEAD = re.compile(
    r"(^|\.)(lm_head|embed_out|output|head|classifier|score|qa_outputs|proj_out)(\.decoder|\.out_proj)?\.(weight|bias)$"
    r"|(^|\.)cls\.(predictions\.(decoder\.)?|seq_relationship\.)(weight|bias)$|(^|\.)final_logits_bias$"
)
_BEHIND = re.compile(r"(^|\.)(cls|lm_head|v_head)\.")
_BEFORE = re.compile(r"embed|pre_|patch|conv|(^|\.)ln_pre", re.IGNORECASE)
_PLAIN = ("embed", "head", "norm", "attention.norm", "router", "conv", "buffer")


def roles_of(rest: str, rank: int, *, stacked: bool, part: str) -> tuple[tuple[str, ...], bool]:
    """The roles of a tensor and whether it stands behind the main stack.

    `rest` is what stands behind the layer number, or the whole name outside stacks; `part` is that of `sections.part_of`.
    """
    roles: list[str] = []
    if not stacked:
        if part == "language" and _HEAD.search(rest):
            roles.append("head")
        elif rank <= 3 and _EMBED.search(rest) and not (_is("norm", rest) or _is("buffer", rest)):
            roles.append("embed")
    if not roles:
        found = next((role for role, pattern in _TABLE if pattern.search(rest)), None)
        if rank >= 4:
            mask = re.search(r"(attn|attention)\.bias$", rest)
            found = "buffer" if mask else "conv" if rest.endswith("weight") else found
        if _EXPERT.search(rest) and found not in ("router", "norm"):
            roles.append("expert")
        if found:
            roles.append("router" if rest.endswith("correction_bias") else found)
        if rest.endswith("correction_bias"):
            roles.append("buffer")
    roles = roles or ["other"]
    bias = rest.endswith("bias") and "buffer" not in roles[:1]
    matrix = (rank == 2 and rest.endswith(("weight", "proj"))) or (rank in (2, 3) and roles[0] == "expert")
    if bias:
        roles = [*(role for role in roles if role != "other"), "bias"]
    elif matrix and not (set(roles) & set(_PLAIN)) and not re.search(r"relative_attention_bias", rest):
        roles.append("linear")
    final = "norm" in roles and not _BEFORE.search(rest)
    after = not stacked and part == "language" and (roles[0] == "head" or final or bool(_BEHIND.search(rest)))
    return tuple(roles), after


def is_behind(name: str, roles: tuple[str, ...]) -> bool:
    """Whether a tensor outside the layers is of what gives a model's answer: its head, with the layers that lead to it."""
    return roles[0] == "head" or bool(_BEHIND.search(name))


def is_recomputed(name: str, roles: tuple[str, ...]) -> bool:
    """Whether a tensor is a buffer that follows from the config: positions, frequencies, masks; no statistics of data."""
    return roles[0] == "buffer" and not _STATISTICS.search(name)


def _is(role: str, rest: str) -> bool:
    return any(pattern.search(rest) for each, pattern in _TABLE if each == role)
