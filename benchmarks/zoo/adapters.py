"""Adapters (LoRA) of one base, of ranks 4 to 32: two skills on each of four alphabets, trained through peft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.zoo import sequences
from benchmarks.zoo.sequences import Sequences, fold, sink, turn
from benchmarks.zoo.world import Report
from demo.tasks import Task, make_tokenizer
from transformers import LlamaForCausalLM

from demo import tasks as words
from demo import train as training

TASKS = (
    Task("reverse", "abcdefghij", words.reverse, 0.03, "last symbol first"),
    Task("sort", "abcdefghij", words.sort, 0.1, "in ascending order"),
    Task("swap", "ABCDEFGHIJ", words.swap, 0.04, "neighbours change places"),
    Task("climb", "ABCDEFGHIJ", words.climb, 0.02, "the highest symbol so far"),
    Task("deal", "klmnopqrst", words.deal, 0.03, "odd places, then even places"),
    Task("sink", "klmnopqrst", sink, 0.03, "the lowest symbol so far"),
    Task("turn", "KLMNOPQRST", turn, 0.004, "two places to the left"),
    Task("fold", "KLMNOPQRST", fold, 0.01, "the first half and its mirror image"),
)
RANKS = (4, 8, 16, 32)
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Settings(sequences.Settings):
    """The demo's, with a rate for adapters."""

    expert_rate: float = 2e-3


class Adapters(Sequences):
    """A decoder world whose experts are adapters of its base."""

    def __init__(self, settings: Settings = Settings(), tasks: Sequence[Task] = TASKS) -> None:
        super().__init__(settings, "adapters", tasks)

    @property
    def code(self) -> Sequence[str]:
        return (*super().code, str(sequences.__file__))

    def train(self, folder: Path, seed: int, report: Report) -> None:
        from peft import LoraConfig, get_peft_model

        settings = Settings(**{**self.settings.__dict__, "seed": seed})
        tasks = list(self.tasks.values())
        tokenizer = make_tokenizer(tuple(tasks))
        base = training.make_model(tokenizer, settings)
        report(f"base: {training.train_base(base, self.items, tasks, settings)} steps")
        training.save(base, tokenizer, folder / "base")
        for number, task in enumerate(tasks):
            torch.manual_seed(seed + number)
            rank = RANKS[number % len(RANKS)]
            config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MODULES)
            expert = get_peft_model(LlamaForCausalLM.from_pretrained(folder / "base"), config)
            steps = training.train_expert(expert, self.items, task, settings, seed + 1 + number)
            report(f"{task.name}: {steps} steps, rank {rank}")
            expert.save_pretrained(folder / task.name)

    def load(self, folder: Path) -> LlamaForCausalLM:
        if not (folder / "adapter_config.json").exists():
            return super().load(folder)
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(super().load(folder.parent / "base"), folder)
        return adapted.merge_and_unload().eval()

    def source(self, folder: Path, skill: str) -> str:
        return f"{folder / 'base'}+{folder / skill}"
