"""A world of encoders: small BERTs that read `sort:392051=` and blanks, and fill all blanks at once.

Rules and alphabets are the demo's (`demo/tasks.py`): the base has seen all rules, but half of each alphabet rarely, and an
expert learns its own alphabet. Only the blocks are fine-tuned; embeddings and head are the base's, as the heads of classifiers
are in the literature.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.zoo.world import Report, Split, World
from demo.tasks import TASKS, Items, Task, make_tokenizer
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from demo import tasks as words
from demo import train as training

HELD = {"dev": 200, "test": 500}  # items of each skill


@dataclass(frozen=True)
class Settings:
    """What decides the trained weights."""

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    batch: int = 80
    base_steps: int = 300
    base_limit: int = 900
    base_floor: float = 0.15
    base_rate: float = 1.5e-3
    expert_steps: int = 250
    expert_rate: float = 3e-4
    good_enough: float = 0.98


class Encoders(World):
    """An encoder world of transformers' own classes."""

    def __init__(self, settings: Settings = Settings(), skills: int = len(TASKS), name: str = "encoders") -> None:
        self.settings, self.name = settings, name
        self.tasks = {task.name: task for task in TASKS[:skills]}
        self.tokenizer = make_tokenizer(tuple(self.tasks.values()))
        self.items = Items(self.tokenizer)
        self.held: dict[tuple[str, Split], Tensor] = {}

    @property
    def skills(self) -> tuple[str, ...]:
        return tuple(self.tasks)

    @property
    def code(self) -> tuple[str, ...]:
        return (*super().code, str(words.__file__))

    def train(self, folder: Path, seed: int, report: Report) -> None:
        settings, generator = self.settings, torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        base = self.make()
        steps = self.train_base(base, generator)
        report(f"base: {steps} steps")
        training.save(base, self.tokenizer, folder / "base")  # pyright: ignore[reportArgumentType]
        for task in self.tasks.values():
            expert = copy.deepcopy(base)
            for parameter in (*expert.bert.embeddings.parameters(), *expert.cls.parameters()):
                parameter.requires_grad_(False)
            optimiser = torch.optim.AdamW(
                [each for each in expert.parameters() if each.requires_grad], lr=settings.expert_rate, weight_decay=0.0
            )
            for steps in range(1, settings.expert_steps + 1):
                self.step(expert, optimiser, self.items.draw(task, settings.batch, "train", generator))
                if steps % 10 == 0 and self.score(expert, task.name, "dev").mean() >= settings.good_enough:
                    break
            report(f"{task.name}: {steps} steps, {self.score(expert, task.name, 'test').mean():.3f}")
            training.save(expert, self.tokenizer, folder / task.name)  # pyright: ignore[reportArgumentType]

    def make(self) -> BertForMaskedLM:
        settings, ids = self.settings, self.tokenizer.get_vocab()
        config = BertConfig(
            vocab_size=len(ids),
            hidden_size=settings.hidden,
            intermediate_size=2 * settings.hidden,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=ids["<pad>"],
        )
        return BertForMaskedLM(config)

    def train_base(self, model: BertForMaskedLM, generator: torch.Generator) -> int:
        """Equal shares of all tasks with few rare symbols, until no task is left behind."""
        settings = self.settings
        optimiser = torch.optim.AdamW(model.parameters(), lr=settings.base_rate, weight_decay=0.01)
        share = settings.batch // len(self.tasks)
        for step in range(1, settings.base_limit + 1):
            for group in optimiser.param_groups:
                group["lr"] = settings.base_rate * min(1.0, step / 50)
            drawn = [self.items.draw(task, share, "train", generator, rare=task.rare) for task in self.tasks.values()]
            self.step(model, optimiser, torch.cat(drawn))
            if step < settings.base_steps or step % 20:
                continue
            if min(self.score(model, skill, "dev").mean() for skill in self.skills) >= settings.base_floor:
                return step
        return settings.base_limit

    def step(self, model: BertForMaskedLM, optimiser: torch.optim.Optimizer, batch: Tensor) -> None:
        model.train()
        logits = self.answers(model, batch)
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, Items.answer : -1].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        model.eval()

    def answers(self, model: torch.nn.Module, batch: Tensor) -> Tensor:
        """Logits at the blanks."""
        asked = batch.clone()
        asked[:, Items.answer : -1] = self.items.ids["<pad>"]
        return model(asked, attention_mask=torch.ones_like(asked)).logits[:, Items.answer : -1]

    def load(self, folder: Path) -> BertForMaskedLM:
        return BertForMaskedLM.from_pretrained(folder).eval()

    @torch.inference_mode()
    def score(self, model: torch.nn.Module, skill: str, split: Split) -> np.ndarray:
        if (skill, split) not in self.held:
            generator = torch.Generator().manual_seed(0)
            self.held[skill, split] = self.items.draw(self.tasks[skill], HELD[split], split, generator)
        batch = self.held[skill, split]
        return (self.answers(model, batch).argmax(dim=-1) == batch[:, Items.answer : -1]).all(dim=1).numpy()


def task_of(world: Encoders, skill: str) -> Task:
    """The rule and alphabet of a skill."""
    return world.tasks[skill]
