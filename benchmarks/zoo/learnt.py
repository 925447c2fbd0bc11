"""Advice from diagnosis: whether measures taken before a merge say which method will be best, on worlds not learnt from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.pages import fold
from benchmarks.pages import table as as_table
from benchmarks.zoo.advice import REAL
from benchmarks.zoo.summary import RESAMPLES, spearman

MEASURES = ("models", "cosine", "conflict", "inputs", "outputs", "heads", "tails", "rank", "dispersion", "size")
NEIGHBOURS = 7
RIDGE = 1.0  # in units of standardised features


@dataclass(frozen=True)
class Cases:
    """Groups of experts: their world, measures (n, features) and the scores of methods with nothing set (n, methods)."""

    worlds: np.ndarray
    measures: np.ndarray
    scores: np.ndarray
    methods: tuple[str, ...]

    @property
    def regrets(self) -> np.ndarray:
        """How far each method is behind the best of its case."""
        return self.scores.max(axis=1, keepdims=True) - self.scores

    def of(self, which: np.ndarray) -> Cases:
        return Cases(self.worlds[which], self.measures[which], self.scores[which], self.methods)


def gather(results: Mapping[str, Mapping[str, Any]]) -> Cases:
    """All cases of the small worlds, with the methods that all of them have; the real model is there to be foretold."""
    found = [
        (world, case)
        for world, seeds in results.items()
        for seed in seeds.values()
        for case in seed.get("cases", ())
        if world != REAL
    ]
    methods = tuple(name for name in found[0][1]["scores"] if all(name in case["scores"] for _, case in found))
    methods = tuple(name for name in methods if name != "base")
    return Cases(
        np.array([world for world, _ in found]),
        np.array([[float(case["measures"][name]) for name in MEASURES] for _, case in found]),
        np.array([[case["scores"][name] for name in methods] for _, case in found]),
        methods,
    )


Choose = Callable[[np.ndarray], int]  # from measures (features,) to a method
Learn = Callable[[Cases], Choose]


def weights(cases: Cases) -> np.ndarray:
    """Every world counts alike, however many cases it has."""
    return np.array([1.0 / np.sum(cases.worlds == world) for world in cases.worlds])


def always(cases: Cases) -> Choose:
    """The one method that is least behind on average."""
    best = int(np.argmin(weights(cases) @ cases.regrets))
    return lambda _: best


def never_bad(cases: Cases) -> Choose:
    """The one method whose mean over a world is least behind where it is worst."""
    means = [cases.regrets[cases.worlds == world].mean(axis=0) for world in sorted(set(cases.worlds))]
    best = int(np.argmin(np.max(means, axis=0)))
    return lambda _: best


def _standard(cases: Cases) -> tuple[np.ndarray, np.ndarray]:
    return cases.measures.mean(axis=0), cases.measures.std(axis=0) + 1e-9


def nearest(cases: Cases) -> Choose:
    """What was best in the cases that measure most alike."""
    center, spread = _standard(cases)
    known, regrets = (cases.measures - center) / spread, cases.regrets

    def choose(measures: np.ndarray) -> int:
        gaps = np.linalg.norm(known - (measures - center) / spread, axis=1)
        return int(np.argmin(regrets[np.argsort(gaps)[:NEIGHBOURS]].mean(axis=0)))

    return choose


def fitted(cases: Cases) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Center and spread of the measures (features,), and straight lines in them for each method (1 + features, methods)."""
    center, spread = _standard(cases)
    known = np.column_stack([np.ones(len(cases.measures)), (cases.measures - center) / spread])
    own = weights(cases)[:, None]
    penalty = RIDGE * np.diag([0.0] + [1.0] * len(MEASURES)) * own.mean()
    return center, spread, np.linalg.solve(known.T @ (own * known) + penalty, known.T @ (own * cases.regrets))


def straight(cases: Cases) -> Choose:
    """The least of what straight lines in all measures foretell."""
    center, spread, lines = fitted(cases)
    return lambda measures: int(np.argmin(np.concatenate([[1.0], (measures - center) / spread]) @ lines))


def cautious(cases: Cases) -> Choose:
    """The same where every measure lies within what was seen, as lines say nothing beyond; there, the one method always."""
    lines, one = straight(cases), always(cases)
    low, high = cases.measures.min(axis=0), cases.measures.max(axis=0)
    return lambda measures: (lines if ((low <= measures) & (measures <= high)).all() else one)(measures)


@dataclass(frozen=True)
class Rule:
    """One measure and one bound: a method below it, and one from it on."""

    measure: int
    bound: float
    below: int
    above: int

    def __call__(self, measures: np.ndarray) -> int:
        return self.below if measures[self.measure] < self.bound else self.above

    def words(self, methods: Sequence[str]) -> str:
        name = MEASURES[self.measure]
        return f"`{methods[self.above]}` where {name} is {self.bound:.3g} or more, else `{methods[self.below]}`"


def rule(cases: Cases) -> Rule:
    """The one measure, bound and pair of methods that are least behind."""
    own, regrets = weights(cases), cases.regrets
    found = []
    for measure in range(len(MEASURES)):
        values = np.unique(cases.measures[:, measure])
        for bound in (values[1:] + values[:-1]) / 2:
            low = cases.measures[:, measure] < bound
            below, above = (int(np.argmin(own[part] @ regrets[part])) for part in (low, ~low))
            total = own[low] @ regrets[low, below] + own[~low] @ regrets[~low, above]
            found.append((round(float(total), 9), measure, float(bound), below, above))
    return Rule(*min(found)[1:])


LEARNERS: Mapping[str, tuple[Learn, str]] = {
    "always": (always, "one method always: the least behind on average"),
    "never bad": (never_bad, "one method always: the least behind where it is worst"),
    "rule": (rule, "a bound on one measure"),
    "nearest": (nearest, f"the {NEIGHBOURS} cases that measure most alike"),
    "straight": (straight, "straight lines in all measures"),
    "cautious": (cautious, "the lines where each measure was seen, else one method always"),
}


def held_out(cases: Cases, learn: Learn) -> tuple[np.ndarray, list[int]]:
    """Regrets (n,) of what is chosen in each case after learning from the other worlds, and the choices."""
    regrets, choices = np.zeros(len(cases.worlds)), [0] * len(cases.worlds)
    for world in dict.fromkeys(cases.worlds):
        inside = cases.worlds == world
        choose = learn(cases.of(~inside))
        for place in np.flatnonzero(inside):
            choices[place] = choose(cases.measures[place])
            regrets[place] = cases.regrets[place, choices[place]]
    return regrets, choices


def interval(cases: Cases, regrets: np.ndarray) -> tuple[float, float, float]:
    """The mean over worlds, and a 95 % interval by resampling cases within worlds."""
    generator, worlds = (
        np.random.default_rng(0),
        [regrets[cases.worlds == world] for world in dict.fromkeys(cases.worlds)],
    )
    drawn = [np.mean([generator.choice(own, len(own)).mean() for own in worlds]) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.mean([own.mean() for own in worlds])), float(low), float(high)


def section(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Advice from diagnosis, on the page."""
    cases = gather(results)
    worlds = list(dict.fromkeys(cases.worlds))
    if len(worlds) < 3:
        return []
    rows, whole, found = [], [], {}
    for name, (learn, words) in LEARNERS.items():
        regrets, choices = held_out(cases, learn)
        found[name] = regrets
        mean, low, high = interval(cases, regrets)
        by_world = [f"{regrets[cases.worlds == world].mean():.3f}" for world in worlds]
        names = [cases.methods[choice] for choice in choices]
        common = ", ".join(f"`{each}`" for each in sorted(set(names), key=lambda each: (-names.count(each), each))[:3])
        rows.append([words, f"**{mean:.3f}** [{low:.3f}, {high:.3f}]", max(by_world), common])
        whole.append([words, *by_world])
    chance = cases.regrets.mean(axis=1)
    mean, low, high = interval(cases, chance)
    by_world = [f"{chance[cases.worlds == world].mean():.3f}" for world in worlds]
    rows.append(["a method at random", f"**{mean:.3f}** [{low:.3f}, {high:.3f}]", max(by_world), ""])
    whole.append(["a method at random", *by_world])
    return [
        "## Advice from diagnosis",
        "",
        f"Do measures that are taken before a merge say which method will be best? {len(cases.worlds)} cases: two, four and "
        f"all experts of each world and seed, with {len(cases.methods)} methods and nothing set. The measures are those of "
        "`mergery inspect BASE MODEL MODEL --interference`. A chooser learns from all worlds but one and chooses in "
        "that one; what it chose is behind the best in hindsight by:",
        "",
        *as_table(["chosen by", "behind, mean [95 %]", "in the worst world", "mostly"], rows, left=["mostly"]),
        "",
        verdict(cases, found),
        "",
        *fold("World by world", as_table(["chosen by", *worlds], whole)),
        *single(cases),
        *fold("The measures, by world and number of experts", measured(results)),
    ]


def advised(results: Mapping[str, Mapping[str, Any]]) -> tuple[str, float, str, str] | None:
    """The rule of one measure, learnt from all worlds: where learning it from the others was of use in each held-out one."""
    cases = gather(results)
    if len(set(cases.worlds)) < 3:
        return None
    plain = min((held_out(cases, learn)[0] for learn in (always, never_bad)), key=lambda each: interval(cases, each)[0])
    if interval(cases, plain - held_out(cases, rule)[0])[1] <= 0.0:
        return None
    found = rule(cases)
    return MEASURES[found.measure], round(found.bound, 3), cases.methods[found.below], cases.methods[found.above]


def verdict(cases: Cases, found: Mapping[str, np.ndarray]) -> str:
    """Whether diagnosis is worth its time."""
    plain = min(("always", "never bad"), key=lambda name: interval(cases, found[name])[0])
    best = min(
        (name for name in found if name not in ("always", "never bad")), key=lambda n: interval(cases, found[n])[0]
    )
    mean, low, high = interval(cases, found[plain] - found[best])
    fitted = rule(cases)
    told = f"Learnt from all worlds, the rule of one measure is: {fitted.words(cases.methods)}."
    if low > 0:
        return (
            f"**Diagnosis helps somewhat**: {LEARNERS[best][1]} is less behind than {LEARNERS[plain][1]}, by {mean:.3f} "
            f"[{low:.3f}, {high:.3f}]; it is the best of {len(found) - 2} that were tried, on "
            f"{len(set(cases.worlds))} worlds. {told}"
        )
    name = cases.methods[never_bad(cases)(cases.measures[0])]
    return (
        f"**Diagnosis does not predict**: on worlds it has not learnt from, the best of these choosers ({LEARNERS[best][1]}) "
        f"is not surely less behind than {LEARNERS[plain][1]}: by {mean:.3f} [{low:.3f}, {high:.3f}]. So the advice is the "
        f"method that is never bad, `{name}`, and to measure. {told}"
    )


def single(cases: Cases) -> list[str]:
    """How each measure goes with what one family gains over another, within and between worlds."""
    shown = [name for name in ("linear", "svc", "swudi_a", "pcb") if name in cases.methods]
    pairs = list(itertools.combinations(shown, 2))
    rows = []
    for place, measure in enumerate(MEASURES):
        cells = []
        for one, other in pairs:
            ahead = cases.scores[:, cases.methods.index(one)] - cases.scores[:, cases.methods.index(other)]
            values = cases.measures[:, place]
            whole = spearman(values, ahead)
            inside = [
                spearman(values[own], ahead[own])
                for own in (cases.worlds == world for world in dict.fromkeys(cases.worlds))
                if len(set(values[own])) > 2
            ]
            same = sum(np.sign(each) == np.sign(whole) for each in inside)
            cells.append(f"{whole:+.2f} ({same} of {len(inside)})")
        rows.append([measure, *cells])
    head = ["measure", *(f"`{one}` over `{other}`" for one, other in pairs)]
    return fold(
        "How single measures go with what one method is ahead of another (rank correlation over all cases; in brackets, in how "
        "many worlds by itself it has the same sign)",
        as_table(head, rows),
    )


def measured(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Means of the measures, by world and number of experts."""
    rows = []
    for world, seeds in results.items():
        cases = [case for seed in seeds.values() for case in seed.get("cases", ())]
        for count in sorted({len(case["skills"]) for case in cases}):
            own = [case for case in cases if len(case["skills"]) == count]
            values = [np.mean([case["measures"][name] for case in own]) for name in MEASURES[1:]]
            best = {
                name: np.mean([case["scores"][name] for case in own]) for name in own[0]["scores"] if name != "base"
            }
            first = sorted(best, key=lambda name: -best[name])[:2]
            told = ", ".join(f"`{name}` {best[name]:.3f}" for name in first)
            rows.append([world, count, *(f"{value:.3f}" for value in values), told])
    return as_table(["world", "experts", *MEASURES[1:], "best with nothing set"], rows, left=["best with nothing set"])
