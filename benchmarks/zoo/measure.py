"""Merging in a world, and scoring what comes out. Everything measured is kept, and not measured again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from benchmarks.zoo.rows import FURTHER, Row, Settings
from benchmarks.zoo.world import Split, State, World, Zoo, answer_all

import mergery
from mergery.method import find
from mergery.planning.digest import ARITHMETIC
from mergery.run.workers import Options


class Unmeasured(Exception):
    """What is asked for was not measured, and nothing is to be measured now."""


@dataclass(frozen=True)
class Outcome:
    """One method on one zoo: the share of dev items that the merge answers by skill, with which settings, in which time."""

    method: str
    settings: Settings
    dev: np.ndarray  # (skills,)
    seconds: float


@dataclass
class Bench:
    """A zoo with its references, and the notebook of what was measured on it."""

    zoo: Zoo
    notebook: Path
    skills: Sequence[str]
    frozen: bool = False
    """Measure nothing that is not in the notebook: raise Unmeasured."""

    def __post_init__(self) -> None:
        self.world: World = self.zoo.world
        self.model = self.world.load(self.zoo.base)
        self.origin = {name: value.clone() for name, value in self.world.merged(self.model).state_dict().items()}
        self.known: dict[str, Any] = {}
        self.warm = self.broken = False
        if self.notebook.exists():
            text = self.notebook.read_text()
            self.broken = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                if line.endswith("}"):  # a run that was killed may have left half a line
                    entry = json.loads(line)
                    self.known[entry["key"]] = entry

    def answers(self, state: State, split: Split, skills: Sequence[str]) -> np.ndarray:
        """Which items weights answer: bool (skills, items)."""
        self.world.merged(self.model).load_state_dict(dict(state))
        return answer_all(self.world, self.model, skills, split)

    def shares(self, state: State, split: Split, skills: Sequence[str]) -> np.ndarray:
        """The share of items that weights answer, by skill."""
        return self.answers(state, split, skills).mean(axis=1)

    def reference(self, skill: str | None, split: Split) -> np.ndarray:
        """The shares of the base, or of one skill's expert (skills,): NaN where it was not asked, as the world is `long`."""
        values = dict(zip(self.asked(skill), self._reference(skill, split)["values"], strict=True))
        return np.array([values.get(each, np.nan) for each in self.skills])

    def asked(self, skill: str | None) -> list[str]:
        """The skills of which the base, or a skill's expert, is asked."""
        return [skill] if skill is not None and self.world.long else list(self.skills)

    def _reference(self, skill: str | None, split: Split) -> Mapping[str, Any]:
        asked = self.asked(skill)
        key = self.key("reference", skill, split, asked)
        if key not in self.known:
            if self.frozen:
                raise Unmeasured(f"{skill or 'the base'} on {split} items")
            model = self.world.load(self.zoo.base if skill is None else self.zoo.expert(skill))
            values = answer_all(self.world, model, asked, split).mean(axis=1).tolist()
            lost = self.world.damage(model)
            self.note(key, values=values, **({} if lost is None else {"damage": lost}))
        return self.known[key]

    def damage(self, skill: str | None = None) -> float | None:
        """What the base, or a skill's expert, has lost of what no skill asks for; None where the world cannot tell."""
        return self._reference(skill, "test").get("damage")

    def experts(self, split: Split) -> np.ndarray:
        """Each expert on its own skill."""
        return np.array([self.reference(skill, split)[index] for index, skill in enumerate(self.skills)])

    def recipe(
        self,
        method: str,
        settings: Settings,
        skills: Sequence[str] | None = None,
        first: Settings = MappingProxyType({}),
    ) -> dict[str, Any]:
        """The recipe that merges the experts of some skills, of all by default; each of them `first` with the base."""
        experts = list(skills or self.skills)
        models: dict[str, Any] = {skill: self.world.source(self.zoo.folder, skill) for skill in experts}
        merge: dict[str, Any] = {"method": method, **settings, "models": experts}
        if first:
            models = {f"{skill}_alone": path for skill, path in models.items()}
            models |= {skill: {**first, "models": [f"{skill}_alone"], "base": "base"} for skill in experts}
        if first or find(method).base != "unused":
            models = {"base": str(self.zoo.base), **models}
        if find(method).base != "unused":
            merge["base"] = "base"
        return {"models": models, "merge": merge, "output": {"dtype": "float32"}, "seed": self.zoo.seed}

    def merge(self, recipe: Mapping[str, Any]) -> tuple[State, float]:
        """The merged weights, and the seconds that planning and merging took on one thread."""
        if not self.warm and not self.world.long:  # the first merge of a process loads and compiles
            mergery.merge(mergery.plan(recipe), options=Options(threads=1))
        self.warm = True
        started = time.perf_counter()
        plan = mergery.plan(recipe)
        state = mergery.merge(plan, options=Options(threads=1))
        seconds = time.perf_counter() - started
        assert isinstance(state, dict)
        return {**self.origin, **state}, seconds

    def measure(
        self,
        method: str,
        settings: Settings,
        skills: Sequence[str] | None = None,
        first: Settings = MappingProxyType({}),
    ) -> Outcome:
        """Merge and score on dev items, unless that has been done before."""
        entry = self.scored("dev", method, settings, skills, first=first)
        return Outcome(method, settings, np.array(entry["values"]), entry["seconds"])

    def test(
        self,
        method: str,
        settings: Settings,
        skills: Sequence[str] | None = None,
        first: Settings = MappingProxyType({}),
    ) -> np.ndarray:
        """The shares of test items (skills,), asked for only where nothing more is chosen by them."""
        return np.array(self.scored("test", method, settings, skills, first=first)["values"])

    def scored(
        self,
        split: Split,
        method: str,
        settings: Settings,
        skills: Sequence[str] | None = None,
        on: Sequence[str] | None = None,
        first: Settings = MappingProxyType({}),
    ) -> Mapping[str, Any]:
        """The shares of items of some skills, of all by default, and the seconds of the merge."""
        recipe = self.recipe(method, settings, skills, first)
        on = list(on or self.skills)
        key = self.key(recipe["merge"], dict(first), recipe["seed"], on, split)
        if key not in self.known and self.frozen:
            raise Unmeasured(f"{method} on {split} items")
        if key not in self.known:
            state, seconds = self.merge(recipe)
            answers = self.answers(state, split, on)
            lost = self.world.damage(self.model)
            told = {} if lost is None else {"damage": lost}
            if self.world.long:  # few seeds: what two methods answer is compared item by item
                told |= {"answers": ["".join(str(int(each)) for each in row) for row in answers]}
            self.note(key, settings=dict(settings), values=answers.mean(axis=1).tolist(), seconds=seconds, **told)
        return self.known[key]

    def served_all(self, split: Split, method: str, settings: Settings) -> dict[str, Any]:
        """Each skill's own model on that skill, from what is kept for all: as `scored` tells of one model; seconds of one."""
        each = [self.scored(split, method, {**settings, "task": skill}, on=[skill]) for skill in self.skills]
        found: dict[str, Any] = {"values": [entry["values"][0] for entry in each], "seconds": each[0]["seconds"]}
        if all("damage" in entry for entry in each):
            found["damage"] = float(np.mean([entry["damage"] for entry in each]))
        if all("answers" in entry for entry in each):
            found["answers"] = [entry["answers"][0] for entry in each]
        return found

    def served(self, split: Split, method: str, settings: Settings) -> tuple[np.ndarray, float]:
        """The shares (skills,) that each skill's own model answers, and the seconds of one."""
        found = self.served_all(split, method, settings)
        return np.array(found["values"]), found["seconds"]

    def outcome(self, row: Row, settings: Settings) -> Outcome:
        """A row with some of its settings."""
        given = {**row.given, **settings}
        if row.served:
            return Outcome(row.method, given, *self.served("dev", row.method, given))
        return self.measure(row.method, given, first=row.first)

    def tested(self, row: Row, outcome: Outcome) -> np.ndarray:
        """The shares of test items (skills,) of an outcome."""
        if row.served:
            return self.served("test", row.method, outcome.settings)[0]
        return self.test(row.method, outcome.settings, first=row.first)

    def chosen(self, row: Row) -> tuple[Outcome, Outcome, int]:
        """A row with its default settings, with those that are best on the dev items, and from how many they were chosen.

        Where the best lie at an end of the grid, the grid goes on, so that no choice is a bound of what was tried.
        """
        tried = [(settings, self.outcome(row, settings)) for settings in row.candidates()]
        for _ in range(FURTHER):
            best = max(tried, key=lambda each: each[1].dev.mean())[0]
            seen = [settings for settings, _ in tried]
            new = [settings for settings in row.beyond(best, seen) if settings not in seen]
            if not new:
                break
            tried += [(settings, self.outcome(row, settings)) for settings in new]
        return tried[0][1], max((outcome for _, outcome in tried), key=lambda each: each.dev.mean()), len(tried)

    def key(self, *facts: Any) -> str:
        """What was measured is known by: the arithmetic, the trained weights, and what was asked of them."""
        known = [ARITHMETIC, mergery.__version__, self.zoo.folder.name, self.zoo.trained, *facts]
        text = json.dumps(known, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def note(self, key: str, **facts: Any) -> None:
        self.known[key] = {"key": key, **facts}
        with open(self.notebook, "a") as file:
            file.write("\n" * self.broken + json.dumps(self.known[key]) + "\n")
        self.broken = False
