"""Cases: some of a world's experts, how their task vectors meet, and what every method makes of them with nothing set.

From these advice is learnt: whether measures that can be taken before a merge say which method will be best.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from benchmarks.zoo.measure import Bench, Unmeasured

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
    """Each group: its measures, and the normalised test score of the base and of each method at its defaults, mean over it.

    Where a merge takes minutes, all experts come first, and a run that was stopped has the groups that it went through.
    """
    experts = dict(zip(bench.skills, bench.experts("test"), strict=True))
    base = dict(zip(bench.skills, bench.reference(None, "test"), strict=True))

    def case(group: Sequence[str]) -> dict[str, Any]:
        met = measures(bench, group)
        scores = {"base": float(np.mean([base[skill] / experts[skill] for skill in group]))}
        for method in methods:
            values = bench.scored("test", method, {}, group, on=group)["values"]
            scores[method] = float(np.mean([v / experts[skill] for v, skill in zip(values, group, strict=True)]))
        rounded = {name: round(score, 4) for name, score in scores.items()}
        return {"skills": list(group), "measures": met, "scores": rounded}

    if not bench.world.long:
        return [case(group) for group in groups(bench.skills)]
    found: list[dict[str, Any]] = []
    *parts, whole = groups(bench.skills)
    for group in (whole, *parts):
        with contextlib.suppress(Unmeasured):
            found.append(case(group))
    return found


def measures(bench: Bench, group: Sequence[str]) -> dict[str, Any]:
    """How the task vectors of some experts meet."""
    key = bench.key("interference", tuple(group))
    if key not in bench.known:
        if bench.frozen:
            raise Unmeasured(f"how the task vectors of {', '.join(group)} meet")
        sources = [bench.world.source(bench.zoo.folder, skill) for skill in group]
        bench.note(key, values=interference(str(bench.zoo.base), sources).facts())
    return bench.known[key]["values"]
