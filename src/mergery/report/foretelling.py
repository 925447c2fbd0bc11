"""Which method will be least behind, from measures alone, and how sure that is: straight lines learnt from the comparison.

Where a measure lies beyond all that the comparison had, lines say nothing: there it is the method that was least behind in all
of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mergery.report import foretold
from mergery.report.interference import WORDS


@dataclass(frozen=True)
class Foretold:
    """Methods by how far each is foretold to be behind the best one, in shares of an expert's score: the least first, or where
    a measure is outside, the one that was least behind in all cases.
    """

    behind: Mapping[str, float]
    outside: tuple[str, ...]  # measures that are larger or smaller than any in the comparison

    @property
    def words(self) -> tuple[str, ...]:
        """How sure the first method is, in sentences."""
        mean, low, high = foretold.BEHIND
        worlds = len(foretold.WORLDS)
        told = [
            f"how sure: in {foretold.CASES} cases of {worlds} worlds of small models, each judged by what was learnt in the "
            f"others, such a choice was {mean:.3f} [{low:.3f}, {high:.3f}] of an expert's score behind the best method "
            f"({foretold.WORST:.3f} in the worst world), by no more than {foretold.NEAR:g} in {foretold.CLOSE} of them and "
            f"below the base in {foretold.FALLEN}",
            f"one method for all cases was {foretold.ALWAYS[0]:.3f} behind, one at random {foretold.CHANCE[0]:.3f}",
        ]
        if foretold.REAL is not None:
            count, chosen, always, chance = foretold.REAL
            told.append(
                f"on a real model, of which nothing was learnt, in {count} {'groups' if count > 1 else 'group'} of its five "
                f"adapters: {chosen:.3f} behind, one method for all {always:.3f}, one at random {chance:.3f}"
            )
        if self.outside:
            named = ", ".join(WORDS.get(name, f"number of {name}") for name in self.outside)
            told.append(
                f"no case of the comparison is like these models in: {named}; so nothing is foretold, and {foretold.ONE} "
                "is the method that was least behind in all cases"
            )
        told.append("whether a merge beats the best of the models alone, only tasks can say: --tasks FILE")
        return tuple(told)


def foretell(facts: Mapping[str, float]) -> Foretold:
    """What the comparison foretells of fine-tunes that meet so. facts: `mergery.report.interference`'s measures.

    A measure beyond all that was seen counts as the nearest one that was.
    """
    seen = list(zip(foretold.MEASURES, foretold.LOW, foretold.HIGH, strict=True))
    places = [min(max(float(facts[name]), low), high) for name, low, high in seen]
    units = [
        (each - center) / spread for each, center, spread in zip(places, foretold.CENTER, foretold.SPREAD, strict=True)
    ]
    behind = {
        name: 1e-4 * sum(number * each for number, each in zip(line, (1.0, *units), strict=True))
        for name, line in foretold.LINES.items()
    }
    outside = tuple(name for name, low, high in seen if not low <= float(facts[name]) <= high)
    order = sorted(behind, key=lambda name: (bool(outside) and name != foretold.ONE, behind[name]))
    return Foretold({name: round(behind[name], 4) for name in order}, outside)
