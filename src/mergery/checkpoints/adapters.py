"""Adapters told by the names of their tensors: low-rank factors and the like, which mean nothing without their model.

Averaged one by one, factors give another product: the average of A and of B is not that of BA. So no adapter may pass for a
model, whatever its file is called.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.file_kinds import ADAPTER

# What stands in the names of an adapter's tensors, and its kind.
MARKS = {
    ".lora_magnitude_vector": "DoRA", ".dora_scale": "DoRA", ".ranknum": "AdaLoRA", ".vera_lambda_": "VeRA",
    ".lora_A": "LoRA", ".lora_B": "LoRA", ".lora_embedding_A": "LoRA", "lora_down.weight": "LoRA", "lora_up.weight": "LoRA",
    "lora.down.weight": "LoRA", "lora.up.weight": "LoRA", ".lora_linear_layer.down.": "LoRA", ".hada_w1_a": "LoHa",
    ".lokr_w1": "LoKr", ".lokr_w2": "LoKr", ".randlora_": "RandLoRA", ".ia3_l": "IA3", ".oft_r.": "OFT", ".oft_R.": "OFT",
    ".oft_blocks": "OFT", ".boft_R": "BOFT", ".hra_u": "HRA", ".fourierft_spectrum": "FourierFT", ".vblora_": "VB-LoRA",
    ".shira_weight": "SHiRA", ".bone_block": "Bone", ".miss_block": "MiSS", "prompt_embeddings": "prompt tuning",
    "ip_adapter.": "IP-Adapter",
}  # fmt: skip
_FACTOR = r"lora_A|lora_B|lora_embedding_A|lora_down|lora_up|lora\.down|lora\.up|lora_linear_layer"
_FIRST_FACTOR = re.compile(r"(?:\.lora_A(?:\.\w+)?|lora_down|lora\.down|lora_linear_layer\.down)\.weight$|\.lora_A$")
_TARGET = re.compile(rf"(?P<module>\w+?)(?:_lora)?\.(?:{_FACTOR})\b")


class Adapter(NamedTuple):
    """What an adapter says of itself."""

    kind: str  # LoRA, DoRA, IA3, ...
    evidence: str  # a tensor's name, by which it was told
    ranks: tuple[int, ...] = ()
    alpha: float | None = None
    base: str | None = None  # the model that it was made for
    targets: tuple[str, ...] = ()  # the modules that it changes
    beside: bool = False  # whether the model's own weights stand beside it, in the same files

    @property
    def words(self) -> str:
        """`LoRA of rank 4, alpha 8, on q_proj and v_proj`."""
        parts = [self.kind]
        if self.ranks:
            low, high = min(self.ranks), max(self.ranks)
            parts = [f"{self.kind} of rank {low}" + (f" to {high}" if high > low else "")]
        if self.alpha is not None:
            parts.append(f"alpha {self.alpha:g}")
        if self.targets:
            more = f" and {len(self.targets) - 6} more" if len(self.targets) > 6 else ""
            parts.append(f"on {', '.join(self.targets[:6])}{more}")
        return ", ".join(parts)


HUGE = 1e300  # no alpha: JSON has numbers of any size


def read_adapter(checkpoint: Checkpoint) -> Adapter | None:
    """The adapter that a checkpoint is, or holds beside a model's weights; None where it is a plain model.

    A model whose config itself speaks of LoRA, as Phi 4 multimodal's does, is a model.
    """
    found = find_mark(checkpoint.tensors)
    if found is None or _native(checkpoint.config):
        return None
    name, kind = found
    said = _config(checkpoint)
    ranks = {info.shape[0] for info in checkpoint.tensors.values() if _FIRST_FACTOR.search(info.name) and info.shape}
    alpha, base, targets = said.get("lora_alpha"), said.get("base_model_name_or_path"), said.get("target_modules")
    if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
        targets = _targets(checkpoint.tensors)
    return Adapter(
        kind,
        name,
        tuple(sorted(ranks)),
        float(alpha) if isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and abs(alpha) < HUGE else None,
        base if isinstance(base, str) and base else None,
        tuple(sorted(targets)),
        _beside(checkpoint.tensors),
    )


def find_mark(tensors: Mapping[str, TensorInfo]) -> tuple[str, str] | None:
    """The first tensor's name that bears a mark, and the kind. One search through all names: there may be 100,000."""
    text = "\n".join(tensors)
    for mark, kind in MARKS.items():
        at = text.find(mark)
        if at >= 0:
            return text[text.rfind("\n", 0, at) + 1 :].partition("\n")[0], kind
    return None


def _native(config: Config) -> bool:
    """Whether a model's own config gives it factors."""
    return any("lora" in key and isinstance(value, dict) and "r" in value for key, value in config.items())


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    if ADAPTER not in checkpoint.files:
        return {}
    try:
        said = json.loads(checkpoint.file(ADAPTER))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _targets(names: Iterable[str]) -> list[str]:
    """The modules of which factors are stored, where names say them: the last word before the factor's own."""
    found = {match["module"] for match in map(_TARGET.search, names) if match}
    return sorted(each for each in found if not each.startswith("lora_"))


def _beside(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the weights that an adapter changes stand in the same files."""
    for name in tensors:
        match = _TARGET.search(name)
        stem = name[: match.end("module")] if match else ""
        if stem and (f"{stem}.base_layer.weight" in tensors or f"{stem}.weight" in tensors):
            return True
    return False
