"""What the literature says of merging, looked for in the zoo: more experts, larger models, interference, negation, analogy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.zoo.measure import Bench

from mergery.methods.task_arithmetic import task_arithmetic

CONTROL = 0.95  # of what the base scores on the other skills, that a negation must keep


@dataclass(frozen=True)
class Interference:
    """What task vectors cost a skill by being merged."""

    alone: float  # normalised score of base + scale * one task vector, on its own skill
    together: float  # of all at once


def interference(bench: Bench, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Interference:
    """Each task vector alone at the scale that is best for all together, and all of them."""
    experts = bench.experts("test")
    scale = settings.get("scale", task_arithmetic.resolve(len(bench.skills), {})["scale"])
    alone = [
        bench.test("task_arithmetic", {"scale": scale}, [skill])[index] for index, skill in enumerate(bench.skills)
    ]
    together = next(row["chosen"] for row in rows if row["name"] == "task_arithmetic")
    return Interference(float((np.array(alone) / experts).mean()), float(np.mean(together)))


@dataclass(frozen=True)
class Negation:
    """A skill's task vector subtracted: test scores of that skill and the mean of the others, before and after."""

    skill: str
    scale: float
    target: tuple[float, float]
    control: tuple[float, float]


def negate(bench: Bench, scales: Sequence[float] = (0.0, 0.3, 0.6, 1.0, 1.5, 2.0)) -> list[Negation]:
    """Subtract each task vector as far as the other skills keep `CONTROL` of the base's dev score."""
    result = []
    before = {split: bench.reference(None, split) for split in ("dev", "test")}
    for index, skill in enumerate(bench.skills):
        others = np.arange(len(bench.skills)) != index
        allowed = []
        for scale in scales:
            outcome = bench.measure("task_arithmetic", {"weight": -scale}, [skill])
            if outcome.dev[others].mean() >= CONTROL * before["dev"][others].mean():
                allowed.append((outcome.dev[index], scale))
        _, scale = min(allowed)
        after = bench.test("task_arithmetic", {"weight": -scale}, [skill])
        target = float(before["test"][index]), float(after[index])
        control = float(before["test"][others].mean()), float(after[others].mean())
        result.append(Negation(skill, scale, target, control))
    return result


@dataclass(frozen=True)
class Analogy:
    """Test scores on the skill that no expert has learnt."""

    base: float
    told: float  # base + scale * (C + B - A)
    scale: float
    control: float  # the better of the two nearest task vectors alone, at the best of the same scales
    expert: float


def tell(bench: Bench, scales: Sequence[float] = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0)) -> Analogy:
    """«A is to B as C is to D»: D's skill from the task vectors of the other three."""
    a, b, c, d = bench.skills
    combined, single = [], []
    for scale in scales:
        weights = {a: -scale, b: scale, c: scale}
        combined.append((float(bench.measure("task_arithmetic", {"weight": weights}, [a, b, c]).dev[3]), scale))
        for skill in (b, c):
            single.append((float(bench.measure("task_arithmetic", {"weight": scale}, [skill]).dev[3]), scale, skill))
    scale = max(combined)[1]
    told = bench.test("task_arithmetic", {"weight": {a: -scale, b: scale, c: scale}}, [a, b, c])[3]
    _, alone, skill = max(single)
    control = bench.test("task_arithmetic", {"weight": alone}, [skill])[3]
    base, expert = bench.reference(None, "test")[3], bench.reference(d, "test")[3]
    return Analogy(float(base), float(told), scale, float(control), float(expert))
