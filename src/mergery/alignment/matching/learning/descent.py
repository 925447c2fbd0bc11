"""A transform that is learnt: down the gradient of the loss between two models, the best step kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mergery.alignment.matching.learning.blending import Held
from mergery.alignment.matching.learning.latents import LatentMatrices, LatentWeights
from mergery.alignment.matching.learning.texts import Answers
from mergery.alignment.matching.pairs import Models
from mergery.alignment.matching.weights import WeightMatching
from mergery.errors import DataError
from mergery.kernels.random import key
from mergery.recipe.aligning import KINDS
from mergery.run.events import Learning, Notify, ignore
from mergery.views.transforms import Transform, why_illegal

MIDDLE = 0.5
WAY = (0.4, 0.6)  # where on the way between the models a step looks
LOOKS = 20  # at what is held out


@dataclass
class LearnedMatching:
    """A search for a transform by the loss of what lies between two models. It begins with what weights alone say.

    method:  `learned`, with matrices that Adam moves and places near the middle; or `straight-through`, with weights, plain
             descent and the middle itself (arXiv 2209.04836).
    history: what is left of the squared difference of weights, before and after, as in weight matching.
    losses:  in the middle on what is held out: by weights alone, and as it has been learnt.
    """

    models: Models
    answers: Answers
    method: str
    steps: int
    rate: float
    wanted: Collection[str] = KINDS
    notify: Notify = ignore
    history: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """What is kept with the transform: how it was learnt, and the losses."""
        return {"steps": self.steps, "rate": self.rate, "loss": [float(f"{loss:.6g}") for loss in self.losses]}

    def run(self) -> Transform:
        """Find it; never one that is worse on what is held out than that of the weights. Raises DataError where it diverges."""
        matching = WeightMatching(self.models, self.wanted, notify=self.notify)
        best = matching.run()
        self.history = [matching.history[0], matching.history[-1]]
        if best.is_identity:  # aligned already, as fine-tunes are: what could be gained is no matter of coordinates
            return best
        held = Held.of(self.models)
        latents = (LatentMatrices if self.method == "learned" else LatentWeights)(held, best, self.wanted)
        self.losses = [self.look(held, best)] * 2
        draw = np.random.Generator(np.random.Philox(key(0, "align", "way")))
        for step in range(self.steps):
            way = MIDDLE if self.method != "learned" else float(draw.uniform(*WAY))
            loss, gradient = self.answers.slopes(held.between(latents.transform, way), step)
            if not np.isfinite(loss):
                raise DataError(f"the loss is {loss} at step {step}", hint=f"a smaller rate, such as {self.rate / 4:g}")
            slopes = held.slopes(gradient, latents.transform, way)
            latents.move(slopes, self.rate * (1.0 + np.cos(np.pi * step / self.steps)) / 2)
            self.notify(Learning("aligning", step + 1, self.steps, loss))
            if step + 1 == self.steps or (step + 1) % -(-self.steps // LOOKS) == 0:
                now = self.look(held, latents.transform)
                if now < self.losses[-1] and not why_illegal(latents.transform, held.spaces):
                    best, self.losses[-1] = latents.transform, now
        every = WeightMatching(held, self.wanted)
        self.history[-1] = sum(every.left(held.of_layer(layer), best) for layer in (None, *held.layers))
        return best

    def look(self, held: Held, transform: Transform) -> float:
        """The loss in the middle on what is held out."""
        return self.answers.held_out(held.between(transform, MIDDLE))
