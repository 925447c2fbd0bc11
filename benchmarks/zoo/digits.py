"""Handwritten digits under eight views and label sets: small encoders, merged as the literature merges CLIP's.

The images are scikit-learn's (1,797 of 8 x 8). The base learns to tell digits, shown in all
ways, from few images. A skill shows the images in
a way of its own, or asks another question of them, and has a classifier of its own, fitted on the base's features and then
kept: an expert fine-tunes the encoder alone, and only encoders are merged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.zoo.world import Report, Split, World
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FIRST_DEV, FIRST_TEST = 0.5, 0.75  # shares of the shuffled images: half to train on, a quarter each held out


@dataclass(frozen=True)
class View:
    """A skill: how images are shown, and what is asked of a digit."""

    show: Callable[[Tensor], Tensor]
    ask: Callable[[Tensor], Tensor]
    classes: int = 10


def same(x: Tensor) -> Tensor:
    return x


def scramble(images: Tensor) -> Tensor:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(9))
    return images.flatten(-2)[..., order].unflatten(-1, (8, 8))


VIEWS = {
    "turned": View(lambda images: images.rot90(1, (-2, -1)), same),
    "mirrored": View(lambda images: images.flip(-1), same),
    "inverted": View(lambda images: 1.0 - images, same),
    "scrambled": View(scramble, same),
    "rolled": View(lambda images: images.roll((4, 4), (-2, -1)), same),
    "parity": View(same, lambda digit: digit % 2, 2),
    "prime": View(same, lambda digit: torch.isin(digit, torch.tensor([2, 3, 5, 7])).long(), 2),
    "thirds": View(lambda images: images.transpose(-1, -2), lambda digit: digit % 3, 3),
}


@dataclass(frozen=True)
class Settings:
    """What decides the trained weights."""

    hidden: int = 128
    layers: int = 3
    batch: int = 64
    base_images: int = 60
    head_images: int = 40
    base_steps: int = 150
    base_rate: float = 1e-3
    expert_steps: int = 200
    expert_rate: float = 2e-4
    good_enough: float = 0.97
    """An expert stops at this accuracy on its own dev images."""


class Block(nn.Module):
    """A residual block: x + down(gelu(up(norm(x))))."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(hidden, 2 * hidden), "down_proj": nn.Linear(2 * hidden, hidden)})

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp["down_proj"](F.gelu(self.mlp["up_proj"](self.norm(x))))


class Encoder(nn.Module):
    """Pixels to features (n, hidden)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.embeddings = nn.Linear(64, settings.hidden)
        self.layers = nn.ModuleList(Block(settings.hidden) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.hidden)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embeddings(images.flatten(1))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Seer(nn.Module):
    """An encoder, which is merged, and the skills' own classifiers, which are not."""

    def __init__(self, encoder: Encoder, heads: dict[str, Tensor]) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, heads

    def forward(self, images: Tensor, skill: str) -> Tensor:
        return self.encoder(images) @ self.heads[f"{skill}.weight"].T + self.heads[f"{skill}.bias"]


class Digits(World):
    """An encoder world."""

    def __init__(self, settings: Settings = Settings(), name: str = "digits", skills: int = 8) -> None:
        self.settings, self.name = settings, name
        self.views = dict(list(VIEWS.items())[:skills])

    @property
    def skills(self) -> Sequence[str]:
        return tuple(self.views)

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """Images (n, 1, 8, 8) in [0, 1] and digits (n,), shuffled once and for all."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        images = torch.tensor(digits.images[order] / 16.0, dtype=torch.float32)[:, None]
        return images, torch.tensor(digits.target[order])

    def part(self, split: str) -> tuple[Tensor, Tensor]:
        images, labels = self.data
        ends = [0, int(FIRST_DEV * len(images)), int(FIRST_TEST * len(images)), len(images)]
        index = ("train", "dev", "test").index(split)
        return images[ends[index] : ends[index + 1]], labels[ends[index] : ends[index + 1]]

    def train(self, folder: Path, seed: int, report: Report) -> None:
        torch.manual_seed(seed)
        settings, generator = self.settings, torch.Generator().manual_seed(seed)
        encoder = Encoder(settings)
        first = nn.Linear(settings.hidden, 10)
        heads = {"base.weight": first.weight, "base.bias": first.bias}
        model = Seer(encoder, heads)
        images, digits = self.part("train")
        images, digits = images[: settings.base_images], digits[: settings.base_images]
        optimizer = torch.optim.AdamW([*encoder.parameters(), *first.parameters()], lr=settings.base_rate)
        for _ in range(settings.base_steps):
            pick = torch.randint(len(images), (settings.batch,), generator=generator)
            shown = list(self.views.values())[int(torch.randint(len(self.views), (), generator=generator))].show
            self.step(model, optimizer, shown(images[pick]), digits[pick], "base")
        report(f"base: {settings.base_steps} steps")
        heads = self.fit_heads(encoder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(heads, folder / "heads.safetensors")
        save(encoder, folder / "base")
        for skill in self.skills:
            expert = Seer(copy.deepcopy(encoder), heads)
            report(f"{skill}: {self.tune(expert, skill, generator)} steps")
            save(expert.encoder, folder / skill)

    def fit_heads(self, encoder: Encoder) -> dict[str, Tensor]:
        """Ridge regression from the base's features to each skill's classes."""
        heads = {}
        images, digits = (half[: self.settings.head_images] for half in self.part("train"))
        for skill, view in self.views.items():
            with torch.inference_mode():
                features = encoder(view.show(images)).double()
            wide = torch.cat([features, torch.ones(len(features), 1)], dim=1)
            target = F.one_hot(view.ask(digits), view.classes).double() - 1.0 / view.classes
            weight = torch.linalg.solve(wide.T @ wide + 1e-2 * len(wide) * torch.eye(wide.shape[1]), wide.T @ target)
            scaled = (8.0 * weight).float()  # logits of a useful size
            heads |= {f"{skill}.weight": scaled[:-1].T.contiguous(), f"{skill}.bias": scaled[-1].contiguous()}
        return heads

    def tune(self, expert: Seer, skill: str, generator: torch.Generator) -> int:
        """Fine-tune the encoder on one skill. Returns the steps that it took."""
        settings, view = self.settings, self.views[skill]
        images, digits = self.part("train")
        optimizer = torch.optim.AdamW(expert.encoder.parameters(), lr=settings.expert_rate, weight_decay=0.0)
        for step in range(settings.expert_steps):
            pick = torch.randint(len(images), (settings.batch,), generator=generator)
            rate = settings.expert_rate * min(1.0, (step + 1) / 20)
            for group in optimizer.param_groups:
                group["lr"] = rate
            self.step(expert, optimizer, view.show(images[pick]), view.ask(digits[pick]), skill)
            if step % 10 == 9 and self.score(expert, skill, "dev").mean() >= settings.good_enough:
                return step + 1
        return settings.expert_steps

    def step(self, model: Seer, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, skill: str) -> None:
        model.encoder.train()
        loss = F.cross_entropy(model(images, skill), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.encoder.eval()

    def load(self, folder: Path) -> Seer:
        encoder = Encoder(self.settings)
        encoder.load_state_dict(load_file(folder / "model.safetensors"))
        return Seer(encoder.eval(), load_file(folder.parent / "heads.safetensors"))

    def merged(self, model: Seer) -> nn.Module:
        return model.encoder

    def items_of(self, split: Split) -> int:
        return len(self.views) * len(self.part(split)[0])

    @torch.inference_mode()
    def score(self, model: nn.Module, skill: str, split: Split) -> np.ndarray:
        images, digits = self.part(split)
        view = self.views[skill]
        return (model(view.show(images), skill).argmax(dim=1) == view.ask(digits)).numpy()


def save(encoder: Encoder, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(encoder.state_dict(), folder / "model.safetensors")
