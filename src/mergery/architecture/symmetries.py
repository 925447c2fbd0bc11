"""What each family's computation leaves free: the changes of coordinates that its norms and positions do not see."""

from __future__ import annotations

from dataclasses import dataclass

from mergery.checkpoints.config import Config


@dataclass(frozen=True)
class Symmetries:
    """Of one family.

    norm:   over the residual stream: `rms`, which sees no sign, or `layer`, whose mean does.
    rotary: which coordinates of queries and keys positions turn together: those half the turned part apart (`half`), neighbours
            (`interleaved`), or none.
    share:  of a head's coordinates that are turned, where the config does not say.
    heads:  whether heads may change places: not where each has a slope of its own.
    offset: what norms add to their gains.
    """

    norm: str = "rms"
    rotary: str = "half"
    share: float = 1.0
    heads: bool = True
    offset: float = 0.0


CHAIN = Symmetries("layer", "")
"""A plain chain of matrices with element-wise activations between: what `model_type: mlp` says."""

_RMS = Symmetries()
_LEARNED = Symmetries("layer", "")  # positions are added to the embeddings
SYMMETRIES = {
    **dict.fromkeys(
        (
            "llama", "mistral", "granite", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "mixtral", "olmo2", "olmoe", "phi3",
            "gemma2", "gemma3_text", "smollm3", "exaone4", "granitemoe", "seed_oss", "arcee", "ministral",
        ),
        _RMS,
    ),
    **dict.fromkeys(("gpt2", "gpt_neo", "opt", "bert", "roberta"), _LEARNED),
    **dict.fromkeys(("olmo", "starcoder2", "falcon"), Symmetries("layer")),
    "gemma": Symmetries(offset=1.0),
    "gpt_neox": Symmetries("layer", share=0.25),
    "phi": Symmetries("layer", share=0.5),
    "stablelm": Symmetries("layer", share=0.25),
    "nemotron": Symmetries("layer", share=0.5, offset=1.0),
    "gptj": Symmetries("layer", "interleaved"),
    "cohere": Symmetries("layer", "interleaved"),
    "cohere2": Symmetries("layer", "interleaved"),
    "glm": Symmetries("rms", "interleaved", share=0.5),
    "glm4": Symmetries("rms", "interleaved", share=0.5),
    "mlp": CHAIN,
}  # fmt: skip
"""The families whose symmetries are known, and tested: each is transformed and must answer as it did."""


def symmetries_of(config: Config) -> Symmetries | None:
    """What a model's family leaves free; None where it is not known."""
    family, own = config.family_of("language"), config.language
    if family == "falcon" and own.get("alibi"):
        return Symmetries("layer", "", heads=False)
    return SYMMETRIES.get(family or "")


def rotated_share(config: Config, free: Symmetries, size: int) -> float:
    """The share of a head's coordinates that positions turn."""
    own = config.language
    stated = [own.get(key) for key in ("partial_rotary_factor", "rotary_pct")]
    ropes = own.get("rope_parameters")
    stated.append(ropes.get("partial_rotary_factor") if isinstance(ropes, dict) else None)
    turned = own.get("rotary_dim")
    stated.append(turned / size if isinstance(turned, int) and size else None)
    return next((float(value) for value in stated if isinstance(value, (int, float)) and value), free.share)
