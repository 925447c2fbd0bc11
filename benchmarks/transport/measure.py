"""What transport does to a target's bits per character, against every control, for one seed of the pairs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.transport.pairs import LITTLE, fit, ids_of
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM

from mergery.alignment.transport.options import TransportOptions
from mergery.alignment.transport.running import transport

TARGETS = ("pruned", "independent")
SHARES = (0.05, 0.1, 0.2)
WINDOW = 192
BOTH: dict[str, Any] = {"modules": ("attention", "mlp"), "neurons": 0}
ATTENTION: dict[str, Any] = {"neurons": 0}
FIRST: dict[str, tuple[str | None, dict[str, Any]]] = {
    "attention": (None, ATTENTION),
    "attention, shrink": (None, {**ATTENTION, "control": "shrink"}),
    "attention, shuffled": (None, {**ATTENTION, "control": "shuffled"}),
    "what it learnt": ("base", BOTH),
    "what it learnt, shuffled": ("base", {**BOTH, "control": "shuffled"}),
}
"""Of each way: the model since which only what was learnt is moved, and the options."""
MORE: dict[str, tuple[str | None, dict[str, Any]]] = {
    "attention, means of prompts": (None, {**ATTENTION, "rows": "prompts"}),
    "attention, released form": (None, {**ATTENTION, "mode": "released"}),
    "attention and MLP": (None, BOTH),
    "attention and MLP, shrink": (None, {**BOTH, "control": "shrink"}),
    "what it learnt, regression": ("base", {**BOTH, "scale": "regression"}),
}
WAYS = {**FIRST, **MORE}
TUNED = {"target alone": 0.0, "attention": 0.05, "attention, shrink": 0.05, "what it learnt": 0.2}
"""What is fine-tuned besides, and at which share."""
STEPS, RATE = 40, 5e-4


@torch.no_grad()
def bits(model: LlamaForCausalLM, ids: Tensor, characters: int) -> float:
    """Bits per character of a text in windows."""
    count = len(ids) // WINDOW
    rows = ids[: count * WINDOW].reshape(count, WINDOW)
    total = 0.0
    for batch in rows.split(32):
        logits = model(input_ids=batch).logits[:, :-1]
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
    return total / math.log(2) / (characters * count * (WINDOW - 1) / len(ids))


class Measuring:
    """One seed: its models, its texts, and what has been measured so far, which is kept."""

    def __init__(self, folder: Path, seed: int, texts: dict[str, str]) -> None:
        self.folder, self.seed, self.texts = folder, seed, texts
        self.file = folder / "measured.json"
        self.found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.data = folder / "texts.txt"
        self.data.write_text(texts["transport"])

    def run(self) -> None:
        """Measure all that is not known yet."""
        for name in ("base", "source"):
            self.keep(name, "alone", LlamaForCausalLM.from_pretrained(self.folder / name))
        for phase in (self.transported, self.tuned, partial(self.transported, ways=MORE)):
            for target in TARGETS:
                model = LlamaForCausalLM.from_pretrained(self.folder / target)
                phase(target, model, {key: value.clone() for key, value in model.state_dict().items()})

    def transported(self, target: str, model: Any, state: dict[str, Tensor], ways: Any = FIRST) -> None:
        """A target with every share of what was transported."""
        self.keep(target, "alone", model)
        for way in ways:
            if any(f"{target}|{way}|{share}" not in self.found for share in SHARES):
                weights = self.moved(target, way)
                for share in SHARES:
                    self.put(model, state, weights, share)
                    self.keep(target, f"{way}|{share}", model)

    def tuned(self, target: str, model: Any, state: dict[str, Tensor]) -> None:
        """The same, fine-tuned on a little code."""
        for way, share in TUNED.items():
            if f"{target}|tuned {way}" not in self.found:
                self.put(model, state, self.moved(target, way) if way in WAYS else {}, share)
                little = ids_of(self.words(target), self.texts["little"])
                fit(model, [(little, 1.0)], STEPS, RATE, 1000 + self.seed, 8)
                self.keep(target, f"tuned {way}", model)

    def keep(self, target: str, what: str, model: LlamaForCausalLM) -> None:
        """Score a model, unless that is known."""
        key = f"{target}|{what}"
        if key not in self.found:
            self.found[key] = self.scores(model, target)
            self.file.write_text(json.dumps(self.found, indent=1))

    def put(self, model: Any, state: dict[str, Tensor], weights: dict[str, Tensor], share: float) -> None:
        """A share of transported weights, as the recipe merges them."""
        moved = {key: state[key] + share * (value - state[key]) for key, value in weights.items()}
        model.load_state_dict({**state, **moved})

    def words(self, name: str) -> Any:
        return AutoTokenizer.from_pretrained(self.folder / name)

    def scores(self, model: Any, name: str) -> dict[str, float]:
        words = self.words(name)
        return {kind: bits(model, ids_of(words, self.texts[kind]), len(self.texts[kind])) for kind in ("code", "prose")}

    def moved(self, target: str, way: str) -> dict[str, Tensor]:
        """Transported weights, made once."""
        since, options = WAYS[way]
        place = self.folder / f"{target} {hashlib.sha256(repr(WAYS[way]).encode()).hexdigest()[:10]}"
        if not (place / "recipe.yaml").exists():
            out = place.with_name(f"{place.name}-out")
            transport(
                self.folder / "source", self.folder / target, self.data, out, weights=place, replace=True,
                since=self.folder / since if since else None, options=TransportOptions(longest=WINDOW, threads=1, **options),
            )  # fmt: skip
        return {key: value for file in sorted(place.glob("*.safetensors")) for key, value in load_file(file).items()}


def texts_of(prose: Any, code: Any) -> dict[str, str]:
    """What is transported on, what targets are fine-tuned on, and what is measured on."""
    return {
        "transport": code.train[LITTLE : LITTLE + 120_000],
        "little": code.train[:LITTLE],
        "code": code.held[:48_000],
        "prose": prose.held[:24_000],
    }


def collected(folder: Path) -> Iterator[dict[str, Any]]:
    """What has been measured of all seeds."""
    for file in sorted(folder.glob("*/measured.json")):
        yield {"seed": int(file.parent.name), "scores": json.loads(file.read_text())}
