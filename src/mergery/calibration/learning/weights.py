"""The weights that are learnt: in groups of tensors, within a range, moved by Adam."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from mergery.architecture import Architecture
from mergery.calibration.learning.options import By, Range
from mergery.recipe.values import Condition, Constant, Filtered

MEAN, SQUARE, GUARD = 0.9, 0.999, 1e-8  # of Adam
DIGITS = 7  # of a weight in a recipe
EXPERT = re.compile(r"(.*\.experts\.\d+)\.")
ALL = ".*"  # behind the name of an expert, of whose tensors a group is


@dataclass
class Weights:
    """One weight for each model and group of tensors, and how far Adam has moved them: float64 (groups, k).

    free:   the weights themselves; of shares, what exp() is taken of.
    """

    groups: Sequence[str]
    group: Mapping[str, int]  # of each tensor
    range: Range
    free: np.ndarray

    def __post_init__(self) -> None:
        self.mean, self.square = np.zeros_like(self.free), np.zeros_like(self.free)
        self.step = 0

    @property
    def values(self) -> np.ndarray:
        """The weights (groups, k) as they count."""
        if self.range != "shares":
            return self.free
        powers = np.exp(self.free - self.free.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def of(self, tensor: str) -> np.ndarray:
        """The weights (k,) of a tensor."""
        return self.values[self.group[tensor]]

    def gathered(self, slopes: Mapping[str, np.ndarray]) -> np.ndarray:
        """The gradient with respect to `free`, of that with respect to each tensor's weights (k,)."""
        found = np.zeros_like(self.free)
        for tensor, slope in slopes.items():
            found[self.group[tensor]] += slope
        if self.range == "shares":
            shares = self.values
            found = shares * (found - (shares * found).sum(axis=1, keepdims=True))
        return found

    def move(self, gradient: np.ndarray, rate: float) -> None:
        """One step of Adam down a gradient; weights that leave their range are put back to its end."""
        self.step += 1
        self.mean = MEAN * self.mean + (1.0 - MEAN) * gradient
        self.square = SQUARE * self.square + (1.0 - SQUARE) * gradient * gradient
        size = np.sqrt(self.square / (1.0 - SQUARE**self.step)) + GUARD
        self.free = self.free - rate * (self.mean / (1.0 - MEAN**self.step)) / size
        if self.range == "unit":
            self.free = np.clip(self.free, 0.0, 1.0)

    def settings(self, models: Sequence[str]) -> dict[str, Constant | Filtered]:
        """The weight of each model as a recipe says it."""
        values = self.values
        return {model: _setting(self.groups, values[:, place]) for place, model in enumerate(models)}


def begin(
    models: int,
    tensors: Sequence[str],
    architecture: Architecture,
    by: By,
    wanted: Range,
    start: Mapping[str, np.ndarray],
) -> Weights:
    """Weights to begin with: for each group the mean of those with which its tensors start (k,)."""
    keys = {name: _group(name, architecture, by) for name in sorted(tensors, key=_by_numbers)}
    groups = sorted(set(keys.values()), key=_by_numbers)
    places = {key: place for place, key in enumerate(groups)}
    group = {name: places[key] for name, key in keys.items()}
    first = np.zeros((len(groups), models))
    counts = np.zeros(len(groups))
    for name in tensors:
        first[group[name]] += start[name]
        counts[group[name]] += 1
    first /= counts[:, None]
    if wanted == "shares":
        first = np.log(np.maximum(first, 1e-6) / np.maximum(first, 1e-6).sum(axis=1, keepdims=True))
    elif wanted == "unit":
        first = np.clip(first, 0.0, 1.0)
    return Weights(groups, group, wanted, first)


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Sorts names with their numbers as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _group(name: str, architecture: Architecture, by: By) -> str:
    """A tensor's group: all, a layer's number, all of an expert, or the tensor itself."""
    if by == "tensor":
        return name
    if by == "model":
        return ""
    if by == "expert" and (match := EXPERT.match(name)):
        return match[1] + ALL
    parsed = architecture.names[name]
    layer = parsed.layer if parsed.layer is not None or parsed.part != "language" else parsed.number
    return "" if layer is None else str(layer)


def _setting(groups: Sequence[str], values: np.ndarray) -> Constant | Filtered:
    """A weight that changes from group to group."""
    numbers = [float(f"{value:.{DIGITS}g}") for value in values]
    if list(groups) == [""]:
        return Constant(numbers[0])
    order = sorted(  # experts come before their layers, and what is in no layer comes last
        range(len(groups)), key=lambda place: (groups[place] == "", not groups[place].endswith(ALL))
    )
    return Filtered(tuple((_condition(groups[place]), Constant(numbers[place])) for place in order))


def _condition(group: str) -> Condition:
    if group.isdigit():
        return Condition(layers=((int(group), int(group)),))
    if group.endswith(ALL):
        return Condition(name=exactly(group.removesuffix(ALL)) + ALL)
    return Condition(name=exactly(group)) if group else Condition()


def exactly(name: str) -> str:
    """The pattern that fits a tensor's name alone."""
    pattern = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
    assert fnmatchcase(name, pattern)
    return pattern
