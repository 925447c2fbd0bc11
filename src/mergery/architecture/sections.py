"""Which part of a multimodal model a tensor belongs to."""

from __future__ import annotations

import re

PARTS = ("language", "vision", "audio", "projector")

_PROJECTOR = re.compile(
    r"(^|\.)(multi_modal_projector|mm_projector|multimodal_projector|modality_projection|connector|image_newline"
    r"|view_seperator|vision_language_adapter|patch_merger|mlp1|img_projection\w*|audio_projection\w*|visual_projection|text_projection|logit_scale|logit_bias"
    r"|image_projection|image_proj_norm|visual_temporal_embed|image_pos_embed|mm_input_projection\w*|mm_soft_emb_norm"
    r"|up_proj_for_\w+|down_proj_for_\w+|glb_GN|sub_GN)(\.|$)"
)
_MERGER = re.compile(r"(^|\.)(visual|vision_tower|vision_model)\.(merger|deepstack_merger_list)(\.|$)")
_VISION = re.compile(
    r"(^|\.)(vision_tower|vision_model|visual|vision_encoder|image_encoder|image_embed|vision_embed_tokens|img_processor"
    r"|vit|vision)(\.|$)"
)
_AUDIO = re.compile(r"(^|\.)(audio_tower|audio_model|audio_embed|audio_encoder|embed_audio|audio)(\.|$)")


def projector_of(name: str) -> str:
    """The module that leads from a tower to the language model, or beside it, where the name is of one; else empty."""
    found = _PROJECTOR.search(name) or _MERGER.search(name)
    return name[: found.end()].strip(".") if found else ""


def part_of(name: str) -> str:
    """`vision`, `audio`, `projector` (what leads from either to the language model), or `language`: all else."""
    if _PROJECTOR.search(name) or _MERGER.search(name):
        return "projector"
    if _VISION.search(name):
        return "vision"
    return "audio" if _AUDIO.search(name) else "language"
