"""Canonical names: two spellings of one model's tensors have the same.

Checkpoints of one model are spelled differently by the versions of transformers that wrote them: with or without the prefix of
the base model, experts one by one or stacked, a vision model's language model here or there in the tree. A canonical name
says neither. It is only used to find what belongs together; outputs keep the names of their donor's files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mergery.checkpoints.config import Config

_PREFIX = re.compile(
    r"^(?:(?:model|language_model|text_model|transformer|gpt_neox|backbone|rwkv|bert|roberta|electra|deberta|distilbert"
    r"|camembert|albert|mpnet)\.)+(?=\w)"
)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(vision_tower|image_tower)\.vision_model\.", r"\1."),
        (r"^(vision_tower|vision_model|visual|vision_encoder)\.(vision_model\.)?", r"vision."),
        (r"^(multi_modal_projector|multimodal_projector|mm_projector)\.", "projector."),
        (r"encoder\.layer\.(\d+)\.", r"layers.\1."),  # of ViT and its kin, before transformers 5
        (r"\.attention\.(attention|self)\.query\.", ".attention.q_proj."),
        (r"\.attention\.(attention|self)\.key\.", ".attention.k_proj."),
        (r"\.attention\.(attention|self)\.value\.", ".attention.v_proj."),
        (r"\.attention\.(self|attention|relative_position_bias)\.relative_position", ".attention.relative_position"),
        (r"(\.\d+\.attention)\.output\.dense\.", r"\1.o_proj."),
        (r"(\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
        (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"^embed_out\.", "lm_head."),
        (r"\.block_sparse_moe\.", ".mlp."),
        (r"\.mlp\.input_linear\.weight$", ".mlp.experts.gate_up_proj"),
        (r"\.mlp\.output_linear\.weight$", ".mlp.experts.down_proj"),
        (r"\.mlp\.router\.layer\.", ".mlp.router."),
        (r"\.mlp\.gate\.(weight|bias|e_score_correction_bias)$", r".mlp.router.\1"),
        (r"\.mlp\.e_score_correction_bias$", ".mlp.router.e_score_correction_bias"),
        (r"\.experts\.(\d+)\.w1\.", r".experts.\1.gate_proj."),
        (r"\.experts\.(\d+)\.w3\.", r".experts.\1.up_proj."),
        (r"\.experts\.(\d+)\.w2\.", r".experts.\1.down_proj."),
        (r"LayerNorm\.gamma$", "LayerNorm.weight"),
        (r"LayerNorm\.beta$", "LayerNorm.bias"),
    )
)

# Families whose tensors are those of another under other names, exactly.
_RENAMED: Mapping[str, tuple[str, tuple[tuple[re.Pattern[str], str], ...]]] = {
    "exaone": (
        "llama",
        tuple(
            (re.compile(pattern), replacement)
            for pattern, replacement in (
                (r"^wte\.", "embed_tokens."),
                (r"^ln_f\.", "norm."),
                (r"^h\.(\d+)\.ln_1\.", r"layers.\1.input_layernorm."),
                (r"^h\.(\d+)\.ln_2\.", r"layers.\1.post_attention_layernorm."),
                (r"^h\.(\d+)\.attn\.attention\.out_proj\.", r"layers.\1.self_attn.o_proj."),
                (r"^h\.(\d+)\.attn\.attention\.", r"layers.\1.self_attn."),
                (r"^h\.(\d+)\.mlp\.c_fc_0\.", r"layers.\1.mlp.gate_proj."),
                (r"^h\.(\d+)\.mlp\.c_fc_1\.", r"layers.\1.mlp.up_proj."),
                (r"^h\.(\d+)\.mlp\.c_proj\.", r"layers.\1.mlp.down_proj."),
            )
        ),
    ),
}

# Families whose modules in transformers bear other names than their files.
_GRANITE = (
    (re.compile(r"\.input_linear\.weight$"), ".experts.gate_up_proj"),
    (re.compile(r"\.output_linear\.weight$"), ".experts.down_proj"),
    (re.compile(r"\.router\.layer\."), ".router."),
)
_MLP = ((re.compile(r"\.block_sparse_moe\."), ".mlp."),)
_MODULES: Mapping[str, tuple[tuple[re.Pattern[str], str], ...]] = {
    "mixtral": _MLP, "minimax": _MLP, "minimax_m2": _MLP, "phimoe": (*_MLP, (re.compile(r"\.mlp\.gate\."), ".mlp.router.")),
    "granitemoe": _GRANITE, "granitemoeshared": _GRANITE, "granitemoehybrid": _GRANITE,
}  # fmt: skip

# The language model of a multimodal model, where its own model type is not a plain model's.
_LANGUAGE = {
    "qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2", "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "gemma3": "gemma3_text", "llama4": "llama4_text",
}  # fmt: skip

# Families whose heads are tied where the config does not say; `tie_word_embeddings` is only written where it differs.
_TIED_FAMILIES = {
    "gpt2", "gpt_neo", "gpt_bigcode", "bert", "roberta", "electra", "t5", "bart", "gemma", "gemma2", "gemma3", "gemma3_text",
    "falcon", "bloom", "mpt", "opt", "cohere", "cohere2", "mamba", "falcon_mamba", "whisper", "distilbert", "modernbert",
    "albert", "xlm-roberta", "camembert", "mpnet", "deberta", "deberta-v2", "mbart", "m2m_100", "marian", "pegasus",
}  # fmt: skip

_SCALED_FAMILIES = {"t5", "mt5", "umt5", "longt5", "switch_transformers", "udop", "pop2piano"}

# A tensor that is another one's alias: always, or where the config ties the head to the embeddings.
_EMBEDDINGS = (
    "embed_tokens.weight", "wte.weight", "shared.weight", "embed_in.weight", "embeddings.weight", "word_embeddings.weight",
    "embeddings.word_embeddings.weight", "embeddings.tok_embeddings.weight", "decoder.embed_tokens.weight",
)  # fmt: skip
_ALIASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("encoder.embed_tokens.weight", ("shared.weight",)),
    ("decoder.embed_tokens.weight", ("shared.weight",)),
    ("cls.predictions.decoder.bias", ("cls.predictions.bias",)),
    ("lm_head.decoder.bias", ("lm_head.bias",)),
)
HEADS = (
    "lm_head.weight", "lm_head.decoder.weight", "cls.predictions.decoder.weight", "proj_out.weight", "vocab_projector.weight",
    "generator_lm_head.weight", "predictions.decoder.weight", "decoder.weight",
)  # fmt: skip
"""Canonical names of heads that may be tied to the embeddings."""


_NUMBER = re.compile(r"\.(\d+)(?=\.)")


def language_family(config: Config) -> str | None:
    """The model type of the language model, by which a multimodal model and a plain one can belong together."""
    kind = config.family_of("language")
    if kind is None:
        return None
    plain = _LANGUAGE.get(kind, kind)
    return _RENAMED[plain][0] if plain in _RENAMED else plain


def canonical_name(name: str, kind: str | None = None) -> str:
    """The canonical name of a tensor. `kind` is the model type of its checkpoint."""
    name = _PREFIX.sub("", name)
    if kind is not None:  # which is what most families call the model below their heads
        name = name.removeprefix(f"{kind.replace('-', '_')}.")
    rules = _RULES if kind is None or kind not in _RENAMED else (*_RULES, *_RENAMED[kind][1])
    for pattern, replacement in rules:
        name = pattern.sub(replacement, name)
    return name


def name_in_transformers(name: str, config: Config) -> str:
    """What transformers calls a tensor of a file: the experts of a layer, which it stacks, keep their numbers here."""
    for pattern, replacement in _MODULES.get(config.family_of("language") or "", ()):
        name = pattern.sub(replacement, name)
    return name


def canonical_names(names: Iterable[str], config: Config) -> dict[str, str]:
    """Canonical names of all tensors of a checkpoint; none where two would have the same."""
    kind = config.family_of("language")
    known: dict[str, list[str]] = {}  # names that differ in numbers alone are read once: there may be 100,000
    result: dict[str, str] = {}
    for name in names:
        pieces = _NUMBER.split(name)
        pattern = ".0".join(pieces[::2])
        if pattern not in known:
            known[pattern] = _NUMBER.split(canonical_name(pattern, kind))[::2]
        texts = known[pattern]
        if 2 * len(texts) == len(pieces) + 1:
            result[name] = texts[0] + "".join([f".{n}{t}" for n, t in zip(pieces[1::2], texts[1:], strict=True)])
        else:
            result[name] = canonical_name(name, kind)
    return result if len(set(result.values())) == len(result) else {}


def ties_head(config: Config) -> bool | None:
    """Whether the config, or else the family's default, ties the head to the embeddings; None where neither says."""
    if config.tied is not None:
        return config.tied
    return True if config.language.family in _TIED_FAMILIES else None


def scales_if_tied(config: Config) -> bool:
    """Whether a model that says that its head is tied also scales what the head gets, as T5 does."""
    return config.language.family in _SCALED_FAMILIES


def aliases(config: Config, names: Iterable[str]) -> dict[str, str]:
    """What stands for what in a model of these canonical names: alias to the tensor that is stored.

    A head counts as tied where the config says so, or says nothing and no head is stored.
    """
    present = set(names)
    flag = ties_head(config)
    found: dict[str, str] = {}
    for alias, targets in _ALIASES:
        target = next((each for each in targets if each in present), None)
        if target:
            found[alias] = target
    target = next((each for each in _EMBEDDINGS if each in present), None)
    if target:
        heads = HEADS if flag else [head for head in HEADS[:3] if flag is None and head not in present]
        found |= dict.fromkeys(heads, target)
    return found
