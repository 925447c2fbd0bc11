"""Mergery, mergekit and the limit on the same models, in one run, in alternating order.

    python benchmarks/speed.py [--mergekit-python .parity/bin/python] [--repeats 5] [--write docs/performance.md]

The limit is `benchmarks/limit.py`: reading every input once, and writing and syncing the output once. All tools get
the same mergekit file. Wall time is of the whole process; engine time is what Mergery itself reports, from the first byte
that it reads to the output's final rename; start-up is the time from the start of the process to that first byte. Python
keeps its bytecode, as it does where a package is installed. Figures are medians; each row is of one run, and only ratios
within a row mean anything on a shared machine.

The goals: engine time within 1.25 limits for linear, slerp and task arithmetic, 2 for ties and 3 for the others; the whole
process at least 5 times as fast as mergekit's (linear and slerp 4 times, ties 25 times); start-up within 1.5 s; memory within
700 MB over the interpreter's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from models import CACHE, build
from pages import rows_of

HERE = Path(__file__).parent


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
                command = [sys.executable, str(HERE / "limit.py"), str(file), *map(str, inputs(method, models))]
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


def torch_memory() -> float:
    """MB of an interpreter that has loaded torch."""
    code = "import torch, resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


DTYPES = ("float16", "float32")  # beside bfloat16
STARTUP = 1.5  # seconds, at most
MEMORY = 700.0  # MB over an interpreter, at most
COLUMNS = (
    "method", "models", "limit, s", "Mergery engine, s", "engine / limit", "goal", "start-up, s", "Mergery wall, s",
    "mergekit wall, s", "mergekit / Mergery", "goal", "Mergery memory, MB", "mergekit memory, MB", "missed",
)  # fmt: skip


def row(method: str, found: dict[str, Figures]) -> str:
    """One line of the table."""
    case = CASES[method]
    limit, mergery, other = (found[tool] for tool in ("limit", "mergery", "mergekit"))
    near, faster = mergery.median("engine") / limit.median("engine"), other.median("wall") / mergery.median("wall")
    missed = {
        "limit": near > case.limit,
        "mergekit": faster < case.faster,
        "start-up": mergery.median("startup") > STARTUP,
        "memory": mergery.median("memory") > MEMORY,
    }
    cells = [
        method,
        case.models,
        f"{limit.median('engine'):.2f}",
        f"{mergery.median('engine'):.2f}",
        f"**{near:.2f}**",
        f"{case.limit:g}",
        f"{mergery.median('startup'):.2f}",
        f"{mergery.median('wall'):.2f}",
        f"{other.median('wall'):.1f}" if other.wall else "",
        f"**{faster:.1f}**" if other.wall else "",
        f"{case.faster:g}",
        f"{mergery.median('memory'):.0f}",
        f"{other.median('memory'):.0f}" if other.memory else "",
        ", ".join(name for name, is_missed in missed.items() if is_missed),
    ]
    return "| " + " | ".join(cells) + " |"


def dtype_row(method: str, dtype: str, found: dict[str, Figures]) -> str:
    """One line of the table of other dtypes."""
    limit, engine = (found[tool].median("engine") for tool in ("limit", "mergery"))
    return f"| {method} in {dtype} | {limit:.2f} | {engine:.2f} | **{engine / limit:.2f}** |"


def dtype_table(rows: dict[str, str], size: str) -> str:
    """The figures of other dtypes as Markdown; nothing where there are none."""
    found = [rows[key] for method in CASES for key in (f"{method} in {dtype}" for dtype in DTYPES) if key in rows]
    if not found:
        return ""
    head = ["| merge | limit, s | Mergery engine, s | engine / limit |", "|---|---|---|---|"]
    return "\n".join(["", f"The same models of {size} parameters in other dtypes.", "", *head, *found]) + "\n"


def table(rows: dict[str, str], size: str) -> str:
    """The figures as Markdown."""
    lines = [
        f"Models of {size} parameters in bfloat16; slerp merges a base and one fine-tune of it.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *(rows[method] for method in CASES if method in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print; write the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mergekit-python", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mergekit-repeats", type=int, default=1)
    parser.add_argument("--methods", nargs="*", default=list(CASES))
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, default=[], help="measure these instead of bfloat16")
    parser.add_argument("--size", default="0.4B")
    parser.add_argument("--larger", default=None, help="also measure Mergery's memory on models of this size")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    others = os.getloadavg()[0]
    scratch = options.cache / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    rows = rows_of(options.write)
    for dtype in options.dtypes or ["bfloat16"]:
        models = build(options.size, cache=options.cache, dtype=dtype)
        for method in options.methods:
            if dtype == "bfloat16":
                python, times = options.mergekit_python, options.mergekit_repeats
                found = measure(method, models, options.repeats, python, times, scratch)
                key, line = method, row(method, found)
            else:
                found = measure(method, models, options.repeats, None, 0, scratch)
                key, line = f"{method} in {dtype}", dtype_row(method, dtype, found)
            rows[key] = line
            print(line, flush=True)
    text = table(rows, options.size) + dtype_table(rows, options.size)
    text += f"\nAn interpreter with torch loaded takes {torch_memory():.0f} MB.\n"
    if options.larger:
        larger = build(options.larger, cache=options.cache)
        for method in options.methods:
            found = measure(method, larger, 1, None, 0, scratch)
            text += f"\n{method} on {options.larger} parameters: {found['mergery'].median('memory'):.0f} MB."
        text += "\n"
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    cores, machine = len(os.sched_getaffinity(0)), names[0] if names else platform.machine()
    text += f"\n{cores} cores ({machine}), Python {platform.python_version()}; "
    text += f"{others:.1f} processes of others ran when the measurement began.\n"
    print(text)
    if options.write:
        options.write.write_text(_page(text))


def _page(text: str) -> str:
    return (
        "# Performance\n\nWritten by `python benchmarks/speed.py --write docs/performance.md`; do not edit.\n\n"
        + (__doc__ or "").split("\n\n", 2)[2].strip()
        + "\n\n"
        + text
    )


if __name__ == "__main__":
    main()
