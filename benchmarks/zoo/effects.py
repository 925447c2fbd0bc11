"""What the literature says of merging, looked for in the zoo: more experts, larger models, interference, negation, analogy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.zoo.measure import Bench
from benchmarks.zoo.rows import SUMS, Row
from benchmarks.zoo.world import Zoo

CONTROL = 0.95  # of what the base scores on the other skills, that a negation must keep


def growth(zoo: Zoo, notebook: Path, rows: Sequence[Row], counts: Sequence[int]) -> dict[str, list[float]]:
    """Normalised test score of each row, settings chosen by validation, as experts are added."""
    result: dict[str, list[float]] = {row.name: [] for row in rows}
    for count in counts:
        bench = Bench(zoo, notebook, zoo.world.skills[:count])
        experts = bench.experts("test")
        for row in rows:
            result[row.name].append(float((bench.tested(row, bench.chosen(row)[1]) / experts).mean()))
    return result


@dataclass(frozen=True)
class Interference:
    """How task vectors meet, and what that costs a skill."""

    cosine: float  # mean over pairs of task vectors
    conflicts: float  # share of the largest fifth of entries where another task vector's sign differs
    alone: float  # normalised score of base + scale * one task vector, on its own skill
    together: dict[str, float]  # of all at once, by row


def interference(bench: Bench, rows: Sequence[Row], scale: float) -> Interference:
    """Each task vector alone at a scale, and together by each row."""
    vectors = torch.stack([flat(bench, skill) for skill in bench.skills])
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    k = len(unit)
    cosine = float(((unit @ unit.T).sum() - k) / (k * (k - 1)))
    cut = vectors.abs().quantile(0.8, dim=1, keepdim=True) if vectors.shape[1] < 1 << 24 else vectors.abs().mean()
    signs = torch.where(vectors.abs() >= cut, vectors.sign(), 0.0)
    both = (signs != 0).any(0)
    conflicts = float(((signs > 0).any(0) & (signs < 0).any(0)).sum() / both.sum())
    experts = bench.experts("test")
    alone = [
        bench.test("task_arithmetic", {"weight": scale}, [skill])[index] for index, skill in enumerate(bench.skills)
    ]
    together = {row.name: float((bench.tested(row, bench.chosen(row)[1]) / experts).mean()) for row in rows}
    return Interference(cosine, conflicts, float((np.array(alone) / experts).mean()), together)


def flat(bench: Bench, skill: str) -> torch.Tensor:
    expert = bench.world.merged(bench.world.load(bench.zoo.expert(skill))).state_dict()
    return torch.cat([(expert[name] - bench.origin[name]).flatten() for name in bench.origin])


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


def tell(bench: Bench, scales: Sequence[float] = (*SUMS, 0.8, 1.0)) -> Analogy:
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
