"""SmolLM2-135M, and five skills that it has learnt as LoRA adapters of ranks 4 to 32.

How much a merge has forgotten is told by the bits that a byte of ordinary prose takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.zoo import skills
from benchmarks.zoo.skills import SKILLS, Settings
from benchmarks.zoo.world import Report, Split, World
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import mergery

NEUTRAL = Path(__file__).with_name("neutral.txt")
TEXTS = 4  # of its paragraphs are read


class Real(World):
    """A language model from a package index."""

    name = "real"
    long = True

    def __init__(self, settings: Settings = Settings()) -> None:
        self.settings = settings
        self.words: Any = None

    @property
    def skills(self) -> Sequence[str]:
        return tuple(SKILLS)

    @property
    def code(self) -> Sequence[str]:
        return (skills.__file__,)

    def train(self, folder: Path, seed: int, report: Report) -> None:
        source = skills.fetch(folder)
        _copy(str(source), folder / "base")
        for name in SKILLS:
            if not (folder / name).exists():
                seconds = skills.train(folder / "base", folder / name, name, self.settings, seed)
                report(f"{name}: {seconds:.0f} s of training")

    def source(self, folder: Path, skill: str) -> str:
        """What a recipe calls the expert of a skill."""
        return f"{folder / 'base'}+{folder / skill}"

    def load(self, folder: Path) -> torch.nn.Module:
        if (folder / "adapter_config.json").exists():
            return PeftModel.from_pretrained(self.load(folder.parent / "base"), folder).merge_and_unload().eval()
        self.words = self.words or AutoTokenizer.from_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def items_of(self, split: Split) -> int:
        """How many items all skills have together."""
        return skills.ITEMS[split] * len(SKILLS)

    def score(self, model: torch.nn.Module, skill: str, split: Split) -> np.ndarray:
        pairs = skills.held_out(skill, split)
        rows = [(self.words(prompt).input_ids, self.words(f" {answer}\n").input_ids) for prompt, answer in pairs]
        ids, learnt = skills.filled(rows, self.words.pad_token_id)
        wrong = torch.zeros_like(learnt)
        wrong[learnt] = self._logits(model, ids, learnt).argmax(-1) != ids[learnt]
        return (~wrong.any(dim=1)).numpy()

    def damage(self, model: torch.nn.Module) -> float:
        """Bits that a byte of ordinary prose takes."""
        bits, length = 0.0, 0
        for text in NEUTRAL.read_text(encoding="utf-8").split("\n\n")[:TEXTS]:
            ids = self.words(text.strip(), return_tensors="pt").input_ids
            said = torch.ones_like(ids, dtype=torch.bool)
            said[:, 0] = False
            bits += float(torch.nn.functional.cross_entropy(self._logits(model, ids, said), ids[said], reduction="sum"))
            length += len(text.strip().encode())
        return bits / math.log(2) / length

    def _logits(self, model: torch.nn.Module, ids: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """What the model says of the tokens of a mask, which are never the first: float32 (tokens, vocabulary)."""
        with torch.inference_mode():
            hidden = model.get_submodule("model")(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            return model.get_submodule("lm_head")(hidden[said[:, 1:]])


def _copy(model: str, folder: Path) -> None:
    """A model as a folder, in float32: what four bits stand for, unrounded."""
    if not folder.exists():
        mergery.merge({"models": {"model": model}, "merge": {"method": "passthrough", "models": ["model"]},
                       "output": {"dtype": "float32"}}, folder)  # fmt: skip
