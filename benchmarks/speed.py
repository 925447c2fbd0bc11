"""Mergery, mergekit and the limit on the same models, in one run, in alternating order.

    python -m benchmarks.speed [--mergekit-python .parity/bin/python] [--repeats 5] [--write docs/performance.md]
    python -m benchmarks.speed --page --write docs/performance.md       write the page again, without measuring

The limit is `benchmarks/limit.py`: reading every input once, and writing and syncing the output once. All tools get
the same mergekit file. Wall time is of the whole process; engine time is what Mergery itself reports, from the first byte
that it reads to the output's final rename; start-up is the time from the start of the process to that first byte. Python
keeps its bytecode, as it does where a package is installed. Figures are medians; each row is of one run, and only ratios
within a row mean anything on a shared machine.

The goals, of which those that are missed are printed: engine time within 1.25 limits for linear, slerp and task arithmetic,
2 for ties and 3 for the others; the whole process at least 5 times as fast as mergekit's (linear and slerp 4 times, ties
25 times); start-up within 1.5 s; memory within 700 MB over the interpreter's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.models import CACHE, build
from benchmarks.pages import figures, fold, keep, machine, table


@dataclass(frozen=True)
class Case:
    """One merge to time: a mergekit method, its parameters, what it merges, and how near to the limit it should come."""

    experts: int
    own: dict = field(default_factory=dict)  # parameters of each model
    shared: dict = field(default_factory=dict)  # parameters of the merge
    base: bool = True  # whether the base is read
    limit: float = 3.0  # engine time, in limits, at most
    faster: float = 5.0  # than mergekit, in wall time, at least

    @property
    def models(self) -> str:
        return f"{self.experts} on their base" if self.base else f"{self.experts}"


HALF, PART = {"weight": 0.5, "density": 0.3}, {"weight": 0.4}
CASES = {
    "linear": Case(3, {"weight": 0.3}, base=False, limit=1.25, faster=4.0),
    "slerp": Case(1, shared={"t": 0.4}, limit=1.25, faster=4.0),
    "task_arithmetic": Case(3, PART, limit=1.25),
    "ties": Case(3, HALF, {"normalize": True}, limit=2.0, faster=25.0),
    "nuslerp": Case(2, {"weight": 0.5}),
    "multislerp": Case(3, {"weight": 0.3}, base=False),
    "karcher": Case(3, base=False),
    "dare_linear": Case(3, HALF),
    "dare_ties": Case(3, HALF),
    "della": Case(3, {**HALF, "epsilon": 0.1}),
    "della_linear": Case(3, {**HALF, "epsilon": 0.1}),
    "breadcrumbs": Case(3, {**HALF, "gamma": 0.01}),
    "breadcrumbs_ties": Case(3, {**HALF, "gamma": 0.01}),
    "sce": Case(3, shared={"select_topk": 0.1}),
    "model_stock": Case(3),
    "nearswap": Case(1, shared={"t": 0.0005}),
    "arcee_fusion": Case(1),
    "ram": Case(3),
    "ramplus_tl": Case(3),
    "passthrough": Case(1, base=False),
}


@dataclass
class Figures:
    """What was measured of one tool and one method."""

    wall: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    startup: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MB

    def median(self, name: str) -> float:
        values = getattr(self, name)
        return statistics.median(values) if values else float("nan")


def config(method: str, models: list[Path]) -> str:
    """A mergekit file."""
    case = CASES[method]
    dtype = json.loads((models[0] / "config.json").read_text())["dtype"]
    base, experts = models[0], models[1 : case.experts + 1]
    merged = [base, *experts] if method == "slerp" else experts
    lines = [f"merge_method: {method}", f"dtype: {dtype}"]
    if case.base:
        lines.append(f"base_model: {base}")
    if method == "passthrough":
        lines.append("slices:")
        layers = json.loads((experts[0] / "config.json").read_text())["num_hidden_layers"]
        lines += ["  - sources:", f"      - model: {experts[0]}", f"        layer_range: [0, {layers}]"]
        return "\n".join(lines) + "\n"
    lines.append("models:")
    for path in merged:
        lines.append(f"  - model: {path}")
        if case.own:
            lines.append(f"    parameters: {json.dumps(case.own)}")
    if case.shared:
        lines.append(f"parameters: {json.dumps(case.shared)}")
    return "\n".join(lines) + "\n"


def inputs(method: str, models: list[Path]) -> list[Path]:
    """The weight files that a method reads."""
    case = CASES[method]
    return [path / "model.safetensors" for path in models[0 if case.base else 1 : case.experts + 1]]


def run(command: list[str], figures: Figures) -> None:
    """Run a process to its end; measure wall time, peak memory and, where it prints events, engine and start-up."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stderr is not None
    for line in process.stdout:
        if line.startswith("{"):
            event = json.loads(line)
            if event["event"] == "started":
                figures.startup.append(time.perf_counter() - started)
            if event["event"] == "finished":
                figures.engine.append(event["seconds"])
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    figures.wall.append(time.perf_counter() - started)
    figures.memory.append(usage.ru_maxrss / 1024)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors[-2000:]}")


def clear(folder: Path) -> None:
    """Remove an output, and what a run that was stopped left of it, and let the disk come to rest."""
    for each in (folder, folder.with_name(f"{folder.name}.partial")):
        shutil.rmtree(each, ignore_errors=True)
    os.sync()


def measure(method: str, models: list[Path], repeats: int, mergekit: Path | None, mergekit_repeats: int, scratch: Path):
    """Alternate limit, Mergery and mergekit."""
    recipe = scratch / f"{method}.yml"
    recipe.write_text(config(method, models))
    found = {"limit": Figures(), "mergery": Figures(), "mergekit": Figures()}
    out = scratch / "out"
    clear(out)
    run(
        [sys.executable, "-m", "mergery", "merge", str(recipe), str(out), "--json"], Figures()
    )  # compiles, warms the cache
    for turn in range(repeats):
        order = ["limit", "mergery"] if turn % 2 == 0 else ["mergery", "limit"]
        for tool in order:
            clear(out)
            if tool == "mergery":
                run([sys.executable, "-m", "mergery", "merge", str(recipe), str(out), "--json"], found["mergery"])
            else:
                file = scratch / "limit.bin"
                file.unlink(missing_ok=True)
                command = [sys.executable, "-m", "benchmarks.limit", *map(str, (file, *inputs(method, models)))]
                found["limit"].engine.append(
                    float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                )
                file.unlink()
        if mergekit and turn < mergekit_repeats:  # in the midst of the others
            clear(out)
            script = mergekit.parent / "mergekit-yaml"
            run([str(script), str(recipe), str(out), "--quiet"], found["mergekit"])
    clear(out)
    return found


DTYPES = ("bfloat16", "float16", "float32")
STARTUP = 1.5  # seconds, at most
MEMORY = 700.0  # MB over an interpreter, at most


def numbers(found: dict[str, Figures]) -> dict[str, float]:
    """What is kept of one merge."""
    limit, mergery, other = (found[tool] for tool in ("limit", "mergery", "mergekit"))
    kept = {"limit": round(limit.median("engine"), 3), "engine": round(mergery.median("engine"), 3)}
    if other.wall:
        kept |= {"startup": round(mergery.median("startup"), 3), "wall": round(mergery.median("wall"), 3)}
        kept |= {"mergekit_wall": round(other.median("wall"), 1)}
        kept |= {"memory": round(mergery.median("memory")), "mergekit_memory": round(other.median("memory"))}
    return kept


def missed(method: str, figure: dict[str, float]) -> list[str]:
    """The goals that a merge has missed."""
    case = CASES[method]
    goals = {
        "limit": figure["engine"] > case.limit * figure["limit"],
        "mergekit": "wall" in figure and figure["mergekit_wall"] < case.faster * figure["wall"],
        "start-up": figure.get("startup", 0.0) > STARTUP,
        "memory": figure.get("memory", 0.0) > MEMORY,
    }
    return [goal for goal, is_missed in goals.items() if is_missed]


def page(data: dict) -> str:
    """The page, in Markdown."""
    found = {name: data["methods"]["bfloat16"][name] for name in CASES if name in data["methods"]["bfloat16"]}
    near = {name: each["engine"] / each["limit"] for name, each in found.items()}
    faster = {name: each["mergekit_wall"] / each["wall"] for name, each in found.items()}
    memory, other = (sorted(each[key] for each in found.values()) for key in ("memory", "mergekit_memory"))
    lines = [
        "# Performance",
        "",
        "Written by `python -m benchmarks.speed --write docs/performance.md`; do not edit.",
        "",
        "How long a merge takes, against mergekit 0.1.5 and against the disk, on an ordinary machine with two cores. Models of",
        f"{data['size']} parameters in bfloat16.",
        "",
        f"- The same file is merged {min(faster.values()):.0f} to {max(faster.values()):.0f} times as fast as by mergekit;"
        f" with `linear` {faster['linear']:.0f} times, with `ties` {faster['ties']:.0f} times.",
        f"- {', '.join(f'`{name}`' for name in near if near[name] <= 1.0)} take no longer than reading every input and"
        f" writing the output takes by itself; the slowest method of this table takes {max(near.values()):.1f} times as"
        " long as that.",
        f"- A merge takes {memory[0]:.0f} to {memory[-1]:.0f} MB of memory, mergekit's {other[0]:.0f} to {other[-1]:.0f}."
        " Mergery's does not grow with the models: see [Scaling](scaling.md).",
        "",
        "Methods on matrices take much longer; [What methods cost](methods-cost.md) has them.",
        "",
        *table(
            ("method", "models", "Mergery, s", "mergekit, s", "times as fast", "Mergery, MB", "mergekit, MB"),
            [
                (
                    f"`{name}`", CASES[name].models, f"{each['wall']:.1f}", f"{each['mergekit_wall']:.0f}",
                    f"**{faster[name]:.0f}**", f"{each['memory']:.0f}", f"{each['mergekit_memory']:.0f}",
                )
                for name, each in found.items()
            ],
            left=("models",),
        ),
        "",
        "`slerp` merges a base and one fine-tune of it.",
        "",
        *fold("Against the disk", disk(data, found)),
        "## How it was measured",
        "",
        *(__doc__ or "").split("\n\n")[2].strip().splitlines(),
        "",
        f"{data['machine']}; {data['busy']:.1f} processes of others ran when the measurement began.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def disk(data: dict, found: dict) -> list[str]:
    """The figures that compare with the limit, of all dtypes."""
    columns = ("method", "the limit, s", "Mergery's engine, s", "engine / limit", "start-up, s")
    rows = [
        (f"`{name}`", f"{each['limit']:.2f}", f"{each['engine']:.2f}", f"{each['engine'] / each['limit']:.1f}",
         f"{each['startup']:.2f}")
        for name, each in found.items()
    ]  # fmt: skip
    lines = table(columns, rows)
    others = [
        (f"`{name}`", dtype, f"{each['limit']:.2f}", f"{each['engine']:.2f}", f"{each['engine'] / each['limit']:.1f}")
        for name in CASES
        for dtype in DTYPES[1:]
        for each in [data["methods"].get(dtype, {}).get(name)]
        if each
    ]
    if others:
        columns = ("method", "dtype", "the limit, s", "Mergery's engine, s", "engine / limit")
        lines += ["", "In other dtypes:", "", *table(columns, others, left=("dtype",))]
    return lines


def main() -> None:
    """Measure and print; write the page where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mergekit-python", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mergekit-repeats", type=int, default=1)
    parser.add_argument("--methods", nargs="*", default=list(CASES))
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, default=[], help="measure these instead of bfloat16")
    parser.add_argument("--size", default="0.4B")
    parser.add_argument("--larger", default=None, help="also measure Mergery's memory on models of this size")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page of what was measured")
    options = parser.parse_args()
    data = figures("performance") or {"methods": {}}
    if not options.page:
        measure_all(options, data)
    if options.write:
        if not options.page:
            keep("performance", data)
        options.write.write_text(page(data))
    else:
        print(page(data))


def measure_all(options: argparse.Namespace, data: dict) -> None:
    """Measure what is asked for, and put it among the figures."""
    data |= {"size": options.size, "machine": machine(), "busy": os.getloadavg()[0]}
    scratch = options.cache / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    for dtype in options.dtypes or DTYPES[:1]:
        models = build(options.size, cache=options.cache, dtype=dtype)
        for method in options.methods:
            python, times = (options.mergekit_python, options.mergekit_repeats) if dtype == DTYPES[0] else (None, 0)
            found = numbers(measure(method, models, options.repeats, python, times, scratch))
            data["methods"].setdefault(dtype, {}).setdefault(method, {}).update(found)
            print(method, dtype, json.dumps(found), *(f"MISSED {goal}" for goal in missed(method, found)), flush=True)
    if options.larger:
        larger = build(options.larger, cache=options.cache)
        for method in options.methods:
            found = measure(method, larger, 1, None, 0, scratch)
            print(f"{method} on {options.larger} parameters: {found['mergery'].median('memory'):.0f} MB")


if __name__ == "__main__":
    main()
