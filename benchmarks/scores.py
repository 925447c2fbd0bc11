"""Scores of merges of a real model's adapters, kept as they come."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.zoo.skills import SKILLS


class Notes:
    """What was measured, kept in a file as it comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What was found under a name, or is found now."""
        if name not in self.known:
            self.known[name] = find()
            print(f"{name}: {self.known[name]}", flush=True)
            self.path.write_text(json.dumps(self.known, indent=1))
        return self.known[name]

    @property
    def sizes(self) -> dict[str, int]:
        return {name[5:]: value for name, value in self.known.items() if name.startswith("size ")}

    def run(self, step: str, out: Path, *words: object) -> None:
        """Run the command line, unless its output is there; note the size."""
        if not out.exists():
            subprocess.run([sys.executable, "-m", "mergery", *map(str, words), "--quiet"], check=True)
        files = [out] if out.is_file() else list(out.glob("*.safetensors"))
        self.once(f"size {step}", lambda: sum(file.stat().st_size for file in files))


def score(world: Any, model: Any, form: Mapping[str, Any], skills: Iterable[str] = SKILLS) -> dict[str, float]:
    """The share of questions of skills that a recipe's model answers to the letter, and the bits of a byte of prose."""
    import torch

    import mergery

    state = mergery.merge({**form, "output": {"dtype": "float32"}})
    assert isinstance(state, dict)
    model.load_state_dict(state, strict=False)
    with torch.inference_mode():
        found = {name: float(world.score(model, name, "test").mean()) for name in skills}
    return {**found, "prose": world.damage(model)}
