"""The state of a fine-tuning, kept now and then, so that one that was interrupted goes on where it was."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

EVERY = 600.0  # seconds between two states: one is three times as large as the weights, and takes a while to write


class State:
    """Weights, the optimiser's moments and the generators of random numbers behind a step, in a file that is whole or not
    there. What goes on from it computes what an uninterrupted run does.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.kept = path, time.monotonic()

    def load(self, model: Any, optimiser: Any) -> int:
        """Bring both to where they were. The step behind which that was; 0 where nothing is kept."""
        import torch

        if not self.path.exists():
            return 0
        found = torch.load(self.path, map_location="cpu", weights_only=True)
        model.load_state_dict(found["model"])
        optimiser.load_state_dict(found["optimiser"])
        torch.set_rng_state(found["random"])
        if found["devices"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(found["devices"])
        return int(found["step"])

    def keep(self, step: int, model: Any, optimiser: Any) -> None:
        """Write the state, if the last one is older than `EVERY`."""
        import torch

        if time.monotonic() - self.kept < EVERY:
            return
        unfinished = self.path.with_suffix(".part")
        devices = torch.cuda.get_rng_state_all() if next(model.parameters()).is_cuda else []
        torch.save(
            {
                "step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict(),
                "random": torch.get_rng_state(), "devices": devices,
            },
            unfinished,
        )  # fmt: skip
        unfinished.replace(self.path)
        self.kept = time.monotonic()
