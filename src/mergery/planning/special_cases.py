"""Tensors for which averaging raw numbers is wrong, or for which only one treatment is sane; the plan states each.

* Buffers (positions, statistics of a dataset, the routing bias that balances experts) are copied, from the base where there
  is one. They were never trained by gradients.
* Norms that are stored as offsets from one (Gemma) are averaged where a method works on the sphere: the direction of an offset
  from one means nothing. Averages and task vectors are the same for offsets as for what they stand for.
* Parameters of state-space models in log space, and low-rank factors of attention, are merged as stored.
"""

from __future__ import annotations

from typing import Any

from mergery.architecture.spelling import language_family
from mergery.checkpoints.config import Config
from mergery.method import Method, find
from mergery.recipe.values import Target

_OFFSET_NORMS = (
    "gemma", "gemma2", "gemma3_text", "recurrent_gemma", "vaultgemma", "t5gemma", "t5gemma2", "nemotron", "qwen3_next",
    "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text",
)  # fmt: skip

BUFFER = "are buffers: they are copied, not merged"
OFFSET = "are norms stored as offsets from one: they are averaged, for offsets have no direction"
SCALED = "are norms stored as offsets from one: scale multiplies the offset, not the norm"


def treat(
    method: Method, settings: dict[str, Any], target: Target, config: Config, *, deltas: bool
) -> tuple[Method, dict[str, Any], str]:
    """The method and settings that one tensor gets in place of the merge's own, and by which rule, if any."""
    if deltas or target.part != "language" or not (method.average or method.factor):
        return method, settings, ""
    norm = "norm" in (role.rpartition(".")[2] for role in target.roles)
    if not norm or language_family(config) not in _OFFSET_NORMS:
        return method, settings, ""
    if method.average is None:
        return method, settings, SCALED
    return find("linear"), {"weight": method.average(settings), "normalize": True}, OFFSET
