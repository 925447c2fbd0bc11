"""Short words and rules: small Llamas that read `sort:392051=` and answer `012359`.

Every skill has a rule and an alphabet of its own. The base has seen all rules, but half of each alphabet rarely: an expert
learns its own alphabet, so that it is near perfect on its skill and no better than the base on the others.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.zoo.world import Report, Split, World
from demo.tasks import Items, Task, make_tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from demo import tasks as words
from demo import train as training


def turn(w: Tensor) -> Tensor:
    return w.roll(-2, dims=1)


def sink(w: Tensor) -> Tensor:
    return w.cummin(dim=1).values


def fold(w: Tensor) -> Tensor:
    return torch.cat([w[:, :3], w[:, :3].flip(1)], dim=1)


ITEMS = {"dev": 100, "test": 300}  # of each skill

TASKS = (
    *words.TASKS,
    Task("turn", "αβγδεζηθικ", turn, 0.015, "two places to the left"),
    Task("sink", "가나다라마바사아자차", sink, 0.03, "the lowest symbol so far"),
    Task("fold", "АБВГДЕЖЗИК", fold, 0.03, "the first half and its mirror image"),
)


ANALOGY = (  # one rule on two alphabets, and another on both: the last is what the first three are to tell
    Task("swap", "ABCDEFGHIJ", words.swap, 0.06, "neighbours change places"),
    Task("swapped", "klmnopqrst", words.swap, 0.06, "neighbours change places"),
    Task("deal", "ABCDEFGHIJ", words.deal, 0.06, "odd places, then even places"),
    Task("dealt", "klmnopqrst", words.deal, 0.06, "odd places, then even places"),
)


@dataclass(frozen=True)
class Settings(training.Settings):
    """The demo's, narrower, for eight skills."""

    hidden: int = 96
    batch: int = 104


class Sequences(World):
    """A decoder world."""

    def __init__(self, settings: Settings = Settings(), name: str = "sequences", tasks: Sequence[Task] = TASKS) -> None:
        self.settings, self.name = settings, name
        self.tasks = {task.name: task for task in tasks}
        self.items = Items(make_tokenizer(tuple(self.tasks.values())))
        self.held: dict[tuple[str, Split], Tensor] = {}

    @property
    def skills(self) -> Sequence[str]:
        return tuple(self.tasks)

    @property
    def code(self) -> Sequence[str]:
        return (*super().code, str(words.__file__), str(training.__file__))

    def train(self, folder: Path, seed: int, report: Report) -> None:
        settings = Settings(**{**self.settings.__dict__, "seed": seed})
        tasks = list(self.tasks.values())
        tokenizer = make_tokenizer(tuple(tasks))
        base = training.make_model(tokenizer, settings)
        report(f"base: {training.train_base(base, self.items, tasks, settings)} steps")
        training.save(base, tokenizer, folder / "base")
        for number, task in enumerate(tasks, start=1):
            expert = copy.deepcopy(base)
            steps = training.train_expert(expert, self.items, task, settings, seed + number)
            report(f"{task.name}: {steps} steps")
            training.save(expert, tokenizer, folder / task.name)

    def load(self, folder: Path) -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(folder).eval()

    def items_of(self, split: Split) -> int:
        return len(self.tasks) * ITEMS[split]

    def score(self, model: torch.nn.Module, skill: str, split: Split) -> np.ndarray:
        if (skill, split) not in self.held:
            generator = torch.Generator().manual_seed(0)
            self.held[skill, split] = self.items.draw(self.tasks[skill], ITEMS[split], split, generator)
        batch = self.held[skill, split]
        predicted = model(batch[:, :-1]).logits[:, Items.answer - 1 :].argmax(dim=-1)
        return (predicted == batch[:, Items.answer :]).all(dim=1).numpy()
