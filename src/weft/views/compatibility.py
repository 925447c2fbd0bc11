"""Whether models belong together: families, configs, quantised files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weft.architecture import text_config
from weft.checkpoints.base import Checkpoint
from weft.graph import View
from weft.recipe import Merge, Source

if TYPE_CHECKING:
    from weft.views import Builder


def check_quantised(builder: Builder, name: str, checkpoint: Checkpoint, source: Source) -> None:
    config = checkpoint.config or {}
    scheme = text_config(config).get("quantization_config") or config.get("quantization_config")
    odd = next((i for i in checkpoint.tensors.values() if i.dtype.floating and not i.dtype.mergeable), None)
    if scheme or odd:
        method = scheme.get("quant_method", "quantised") if isinstance(scheme, dict) else str(odd and odd.dtype)
        builder.fail(
            f"the model {name!r} is quantised ({method})",
            where=source.place,
            why=f"tensor {odd.name!r} is {odd.dtype}" if odd else "config.json has a quantization_config",
            hint="use its bfloat16, float16 or float32 version; quantised files cannot be merged yet",
        )


def check_families(builder: Builder, views: Mapping[str, View], merge: Merge) -> None:
    kinds = {name: view.architecture.family for name, view in views.items() if view.architecture.family}
    if len(set(kinds.values())) > 1:
        builder.fail(
            "the models are of different families",
            where=merge.place,
            why=", ".join(f"{name} is {family}" for name, family in kinds.items()),
            hint="merge models that were trained from one base",
        )
        return
    configs = {name: view.config for name, view in views.items() if view.config}
    first, *others = configs.items() if configs else ([("", {})])
    for name, config in others:
        for key, mine, theirs in config_differences(first[1] or {}, config):
            builder.warnings.append(
                f"{key} differs: {first[0]} has {mine}, {name} has {theirs}; the output takes its donor's"
            )


def config_differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Entries of two configs that change what the weights mean, and differ."""
    keys = (
        "rope_theta", "rope_scaling", "rope_parameters", "max_position_embeddings", "hidden_act", "hidden_activation",
        "rms_norm_eps", "layer_norm_eps", "sliding_window", "num_attention_heads", "num_key_value_heads", "head_dim",
        "tie_word_embeddings", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "embedding_multiplier",
        "residual_multiplier", "attention_multiplier", "logits_scaling",
    )  # fmt: skip
    a, b = text_config(mine), text_config(theirs)
    return [(key, a[key], b[key]) for key in keys if key in a and key in b and a[key] != b[key]]


def tied(config: Mapping[str, Any] | None) -> bool:
    return bool(config and (config.get("tie_word_embeddings") or text_config(config).get("tie_word_embeddings")))
