"""Cases: some of a world's experts, how their task vectors meet, and what every method makes of them with nothing set.

From these advice is learnt: whether measures that can be taken before a merge say which method will be best.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from benchmarks.zoo.measure import Bench

from mergery.report.interference import interference

METHODS = (
    "linear",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "breadcrumbs",
    "pcb",
    "svc",
    "iso_c",
    "tsv_merge",
    "dc_merge",
    "knots",
    "cart",
    "swudi_a",
    "ace",
)


def groups(skills: Sequence[str]) -> list[tuple[str, ...]]:
    """Twos, fours, and all of the skills, each in no more than four groups."""
    found: list[tuple[str, ...]] = []
    for size, step in ((2, 2), (4, 4)):
        starts = range(0, len(skills) - size + 1, step)
        found += [tuple(skills[start : start + size]) for start in list(starts)[:4] if size < len(skills)]
    if len(skills) == 7:
        found.append(tuple(skills[3:]))
    return [*found, tuple(skills)]


def cases(bench: Bench, methods: Sequence[str] = METHODS) -> list[dict[str, Any]]:
    """Each group: its measures, and the normalised test score of the base and of each method at its defaults, mean over it."""
    zoo, found = bench.zoo, []
    experts = dict(zip(bench.skills, bench.experts("test"), strict=True))
    base = dict(zip(bench.skills, bench.reference(None, "test"), strict=True))
    for group in groups(bench.skills):
        key = bench.key("interference", group)
        if key not in bench.known:
            sources = [zoo.world.source(zoo.folder, skill) for skill in group]
            bench.note(key, values=interference(str(zoo.base), sources).facts())
        scores = {"base": float(np.mean([base[skill] / experts[skill] for skill in group]))}
        for method in methods:
            values = bench.scored("test", method, {}, group, on=group)["values"]
            scores[method] = float(np.mean([v / experts[skill] for v, skill in zip(values, group, strict=True)]))
        rounded = {name: round(score, 4) for name, score in scores.items()}
        found.append({"skills": list(group), "measures": bench.known[key]["values"], "scores": rounded})
    return found
