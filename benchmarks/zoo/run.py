"""The whole zoo: worlds, seeds, rows, cases and effects; two processes at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.zoo.cases import METHODS, cases, measures
from benchmarks.zoo.effects import interference, negate, tell
from benchmarks.zoo.measure import Bench, Unmeasured
from benchmarks.zoo.rows import ROWS, Row
from benchmarks.zoo.world import STAMP, World

WORLDS = ("sequences", "shared", "adapters", "digits")
REAL = "real"  # trained and measured by `make zoo-real` alone
EFFECTS = "effects"  # wider models, and analogy
WIDTHS = (48, 96, 192)
WIDENED = ("linear", "task_arithmetic", "ties", "pcb", "svc", "tsv_merge", "iso_c", "swudi_a")
REAL_ROWS = (  # methods on entries and averages first, each in the order of use
    "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della_linear", "emr", "pcb", "breadcrumbs", "iso_c",
    "dc_merge", "tsv_merge", "swudi_a", "svc", "cart", "dop", "ace", "knots", "opcm", "iso_cts", "swudi", "subspace_boosting",
)  # fmt: skip
QUICK = ("linear", "task_arithmetic", "ties", "svc")


@dataclass(frozen=True)
class Scope:
    """How much of the zoo is run."""

    cache: Path
    seeds: int = 2
    quick: bool = False
    worlds: Sequence[str] = (*WORLDS, EFFECTS)
    frozen: bool = False
    """Measure nothing: results of what a stopped run has measured."""

    def rows(self, world: str) -> Sequence[Row]:
        """The rows of a world: in miniature a few; with models of a real size those that matter most, with their defaults."""
        if world == REAL:
            rows = {row.name: row for row in ROWS}
            return [rows[name] for name in REAL_ROWS]
        return [row for row in ROWS if row.name in QUICK] if self.quick else ROWS


def worlds(scope: Scope) -> dict[str, World]:
    """The worlds, or their miniatures; none is trained yet."""
    from benchmarks.zoo.adapters import TASKS as RULES
    from benchmarks.zoo.adapters import Adapters
    from benchmarks.zoo.digits import Digits
    from benchmarks.zoo.sequences import TASKS, Sequences
    from benchmarks.zoo.shared import SHARED, Shared

    if not scope.quick:
        return {"sequences": Sequences(), "shared": Shared(), "adapters": Adapters(), "digits": Digits()}
    brief = {"hidden": 64, "batch": 52, "base_steps": 100, "base_floor": 0.0, "base_rate": 5e-3, "expert_steps": 20}
    return {
        "sequences": Sequences(replace(Sequences().settings, **brief, expert_rate=5e-4), tasks=(TASKS[1], TASKS[4])),
        "shared": Shared(replace(Shared().settings, **brief), tasks=(SHARED[1], SHARED[4])),
        "adapters": Adapters(replace(Adapters().settings, **brief), tasks=(RULES[1], RULES[5])),
        "digits": Digits(replace(Digits().settings, hidden=32, base_steps=40, expert_steps=20), skills=3),
    }


def make_world(scope: Scope, name: str) -> World:
    """A world by its name."""
    if name != REAL:
        return worlds(scope)[name]
    from benchmarks.zoo.real import Real

    return Real()


def jobs(scope: Scope) -> list[tuple[str, int]]:
    """Every part of the zoo that can be run apart from the others, longest first."""
    from benchmarks.zoo.sequences import Sequences

    parts = [(name, seed) for name in scope.worlds if name != EFFECTS for seed in range(scope.seeds)]
    if EFFECTS in scope.worlds and not scope.quick:
        parts += [(f"width {width}", 0) for width in WIDTHS if width != Sequences().settings.hidden]
        parts += [("analogy", seed) for seed in range(scope.seeds)]
    return parts


def run_job(scope: Scope, name: str, seed: int) -> dict[str, Any]:
    """One part of the zoo, in a process of its own. What was measured before is not measured again."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    scope.cache.mkdir(parents=True, exist_ok=True)
    notebook = scope.cache / f"notes {name} {seed}.jsonl"

    def silent(line: str) -> None:
        pass

    from benchmarks.zoo.sequences import ANALOGY, Sequences

    if scope.frozen and (name == "analogy" or name.startswith("width ")):
        raise Unmeasured(name)
    if name == "analogy":
        world: World = Sequences(name="analogy", tasks=ANALOGY)
        bench = Bench(world.prepare(scope.cache, seed, silent), notebook, world.skills)
        return {"analogy": asdict(tell(bench))}
    if name.startswith("width "):
        base = Sequences()
        world = Sequences(replace(base.settings, hidden=int(name.split()[1])), name=name.replace(" ", "-"))
        bench = Bench(world.prepare(scope.cache, seed, silent), notebook, world.skills)
        return table(bench, [row for row in ROWS if row.name in WIDENED])
    world = make_world(scope, name)
    if scope.frozen and not (world.folder(scope.cache, seed) / STAMP).exists():
        raise Unmeasured(f"{name}, seed {seed}: not trained")
    zoo = world.prepare(scope.cache, seed, silent)
    bench = Bench(zoo, notebook, world.skills, scope.frozen)
    methods = [row.name for row in scope.rows(name) if row.name in METHODS]
    if world.long:
        result = table(bench, scope.rows(name))
        with contextlib.suppress(Unmeasured):
            result["measures"] = measures(bench, bench.skills)
        known = {entry["name"] for entry in result["rows"]}
        return result | {"cases": cases(bench, [name for name in methods if name in known])}
    result = {"cases": cases(bench, methods)} | table(bench, scope.rows(name))
    chosen: dict[str, Any] = next(entry["settings"] for entry in result["rows"] if entry["name"] == "task_arithmetic")
    try:
        result["interference"] = asdict(interference(bench, chosen, result["rows"]))
        result["negation"] = [asdict(entry) for entry in negate(bench)]
    except Unmeasured:
        result.pop("interference", None)
    return result


def table(bench: Bench, rows: Sequence[Row]) -> dict[str, Any]:
    """Normalised test scores of every row, by default and as validation chooses."""
    experts = bench.experts("test")
    base = bench.reference(None, "test")
    others = np.array([np.delete(bench.reference(skill, "test"), at) for at, skill in enumerate(bench.skills)])
    entries = [entry for row in rows if (entry := measured(bench, row, experts))]
    lost = {skill: bench.damage(skill) for skill in (None, *bench.skills)}
    told = {skill or "base": round(value, 4) for skill, value in lost.items() if value is not None}
    return {
        **({"damage": told} if told else {}),
        "trained": bench.zoo.trained,
        "skills": list(bench.skills),
        "items": bench.world.items_of("test"),
        "base": _rounded(base / experts),
        "experts": _rounded(experts),
        "regime": {
            "base": float(base.mean()),
            "own": float(experts.mean()),
            "others": None if np.isnan(others).all() else float(others.mean()),
        },
        "rows": entries,
    }


def measured(bench: Bench, row: Row, experts: np.ndarray) -> dict[str, Any] | None:
    """A row's scores: with its defaults alone where it has no grid, or where to a notebook to which nothing is added its grid
    was not gone through; None where its defaults were not measured either."""
    about = {"name": row.name, "family": row.family}
    try:
        if not bench.world.long and (row.grid or row.served):
            default, chosen, tried = bench.chosen(row)
            return about | {
                "default": _rounded(bench.tested(row, default) / experts),
                "chosen": _rounded(bench.tested(row, chosen) / experts),
                "dev": round(float((chosen.dev / bench.experts("dev")).mean()), 4),
                "settings": dict(chosen.settings),
                "tried": tried,
                "seconds": round(default.seconds, 3),
            }
    except Unmeasured:
        if row.served:
            return None
    try:
        if row.served:
            entry = bench.served_all("test", row.method, dict(row.given))
        else:
            entry = bench.scored("test", row.method, dict(row.given), first=row.first)
    except Unmeasured:
        return None
    scores = _rounded(np.array(entry["values"]) / experts)
    seconds = round(entry["seconds"], 3)
    about |= {"damage": round(entry["damage"], 4)} if "damage" in entry else {}
    about |= {"answers": entry["answers"]} if "answers" in entry else {}
    return about | {"default": scores, "chosen": scores, "dev": None, "settings": {}, "tried": 1, "seconds": seconds}


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]


def run_all(scope: Scope, report: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Every part of the zoo: results by part and seed."""
    results: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(2) as pool:
        futures = {pool.submit(run_job, scope, name, seed): (name, seed) for name, seed in jobs(scope)}
        for future, (name, seed) in futures.items():
            try:
                results.setdefault(name, {})[str(seed)] = future.result()
                report(f"{name}, seed {seed}")
            except Unmeasured as error:
                report(f"left out: {error}")
    return {name: seeds for name, seeds in results.items() if seeds}
