"""A model's tensors under the names that its family has in files: experts that stand in stacks taken apart, prefixes of
wrappers left away, the language model out of a multimodal one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mergery.architecture.sections import part_of
from mergery.architecture.spelling import canonical_name
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.gguf.families import Family, family_of_kind
from mergery.checkpoints.gguf.placing import ALL
from mergery.graph.fused import fused_groups, take_part
from mergery.planning.steps import Step

WITH_TOWERS = ("gemma3", "mistral3", "llava")
"""Multimodal models whose language model is one of the families, and nothing else."""
_LAYER, _EXPERT = "1000001", "1000002"  # numbers that no model has
_SUFFIX = re.compile(r"(.+)(\.weight|\.bias)")
_STACK = re.compile(r"\.experts\.(gate_up_proj|down_proj)$")


def language_of(config: Config) -> tuple[Family | None, Config, bool]:
    """The family of a model, or of the language model in a multimodal one; its config; and whether it is the latter."""
    family = family_of_kind(config.family)
    if family is not None or config.family not in WITH_TOWERS:
        return family, config, False
    own = config.language.plain()
    if config.tied is not None:
        own["tie_word_embeddings"] = config.tied
    kind = {"gemma3": "gemma3_text", "mistral3": "mistral"}.get(str(config.family), "llama")
    return family_of_kind(config.language.family or kind), Config({"model_type": kind, **own}), True


def in_family(
    steps: Sequence[Step], family: Family, config: Config, *, towers: bool
) -> tuple[list[Step], list[str], dict[str, str]]:
    """The steps of the language model under the family's names, the names of what is left out, and what the model calls
    those that the family calls otherwise.
    """
    own = [step for step in steps if not towers or part_of(step.name) == "language"]
    left = [step.name for step in steps if towers and part_of(step.name) != "language"]
    patterns = [_pattern(template) for template in family.names]
    if all(_matches(step.name, patterns) for step in own):
        return own, left, {}
    names = {canonical_name(_numbered(template), family.kind): template for template in family.names}
    found: list[Step] = []
    origins: dict[str, str] = {}
    for step in own:
        if _matches(step.name, patterns):
            found.append(step)
            continue
        canonical = canonical_name(step.name, family.kind)
        if _STACK.search(canonical) and len(step.slot.info.shape) == 3:
            made = _of_stack(step, canonical, names, config)
        else:
            name = _named(canonical, names)
            made = [_renamed(step, name) if name is not None else step]
        found += made
        origins |= {each.name: step.name for each in made}
    return found, left, origins


def _matches(name: str, patterns: Sequence[re.Pattern[str]]) -> bool:
    match = _SUFFIX.fullmatch(name)
    return any(pattern.fullmatch(match[1] if match else name) for pattern in patterns)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{i\}", r"\d+").replace(r"\{e\}", r"\d+"))


def _numbered(template: str) -> str:
    return template.replace("{i}", _LAYER).replace("{e}", _EXPERT) + ".weight"


def _named(canonical: str, names: dict[str, str]) -> str | None:
    """The family's name of a canonical one."""
    match = _SUFFIX.fullmatch(canonical)
    stem, suffix = (match[1], match[2]) if match else (canonical, "")
    numbers = re.findall(r"\.(\d+|\*)(?=\.)", f"{stem}.")
    wanted = stem
    for number, mark in zip(numbers, (_LAYER, _EXPERT), strict=False):
        wanted = wanted.replace(f".{number}.", f".{mark}.", 1)
    template = names.get(f"{wanted}.weight")
    if template is None:
        return None
    for number, mark in zip(numbers, ("{i}", "{e}"), strict=False):
        template = template.replace(mark, number)
    return template + suffix


def _of_stack(step: Step, canonical: str, names: dict[str, str], config: Config) -> list[Step]:
    """The stacks of one kind of matrix in a stack of experts, under a name with `*` for the expert; as it is, if it is none."""
    info = step.slot.info
    groups = fused_groups(step.name, info.shape, ("expert",), config)
    if groups is None:
        return [step]
    found = []
    for word, group in [(group.key, group) for group in groups] or [("down", None)]:
        name = _named(_STACK.sub(f".experts.{ALL}.{word}_proj.weight", canonical), names)
        if name is None:
            return [step]
        node = step.node if group is None else take_part(name, step.node, group)
        shape = info.shape if group is None else group.shape
        found.append(Step(step.slot._replace(info=TensorInfo(name, shape, info.dtype)), node))
    return found


def _renamed(step: Step, name: str) -> Step:
    info = step.slot.info
    return Step(step.slot._replace(info=TensorInfo(name, info.shape, info.dtype)), step.node)
