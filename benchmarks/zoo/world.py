"""What a world is: a base, experts on distinct skills, and scores of any weights on every skill."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Split = Literal["dev", "test"]
State = Mapping[str, Tensor]
Report = Callable[[str], None]
STAMP = "complete.json"


@dataclass(frozen=True)
class Zoo:
    """Trained models of one world, one seed, one size."""

    world: World
    folder: Path
    seed: int

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def expert(self, skill: str) -> Path:
        return self.folder / skill

    @cached_property
    def trained(self) -> str:
        """A digest of the trained weights: another machine's training gives others, and figures of the two are not mixed."""
        digest = hashlib.sha256()
        for folder in (self.folder, self.base, *map(self.expert, self.world.skills)):
            for path in sorted(folder.glob("*.safetensors")):
                with open(path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:12]


class World(ABC):
    """One kind of model and its skills. Settings are a frozen dataclass: they are part of the cache's key."""

    name: str
    settings: Any
    long: bool = False
    """Whether a merge takes minutes: then no expert is asked another's skill, and no merge is made to warm up."""

    @property
    @abstractmethod
    def skills(self) -> Sequence[str]: ...

    @abstractmethod
    def train(self, folder: Path, seed: int, report: Report) -> None:
        """Train a base and one expert for each skill, and save each with transformers."""

    @abstractmethod
    def load(self, folder: Path) -> torch.nn.Module:
        """A model of the world, from one of its folders."""

    @abstractmethod
    def score(self, model: torch.nn.Module, skill: str, split: Split) -> np.ndarray:
        """Which held-out items are answered rightly: bool (items,), the same items for every model."""

    @abstractmethod
    def items_of(self, split: Split) -> int:
        """How many items all skills have together."""

    def damage(self, model: torch.nn.Module) -> float | None:
        """What a model has lost of what no skill asks for, where the world can tell."""
        return None

    def source(self, folder: Path, skill: str) -> str:
        """What a recipe calls the expert of a skill."""
        return str(folder / skill)

    def merged(self, model: torch.nn.Module) -> torch.nn.Module:
        """The part of a model whose weights stand in its folder."""
        return model

    @property
    def code(self) -> Sequence[str]:
        """Files whose text decides the trained weights."""
        return (str(Path(__import__(type(self).__module__, fromlist=["x"]).__file__ or "")),)

    def folder(self, cache: Path, seed: int) -> Path:
        """Where the trained models are, or will be."""
        key = json.dumps(
            [self.name, asdict(self.settings), list(self.skills), [Path(f).read_text() for f in self.code]]
        )
        return cache / f"{self.name}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"

    def prepare(self, cache: Path, seed: int, report: Report) -> Zoo:
        """The trained models, from the cache where they are there."""
        folder = self.folder(cache, seed)
        if not (folder / STAMP).exists():
            self.train(folder, seed, report)
            (folder / STAMP).write_text(json.dumps(asdict(self.settings), indent=1) + "\n")
        return Zoo(self, folder, seed)


def answer_all(world: World, model: torch.nn.Module, skills: Sequence[str], split: Split) -> np.ndarray:
    """Every skill's answers: bool (skills, items)."""
    with torch.inference_mode():
        return np.stack([world.score(model, skill, split) for skill in skills])
