"""The whole zoo: worlds, seeds, rows and effects; two processes at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.zoo.effects import growth, interference, negate, tell
from benchmarks.zoo.measure import Bench
from benchmarks.zoo.rows import ROWS, Row
from benchmarks.zoo.world import World

GROWING = ("linear", "task_arithmetic", "ties", "pcb", "tsv_merge", "iso_c", "wudi", "swudi")
WIDTHS = (96, 160, 256)


@dataclass(frozen=True)
class Scope:
    """How much of the zoo is run."""

    cache: Path
    seeds: int = 3
    quick: bool = False

    @property
    def rows(self) -> Sequence[Row]:
        return [row for row in ROWS if row.method in ("linear", "task_arithmetic", "ties")] if self.quick else ROWS


def worlds(scope: Scope) -> dict[str, World]:
    """The two worlds, or their miniatures."""
    from benchmarks.zoo.digits import Digits
    from benchmarks.zoo.sequences import TASKS, Sequences

    if not scope.quick:
        return {"sequences": Sequences(), "digits": Digits()}
    small = Sequences()
    tiny = replace(
        small.settings,
        hidden=64,
        batch=52,
        base_steps=100,
        base_floor=0.0,
        base_rate=5e-3,
        expert_steps=30,
        expert_rate=5e-4,
    )
    brief = replace(Digits().settings, hidden=32, base_steps=40, expert_steps=20)
    return {"sequences": Sequences(tiny, tasks=(TASKS[1], TASKS[4])), "digits": Digits(brief, skills=3)}


def jobs(scope: Scope) -> list[tuple[str, int]]:
    """Every part of the zoo that can be run apart from the others, longest first."""
    parts = [(name, seed) for name in ("sequences", "digits") for seed in range(scope.seeds)]
    if not scope.quick:
        parts += [(f"width {width}", seed) for width in WIDTHS if width != 160 for seed in range(scope.seeds)]
        parts += [("analogy", seed) for seed in range(scope.seeds)]
    return parts


def run_job(scope: Scope, name: str, seed: int) -> dict[str, Any]:
    """One part of the zoo, in a process of its own."""
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

    growing = [row for row in scope.rows if row.name in GROWING]
    if name == "analogy":
        world: World = Sequences(name="analogy", tasks=ANALOGY)
        bench = Bench(world.prepare(scope.cache, seed, silent), notebook, world.skills)
        return {"analogy": asdict(tell(bench))}
    if name.startswith("width "):
        base = Sequences()
        world = Sequences(replace(base.settings, hidden=int(name.split()[1])), name=name.replace(" ", "-"))
        bench = Bench(world.prepare(scope.cache, seed, silent), notebook, world.skills)
        return table(bench, growing)
    world = worlds(scope)[name]
    zoo = world.prepare(scope.cache, seed, silent)
    bench = Bench(zoo, notebook, world.skills)
    result = table(bench, scope.rows)
    counts = [count for count in (2, 4, 8) if count <= len(world.skills)]
    result["growth"] = {"counts": counts, "scores": growth(zoo, notebook, growing, counts)}
    scale = next(entry["settings"].get("weight", 1.0) for entry in result["rows"] if entry["name"] == "task_arithmetic")
    result["interference"] = asdict(interference(bench, growing, scale))
    result["negation"] = [asdict(entry) for entry in negate(bench)]
    return result


def table(bench: Bench, rows: Sequence[Row]) -> dict[str, Any]:
    """Normalised test scores of every row, by default and as validation chooses."""
    experts = bench.experts("test")
    base = bench.reference(None, "test")
    own, others = [], []
    for index, skill in enumerate(bench.skills):
        answers = bench.reference(skill, "test")
        own.append(float(answers[index]))
        others += [float(value) for other, value in enumerate(answers) if other != index]
    entries = []
    for row in rows:
        default, chosen, tried = bench.chosen(row)
        entries.append(
            {
                "name": row.name,
                "family": row.family,
                "default": (bench.tested(row, default) / experts).tolist(),
                "chosen": (bench.tested(row, chosen) / experts).tolist(),
                "dev": float((chosen.dev / bench.experts("dev")).mean()),
                "settings": dict(chosen.settings),
                "tried": tried,
                "seconds": default.seconds,
            }
        )
    return {
        "skills": list(bench.skills),
        "base": (base / experts).tolist(),
        "regime": {"base": float(base.mean()), "own": sum(own) / len(own), "others": sum(others) / len(others)},
        "rows": entries,
    }


def run_all(scope: Scope, report: Callable[[str], None]) -> dict[str, dict[int, Any]]:
    """Every part of the zoo: results by part and seed."""
    results: dict[str, dict[int, Any]] = {}
    with ProcessPoolExecutor(2) as pool:
        futures = {pool.submit(run_job, scope, name, seed): (name, seed) for name, seed in jobs(scope)}
        for future, (name, seed) in futures.items():
            results.setdefault(name, {})[seed] = future.result()
            report(f"{name}, seed {seed}")
    return results
