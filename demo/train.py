"""Training: one base on a mixture of all tasks, then one expert for each task, all cached on disk."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo import tasks as tasks_module
from demo.tasks import Items, Split, Task, make_tokenizer

STAMP = "complete.json"


@dataclass(frozen=True)
class Settings:
    """What decides the trained weights, besides the tasks."""

    seed: int = 0
    hidden: int = 160
    layers: int = 2
    heads: int = 4
    batch: int = 65
    base_steps: int = 400
    base_limit: int = 700
    base_floor: float = 0.15
    """From `base_steps` on, the base stops when it has this accuracy on every task's dev items."""
    base_rate: float = 1.5e-3
    expert_steps: int = 200
    expert_rate: float = 2e-4
    good_enough: float = 0.985
    """An expert stops at this accuracy on its own task's dev items."""


QUICK = Settings(hidden=64, base_steps=100, base_floor=0.0, base_rate=5e-3, expert_steps=20, expert_rate=5e-4)

Report = Callable[[str], None]


def prepare(folder: Path, tasks: Sequence[Task], settings: Settings, report: Report) -> bool:
    """Train base and experts into `folder/<name>`, unless they are there. True if they had to be trained."""
    stamp = folder / STAMP
    key = digest(tasks, settings)
    if stamp.is_file() and json.loads(stamp.read_text())["key"] == key:
        return False
    stamp.unlink(missing_ok=True)
    started = time.perf_counter()
    tokenizer = make_tokenizer(tuple(tasks))
    items = Items(tokenizer)
    base = make_model(tokenizer, settings)
    steps = train_base(base, items, tasks, settings)
    report(f"base: {steps} steps on a mixture of {len(tasks)} tasks")
    save(base, tokenizer, folder / "base")
    for number, task in enumerate(tasks, start=1):
        expert = copy.deepcopy(base)
        steps = train_expert(expert, items, task, settings, settings.seed + number)
        report(f"{task.name}: {steps} steps on {task.name} alone")
        save(expert, tokenizer, folder / task.name)
    report(f"trained in {time.perf_counter() - started:.0f} s")
    stamp.write_text(json.dumps({"key": key, "settings": asdict(settings)}, indent=2) + "\n")
    return True


def digest(tasks: Sequence[Task], settings: Settings) -> str:
    """The key of a set of trained models: their settings, their tasks, and the code that defines both."""
    code = [Path(file).read_text() for file in (__file__, str(tasks_module.__file__))]
    facts = [asdict(settings), [task.name for task in tasks], code]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def make_model(tokenizer: PreTrainedTokenizerFast, settings: Settings) -> LlamaForCausalLM:
    torch.manual_seed(settings.seed)
    ids = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=settings.hidden,
        intermediate_size=2 * settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=32,
        pad_token_id=ids["<pad>"],
        bos_token_id=ids["<bos>"],
        eos_token_id=ids["<eos>"],
    )
    return LlamaForCausalLM(config)


def train_base(model: LlamaForCausalLM, items: Items, tasks: Sequence[Task], settings: Settings) -> int:
    """Train on equal shares of all tasks, with few rare symbols, at a constant rate after a short warm-up.

    The rate does not decay: a base that was still moving merges better. Training goes on until no task is left behind,
    so that every expert starts from a base that has the skill and lacks only symbols.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = make_optimizer(model, decay=0.01)
    share = settings.batch // len(tasks)
    for step in range(settings.base_limit):
        model.train()
        batch = [items.draw(task, share, "train", generator, rare=task.rare) for task in tasks]
        take_step(model, optimizer, torch.cat(batch), settings.base_rate * min(1.0, (step + 1) / 50))
        model.eval()
        if step + 1 >= settings.base_steps and step % 20 == 19:
            worst = min(measure(model, items, task, "dev") for task in tasks)
            if worst >= settings.base_floor:
                return step + 1
    return settings.base_limit


def train_expert(model: LlamaForCausalLM, items: Items, task: Task, settings: Settings, seed: int) -> int:
    """Fine-tune gently on one task with its whole alphabet, until dev items are answered well enough."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = make_optimizer(model, decay=0.0)
    for step in range(settings.expert_steps):
        model.train()
        batch = items.draw(task, settings.batch, "train", generator)
        take_step(model, optimizer, batch, settings.expert_rate * min(1.0, (step + 1) / 10))
        model.eval()
        if step % 10 == 9 and measure(model, items, task, "dev") >= settings.good_enough:
            return step + 1
    return settings.expert_steps


def make_optimizer(model: LlamaForCausalLM, decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=decay, fused=True)


def take_step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: Tensor, rate: float) -> None:
    """One step of gradient descent on the answers; prompts carry no loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    logits = model(batch[:, :-1]).logits[:, Items.answer - 1 :]
    loss = F.cross_entropy(logits.flatten(0, 1), batch[:, Items.answer :].flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.inference_mode()
def measure(model: LlamaForCausalLM, items: Items, task: Task, split: Split, count: int = 500) -> float:
    """The share of held-out items that the model answers exactly.

    One pass over prompt and answer is enough: greedy decoding gives the answer if and only if each of its tokens,
    `<eos>` too, is the most likely one after those before it.
    """
    batch = items.draw(task, count, split, torch.Generator().manual_seed(0))
    predicted = model(batch[:, :-1]).logits[:, Items.answer - 1 :].argmax(dim=-1)
    return (predicted == batch[:, Items.answer :]).all(dim=1).float().mean().item()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
