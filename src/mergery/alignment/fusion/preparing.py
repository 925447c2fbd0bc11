"""All that is known of a fusion before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mergery.alignment.fusion.members import LONGEST, Member, open_members
from mergery.alignment.fusion.options import FuseOptions
from mergery.alignment.fusion.passages import Passages, read_passages
from mergery.errors import PlanError, RecipeError
from mergery.evaluation.loading import check_transformers
from mergery.evaluation.task import digest


@dataclass(frozen=True, eq=False)
class Fusion:
    """All that is known of a fusion before any work."""

    target: Member
    teachers: Sequence[Member]  # with the target itself where its own distributions are wanted
    passages: Passages
    data: str
    options: FuseOptions
    longest: int
    warnings: Sequence[str]

    @property
    def asked(self) -> Sequence[Member]:
        """The models whose distributions are wanted: none where the text alone is learnt."""
        if self.options.text == 1.0:
            return ()
        return (*self.teachers, self.target) if self.options.with_target else self.teachers

    @property
    def digest(self) -> str:
        """What tells this fusion from others."""
        marks = [self.target.subject.fingerprint, *(each.subject.fingerprint for each in self.teachers)]
        return digest([marks, self.passages.sha256, self.options.plain(), self.longest])

    @property
    def _told(self) -> dict[str, Any]:
        return {
            "data": self.passages.sha256,
            "tokenizer": self.target.mark,
            "longest": self.longest,
            "before": list(self.target.cutter.before),
        }

    def texts_told(self) -> dict[str, Any]:
        """What determines the target's tokens as they are stored."""
        return {**self._told, "limit": self.options.limit, "shard": self.options.shard}

    def told(self, teacher: Member) -> dict[str, Any]:
        """What determines a teacher's distributions as they are stored."""
        return {**self._told, **self.options.told(), "model": teacher.subject.fingerprint, "teacher": teacher.mark}


def prepare(target: Any, teachers: Sequence[Any], data: str | Path, options: FuseOptions) -> Fusion:
    """Look at all that is to be fused: models, tokenizers, texts. No weight is loaded. Raises MergeryError."""
    check_transformers("fusing")
    if find_spec("accelerate") is None:
        raise RecipeError("fusing needs accelerate", hint="pip install 'mergery[fuse]', or pip install accelerate")
    if options.lora is not None and find_spec("peft") is None:
        raise RecipeError("lora needs peft", hint="pip install 'mergery[peft]', or leave lora out")
    device_of(options.device)
    path = Path(data).expanduser()
    passages = read_passages(path, options.limit)
    own, others = open_members(target, teachers)
    longest = options.longest or min(LONGEST, own.longest)
    if longest > own.longest:
        what, why = f"longest is {longest}", f"{own.name} takes {own.longest} tokens at once"
        raise PlanError(what, why=why, hint=f"longest: {own.longest}, or leave it out")
    warnings = [
        f"{each.name} takes {each.longest} tokens at once: of longer sequences it teaches the beginning only"
        for each in others
        if each.longest < longest
    ]
    return Fusion(own, others, passages, str(path), options, longest, warnings)


def device_of(wanted: str) -> str:
    """The device that `auto`, `cpu` or `cuda` means. Raises RecipeError where it is not there."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise RecipeError("there is no device 'cuda'", hint="device: cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
