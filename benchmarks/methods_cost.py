"""What each method costs: time and peak memory on one pair of cores, and how it grows with width.

    python benchmarks/methods_cost.py [--size 0.4B] [--repeats 3] [--only METHOD ...] [--write docs/methods-cost.md]

Each method merges three fine-tunes on their base, or as many as it takes, with its default settings, in a process of its
own. Methods that work on entries, rows or whole tensors merge the whole model. Methods on matrices merge one layer, all layers
being alike, or two matrices at once where a layer would take long; the time of that is multiplied by the operations that the
plan counts for the whole model, over those of the part. Growth is measured on a square matrix in memory with one thread.
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
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mergery
from mergery.method import Method, find, methods
from mergery.method.routing import Route
from mergery.run.estimate import merged_of
from models import SIZES, build
from pages import rows_of

COMPARE = "linear"  # what times are told against: they differ from machine to machine
WIDTHS = (512, 1024)
EXPERTS = 3
LAYER = ("layers.1",)
MATRIX = ("*.layers.[12].self_attn.q_proj.weight",)  # one for each of two cores
LONG = 1e12  # operations of a layer, beyond which two matrices are measured


@dataclass(frozen=True)
class Cost:
    """What one method took."""

    method: Method
    seconds: float  # engine time, the whole model
    part: tuple[str, ...]  # what was measured, where it was not the whole model
    peak: float  # MB
    planned: float  # MB, for what was measured
    whole: float  # MB that are planned for the whole model
    growth: float | None = None  # how many times as long a matrix twice as wide takes

    @property
    def route(self) -> Route | None:
        hidden = 1024
        usual = {setting.name: setting.default for setting in self.method.settings.values()}
        return self.method.routing(EXPERTS, hidden, hidden, usual) if self.method.routing else None


def count(method: Method) -> int:
    """How many models it merges here."""
    least, most = method.models
    return max(least, min(EXPERTS, most or EXPERTS))


def recipe(method: Method, folders: list[Path]) -> dict:
    """A recipe of a method's defaults."""
    names = [path.name for path in folders[1 : 1 + count(method)]]
    merge: dict = {"method": method.name, "models": names}
    models = {path.name: str(path) for path in folders if path.name in names}
    if method.base == "required" or (method.base == "optional" and method.takes != "gram"):
        merge["base"] = "base"
        models = {"base": str(folders[0]), **models}
    for setting in method.settings.values():
        if setting.kind == "task":
            merge[setting.name] = names[0]
        elif setting.required:
            merge[setting.name] = {"t": 0.4}[setting.name]
    return {"models": models, "merge": merge}


def merge(arguments: list[str]) -> tuple[float, float]:
    """Engine seconds, and peak MB of the process."""
    command = [sys.executable, "-m", "mergery", "merge", *arguments, "--json"]
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"{' '.join(command)} failed")
        out.seek(0)
        events = [json.loads(line) for line in out]
    return next(event["seconds"] for event in events if event["event"] == "finished"), usage.ru_maxrss / 1024


def planned(path: Path, only: list[str]) -> float:
    """MB that `mergery plan` foretells."""
    command = [sys.executable, "-m", "mergery", "plan", str(path), "--json", *only]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return told["peak_memory"] / 2**20


def growth(name: str) -> float:
    """How many times as long a square matrix takes as one half as wide; in a process of its own, as it loads torch."""
    command = [sys.executable, str(Path(__file__).resolve()), "--grow", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def grow(method: Method) -> float:
    """See `growth`."""
    import torch

    torch.set_num_threads(1)
    seconds = []
    for width in (64, *WIDTHS):  # the first warms up
        generator = torch.Generator().manual_seed(width)
        base = torch.randn(width, width, generator=generator) * 0.02
        models = [base + torch.randn(width, width, generator=generator) * 0.001 for _ in range(count(method))]
        own = {setting.name: 0 for setting in method.settings.values() if setting.kind == "task"}
        started = time.process_time()
        method(models, base, **own)
        seconds.append(time.process_time() - started)
    return seconds[-1] / seconds[-2]


def operations(recipe: dict, only: Sequence[str]) -> float:
    """What the plan counts for the matrices of a part of the model."""
    plan = mergery.plan(recipe, only=only)
    nodes = [node for step in plan.steps for node in merged_of(step.node)]
    return sum(route.operations for route in (node.route for node in nodes) if route is not None)


def part_of(method: Method, recipe: dict) -> tuple[str, ...]:
    """The part of the model that is measured: nothing for all of it."""
    if method.unit != "matrix":
        return ()
    return LAYER if operations(recipe, LAYER) < LONG else MATRIX


def measure(method: Method, folders: list[Path], repeats: int, scratch: Path) -> Cost:
    """Merge a few times."""
    path, out = scratch / "recipe.yaml", scratch / "out"
    wanted = recipe(method, folders)
    path.write_text(json.dumps(wanted))
    part = part_of(method, wanted)
    only = ["--only", *part] if part else []
    foretold = planned(path, only)
    times, peaks = [], []
    for turn in range(1 if part else repeats + 1):
        shutil.rmtree(out, ignore_errors=True)
        os.sync()
        seconds, peak = merge([str(path), str(out), *only])
        if turn or part:  # the first compiles, and warms the cache
            times.append(seconds)
        peaks.append(peak)
    shutil.rmtree(out, ignore_errors=True)
    whole = statistics.median(times) * (operations(wanted, ()) / operations(wanted, part) if part else 1.0)
    return Cost(method, whole, part, max(peaks), foretold, planned(path, []), growth(method.name) if part else None)


def row(cost: Cost, unit: float) -> str:
    """A line of one of the two tables."""
    first = f"| {cost.method.name} | {cost.seconds:.{0 if cost.part else 1}f} |"
    if not cost.part:
        return f"{first} {cost.seconds / unit:.1f} | {cost.peak:.0f} | {cost.planned:.0f} | {cost.method.cost} |"
    assert cost.route is not None
    assert cost.growth is not None
    what = "one layer" if cost.part == LAYER else "two matrices"
    return (
        f"{first} {what} | {cost.seconds / unit:.0f} | {cost.peak:.0f} | {cost.planned:.0f} | {cost.whole:.0f} |"
        f" {cost.growth:.1f} | {cost.route.words} |"
    )


def table(rows: dict[str, str], *, matrices: bool) -> list[str]:
    """The rows of one kind of methods, the cheapest first."""
    own = [line for name, line in rows.items() if name in methods() and (methods()[name].unit == "matrix") == matrices]
    return sorted(own, key=lambda line: float(line.split("|")[2]))


def page(rows: dict[str, str], size: str) -> str:
    """The page, in Markdown."""
    lines = [
        "# What methods cost",
        "",
        "Written by `python benchmarks/methods_cost.py --write docs/methods-cost.md`; do not edit.",
        "",
        *(__doc__ or "").split("\n\n", 2)[2].strip().splitlines(),
        "",
        f"Models of {size} parameters in bfloat16. `x {COMPARE}` is the time against that of `{COMPARE}` in the same run:"
        " seconds differ from machine to machine, and from hour to hour. `planned` is what `mergery plan` foretold.",
        "",
        "## Methods on entries, rows and tensors",
        "",
        f"| method | seconds | x {COMPARE} | peak memory, MB | planned, MB | reads |",
        "|---|--:|--:|--:|--:|---|",
    ]
    lines += table(rows, matrices=False)
    lines += [
        "",
        "## Methods on matrices",
        "",
        "All get their singular vectors from the eigenvectors of the smaller Gram matrix, in float64, which is exact to the"
        " inputs' own precision and takes about half the time of a full decomposition; `mergery plan` shows the route and the time"
        " of each part of a model. `twice as wide` is how many times as long a matrix of twice the width takes: 4 would be the"
        " cost of a pass over it, 8 that of a matrix product.",
        "",
        f"| method | seconds | measured on | x {COMPARE} | peak memory there, MB | planned | planned for the model, MB |"
        " twice as wide | route |",
        "|---|--:|---|--:|--:|--:|--:|--:|---|",
    ]
    lines += table(rows, matrices=True)
    machine = (
        f"{os.cpu_count()} cores ({platform.processor() or platform.machine()}), Python {platform.python_version()}."
    )
    return "\n".join([*lines, "", machine, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="0.4B")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="METHOD", default=[], help="some methods, to look")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    parser.add_argument("--grow", metavar="METHOD", help="print how a method grows with width, and nothing else")
    options = parser.parse_args()
    if options.grow:
        print(grow(find(options.grow)))
        return
    chosen = [find(name) for name in options.only] or list(methods().values())
    chosen = [find(COMPARE), *(method for method in chosen if method.name != COMPARE)]
    making = f"from models import build; build({options.size!r}, {EXPERTS})"
    subprocess.run(
        [sys.executable, "-c", making], cwd=Path(__file__).parent, check=True
    )  # here it would stay in memory
    folders = build(options.size, EXPERTS)
    rows, unit = rows_of(options.write), 0.0
    with tempfile.TemporaryDirectory(dir=folders[0].parent) as scratch:
        for method in chosen:
            cost = measure(method, folders, options.repeats, Path(scratch))
            unit = unit or cost.seconds
            rows[method.name] = row(cost, unit)
            print(f"{method.name}: {cost.seconds:.1f} s, {cost.peak:.0f} MB of {cost.planned:.0f}", flush=True)
    text = page(rows, options.size)
    if options.write:
        options.write.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
