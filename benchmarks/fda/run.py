"""What is measured: anchors of two beginnings, hosts with and without refining on them, a cheap search against a long one.

Everything is kept as it is found, so that a run that was stopped goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.fda.bench import Anchored, Stack
from benchmarks.zoo.digits import Digits
from benchmarks.zoo.measure import Bench

from mergery.calibration.anchors.looking import directions, spectrum_of
from mergery.calibration.anchors.refining import RefineOptions
from mergery.calibration.anchors.search import AnchorOptions, beginning

STARTS = ("gauss", "weights")
ANCHORS = AnchorOptions(anchors=128, tokens=1, steps=100)
CHEAP, PAPER = 40, 1200
EPOCHS = (15,)
HOSTS: tuple[tuple[str, str | None, dict[str, Any], str], ...] = (  # name, method, settings, what is learnt
    ("pretrained", None, {}, "base"),
    ("task_arithmetic", "task_arithmetic", {"scale": 0.3}, "models"),
    ("tsv_merge", "tsv_merge", {}, "merge"),
    ("wudi", "wudi", {}, "merge"),
)
FREE = 5e-5


@dataclass(frozen=True)
class Scope:
    """How much is measured."""

    cache: Path
    seeds: int = 3
    quick: bool = False
    long: bool = False  # also a search as long as the paper's, of one seed


def refining(start: str, epochs: int, distance: Any = "cos") -> RefineOptions:
    """How a host is refined."""
    return RefineOptions(
        start=start,  # pyright: ignore[reportArgumentType]
        epochs=epochs,
        distance=distance,
        rate=FREE if start == "base" else 1e-2,
    )


def open_world(scope: Scope, seed: int) -> Anchored:
    """The trained models of one seed."""
    world = Digits()
    if scope.quick:
        world = Digits(replace(world.settings, hidden=32, base_steps=40, expert_steps=20), skills=3)
    scope.cache.mkdir(parents=True, exist_ok=True)
    zoo = world.prepare(scope.cache, seed, lambda line: None)
    bench = Bench(zoo, scope.cache / f"notes {seed}.jsonl", world.skills)
    return Anchored(bench, Stack("layers", world.settings.hidden), scope.cache / "anchors")


def measure(scope: Scope, report: Callable[[str], None]) -> dict[str, Any]:
    """All figures: seed by seed."""
    torch.set_num_threads(1)
    steps = 5 if scope.quick else ANCHORS.steps
    options = {start: replace(ANCHORS, start=start, steps=steps) for start in STARTS}
    epochs = EPOCHS[:1] if scope.quick else EPOCHS
    seeds: list[dict[str, Any]] = []
    skills: Sequence[str] = ()
    for seed in range(scope.seeds):
        anchored = open_world(scope, seed)
        skills = anchored.bench.skills
        began = time.perf_counter()
        found: dict[str, Any] = {"base": anchored.normal(anchored.bench.reference(None, "test").tolist(), "test")}
        hosts, chosen = {}, {}
        for name, method, settings, start in HOSTS:
            plain = anchored.measure(method, settings)
            hosts[name] = {"plain": anchored.normal(plain["test"], "test")}
            for beginning_, anchors in options.items():
                tried = [anchored.measure(method, settings, anchors, refining(start, count)) for count in epochs]
                best = max(range(len(epochs)), key=lambda at: np.mean(tried[at]["dev"]))
                hosts[name][beginning_] = {
                    "score": anchored.normal(tried[best]["test"], "test"),
                    "epochs": epochs[best],
                    "by_epochs": [anchored.normal(each["test"], "test") for each in tried],
                }
                chosen[name, beginning_] = epochs[best]
                report(f"seed {seed}, {name}, {beginning_}: {time.perf_counter() - began:.0f} s")
        found["hosts"] = hosts
        found["anchors"] = {start: spectra(anchored, each) for start, each in options.items()}
        found["search"] = (
            [] if seed else searches(anchored, scope, chosen.get(("task_arithmetic", "weights"), 15), seed, report)
        )
        seeds.append(found)
    return {"skills": list(skills), "steps": steps, "epochs": list(epochs), "seeds": seeds}


def spectra(anchored: Anchored, options: AnchorOptions) -> dict[str, Any]:
    """What the anchors of one beginning are like: means over blocks and skills."""
    found = anchored.anchors(options)
    first, last, begun, ended = [], [], [], []
    for block in anchored.blocks:
        for skill, state in anchored.experts.items():
            begun.append(spectrum_of(beginning(block, anchored.weights(block, state), options, skill)))
            ended.append(spectrum_of(found[f"{block.name} {skill}"]))
            one, other = found["losses"][f"{block.name} {skill}"]
            first.append(one)
            last.append(other)
    return {
        "losses": [float(np.mean(first)), float(np.mean(last))],
        "seconds": found["seconds"],
        "directions": [float(np.mean([directions(each) for each in each_])) for each_ in (begun, ended)],
        "spectrum": [np.mean(each, axis=0).round(5).tolist() for each in (begun, ended)],
    }


def searches(
    anchored: Anchored, scope: Scope, epochs: int, seed: int, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Task arithmetic refined on anchors of shorter and longer searches: what 40 steps lose."""
    wanted: Sequence[int] = (
        (2,) if scope.quick else (CHEAP, ANCHORS.steps, *((PAPER,) if scope.long and seed == 0 else ()))
    )
    rows = []
    for steps in wanted:
        options = replace(ANCHORS, start="weights", steps=steps)
        found = anchored.anchors(options)
        tried = anchored.measure("task_arithmetic", {"scale": 0.3}, options, refining("models", epochs))
        losses = np.array(list(found["losses"].values())).mean(axis=0)
        rows.append(
            {
                "steps": steps,
                "loss": float(losses[1]),
                "seconds": found["seconds"],
                "score": anchored.normal(tried["test"], "test"),
            }
        )
        report(f"seed {seed}, {steps} steps")
    return rows
