"""What is transported, how neurons and layers are matched, and how much of it the target takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergery.alignment.transport.coupling import COUPLINGS
from mergery.alignment.transport.parts import GROUPS, SPACES, Parts, layers_with
from mergery.errors import RecipeError, did_you_mean

MODES = {
    "normalised": "plans divided by their marginals, so that neurons are averages of neurons",
    "paper": "plans as the paper writes them: what is transported is smaller by the number of entries of a matrix",
    "released": "the same, times the number of the target's layers, as in the code that came with the paper",
}
ROWS = {
    "tokens": "what both models say where tokens of both end, having read the same text",
    "prompts": "the mean of each text's tokens: the paper's",
}
FUSIONS = {
    "convex": "the target's weights go towards the transported ones (equation 14)",
    "residual": "the transported ones are added to the target's (equations 15 to 18)",
}
CONTROLS = {
    "shrink": "zeros instead of transported weights: what the loss of scale alone does",
    "shuffled": "neurons of the source in another order than their matches: what is not knowledge",
}
SIGNS, SCALES = ("plain", "signed"), ("deviation", "regression", "none")
CHOICES: dict[str, Any] = {
    "mode": MODES, "rows": ROWS, "layers": COUPLINGS, "fusion": FUSIONS, "sign": SIGNS, "scale": SCALES, "control": CONTROLS,
}  # fmt: skip


@dataclass(frozen=True)
class TransportOptions:
    """What is transported, and how. Of those that are None, the mode decides (`settled`).

    modules:    q, k, v, o; gate, up, down; or attention and mlp, for all of these.
    fusion:     convex goes towards the transported weights, residual adds them, as what was learnt since a base always is.
    neurons:    how many of the target's neurons a module changes, those that say most; 0 for all.
    layers:     how layers are coupled. rows: what is compared.
    sign:       signed lets a neuron match another's negative.
    scale:      deviation brings what neurons say to the target's size; regression to as much of it as their match foretells.
    heads:      match queries and keys head by head, by turns of their rotary planes, instead of neuron by neuron.
    epsilon, eta: of the entropy of neurons' and layers' plans. relaxed: of an unbalanced coupling.
    iterations, tolerance: of neurons' plans. least: of a layer's share that is not left out.
    most:       rows at most. limit: the first so many items of the data. longest: tokens of a text.
    """

    modules: tuple[str, ...] = ("attention",)
    mode: str = "normalised"
    fusion: str | None = None
    neurons: int = 128
    layers: str | None = None
    rows: str | None = None
    sign: str | None = None
    scale: str | None = None
    heads: bool = False
    epsilon: float | None = None
    eta: float = 0.1
    relaxed: float = 0.1
    iterations: int = 200
    tolerance: float = 1e-6
    least: float = 1e-3
    most: int = 4096
    limit: int | None = None
    longest: int = 512
    control: str | None = None
    seed: int = 0
    threads: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        known = (*GROUPS, *SPACES)
        for module in self.modules:
            if module not in known:
                raise RecipeError(f"unknown module {module!r}", hint=did_you_mean(module, known))
        if not self.modules:
            raise RecipeError("no module is to be transported", hint="--modules attention")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise RecipeError(f"unknown {name} {value!r}", hint=did_you_mean(value, choices))
        for name, least in (
            ("neurons", 0),
            ("iterations", 1),
            ("most", 2),
            ("limit", 1),
            ("longest", 2),
            ("threads", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}", why=f"it must be {least} or more", hint=f"{name}: {least}")
        for name in ("epsilon", "eta", "relaxed", "tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise RecipeError(f"{name} is {value}", why="it must be above 0", hint=f"{name}: 0.1")
        if not 0 <= self.least < 1:
            raise RecipeError(f"least is {self.least}", why="it must be from 0 to below 1", hint="least: 0.001")
        if self.mode == "normalised":
            return
        wrong = {"sign": self.sign == "signed", "scale": self.scale in ("deviation", "regression"), "heads": self.heads}
        for name in (name for name, so in wrong.items() if so):
            why = "plans are not turned into maps in it"
            raise RecipeError(f"{name} is for the mode normalised, not {self.mode}", why=why, hint=f"leave out {name}")

    @property
    def settled(self) -> dict[str, Any]:
        """All that decides what is transported, as plain data: what was left open is the mode's own."""
        own = self.mode == "normalised"
        usual = {
            "fusion": "convex",
            "layers": "argmin" if own else "balanced",
            "rows": "tokens" if own else "prompts",
            "sign": "plain",
            "scale": "deviation" if own else "none",
            "epsilon": 0.03 if own else 0.1,
        }
        given = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("threads", "device", "modules")
        }
        return {name: usual.get(name) if value is None else value for name, value in given.items()}

    def wanted(self, *models: Parts) -> tuple[str, ...]:
        """The modules, each by its own name: those that are named, and of groups those that one of the models has."""
        named = {each for each in self.modules if each in SPACES}
        for group in (GROUPS[each] for each in self.modules if each in GROUPS):
            named.update(module for module in group if any(layers_with(parts, module) for parts in models))
        return tuple(module for module in SPACES if module in named)
