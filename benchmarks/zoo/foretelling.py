"""What `mergery auto --no-tasks` knows: how far behind each method will be, by straight lines, what is taken where these say
nothing, and what that is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from benchmarks.zoo import real_page
from benchmarks.zoo.advice import NEAR, REAL
from benchmarks.zoo.learnt import LEARNERS, MEASURES, always, fitted, gather, held_out, interval

PLACE = "src/mergery/report/foretold.py"


def source(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The source of `mergery.report.foretold`: learnt from all worlds, and judged on worlds that were not learnt from."""
    cases = gather(results)
    center, spread, lines = fitted(cases)
    small = [seed for world, seeds in results.items() if world != REAL for seed in seeds.values()]
    bases = np.array([case["scores"]["base"] for seed in small for case in seed.get("cases", ())])
    regrets, choices = held_out(cases, LEARNERS["cautious"][0])
    chosen = cases.scores[np.arange(len(choices)), choices]
    single = {name: held_out(cases, LEARNERS[name][0])[0] for name in ("always", "never bad")}
    plain = min(single, key=lambda name: interval(cases, single[name])[0])
    rows = "".join(
        f'    "{name}": ({", ".join(str(round(1e4 * number)) for number in column.tolist())}),\n'
        for name, column in zip(cases.methods, lines.T, strict=True)
    )
    worlds = list(dict.fromkeys(cases.worlds.tolist()))
    return f'''"""What the comparison of methods foretells (docs/which-method.md): written by `make zoo`, do not edit."""

from __future__ import annotations

MEASURES = {_names(MEASURES)}
LOW = {_numbers(cases.measures.min(axis=0))}
HIGH = {_numbers(cases.measures.max(axis=0))}
"""Of each measure, the least and the largest that was seen."""
CENTER = {_numbers(center)}
SPREAD = {_numbers(spread)}
LINES = {{
{rows}}}
"""Of each method, how far it is behind the best, in ten-thousandths: a number, and one for each measure minus its center
over its spread."""
ONE = "{cases.methods[always(cases)(cases.measures[0])]}"
"""The one method that was least behind on average: what is taken where a measure lies beyond all that was seen."""
CASES, WORLDS = {len(regrets)}, {_names(worlds)}
BEHIND = {_numbers(interval(cases, regrets))}
"""How far what was chosen so was behind the best in hindsight, in worlds not learnt from: mean and 95 % interval."""
WORST = {max(float(regrets[cases.worlds == world].mean()) for world in worlds):.3f}
"""The same in the worst world."""
NEAR = {NEAR}
CLOSE = {int((regrets <= NEAR).sum())}
"""Cases in which the choice was behind by no more than `NEAR`."""
FALLEN = {int((chosen < bases).sum())}
"""Cases in which the choice scored below the base."""
ALWAYS = {_numbers(interval(cases, single[plain]))}
"""How far one method for all cases was behind."""
CHANCE = {_numbers(interval(cases, cases.regrets.mean(axis=1)))}
"""How far a method at random was behind."""
REAL: tuple[int, float, float, float] | None = {_on_the_real_model(results, plain)}
"""Groups of a real model's adapters, of which nothing was learnt: how many, and how far what was chosen so, one method for
all, and a method at random were behind there."""
'''


def _on_the_real_model(results: Mapping[str, Mapping[str, Any]], plain: str) -> str:
    over = [real_page.foreseen(results, seed) for seed in results.get(REAL, {}).values()]
    if not over or not over[0]:
        return "None"
    words = (LEARNERS["cautious"][1], LEARNERS[plain][1], real_page.AT_RANDOM)
    count = len(over[0][words[0]])
    return f"({count}, {', '.join(f'{over[0][each].mean():.4g}' for each in words)})"


def _names(names: Any) -> str:
    return "(" + ", ".join(f'"{name}"' for name in names) + ("," if len(names) == 1 else "") + ")"


def _numbers(values: Any) -> str:
    return "(" + ", ".join(f"{float(value):.4g}" for value in values) + ")"
