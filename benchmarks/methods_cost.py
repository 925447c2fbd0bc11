"""What each method costs: time and peak memory on one pair of cores, and how it grows with width.

    python -m benchmarks.methods_cost [--size 0.4B] [--repeats 1] [--only METHOD ...] [--write docs/methods-cost.md]
    python -m benchmarks.methods_cost --page --write docs/methods-cost.md       write the page again, without measuring

Each method merges three fine-tunes on their base, or as many as it takes, with its default settings, in a process of its
own. Methods that work on entries, rows or whole tensors merge the whole model. Methods on matrices merge one layer, all layers
being alike, or two matrices at once where a layer would take long; the time of that is multiplied by the operations that the
plan counts for the whole model, over those of the part. Growth is measured on a square matrix in memory with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.matrix_pages import one_layer, one_matrix
from benchmarks.matrix_pages import planned as whole_model
from benchmarks.models import SIZES, build
from benchmarks.pages import HERE, figures, fold, keep, linked, machine, table

import mergery
from mergery.graph.products import route_of
from mergery.method import Method, find, methods
from mergery.method.routing import Route
from mergery.run.estimate import merged_of

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


def square_route(method: Method) -> Route:
    """How a method on matrices computes."""
    usual = {setting.name: setting.default for setting in method.settings.values()}
    assert method.routing is not None
    return method.routing(count(method), 1024, 1024, usual)


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
        usage = wait(subprocess.Popen(command, stdout=out), command)
        out.seek(0)
        events = [json.loads(line) for line in out]
    return next(event["seconds"] for event in events if event["event"] == "finished"), usage.ru_maxrss / 1024


def wait(process: subprocess.Popen, command: list[str]) -> resource.struct_rusage:
    """What a command that has been started took, when it has ended."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage


def planned(path: Path, more: list[str]) -> float:
    """MB that `mergery plan` foretells."""
    command = [sys.executable, "-m", "mergery", "plan", str(path), "--json", *more]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return told["peak_memory"] / 2**20


def growth(name: str) -> float:
    """How many times as long a square matrix takes as one half as wide; in a process of its own, as it loads torch."""
    command = [sys.executable, "-m", "benchmarks.methods_cost", "--grow", name]
    return float(subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=True).stdout)


def grow(method: Method) -> float:
    """See `growth`."""
    import torch

    torch.set_num_threads(1)
    seconds = []
    for width in (64, *WIDTHS):  # the first warms up
        generator = torch.Generator().manual_seed(width)
        base = torch.randn(width, width, generator=generator) * 0.02
        models = [base + torch.randn(width, width, generator=generator) * 0.001 for _ in range(count(method))]
        own: dict[str, Any] = {setting.name: 0 for setting in method.settings.values() if setting.kind == "task"}
        started = time.process_time()
        method(models, base, **own)
        seconds.append(time.process_time() - started)
    return seconds[-1] / seconds[-2]


def operations(recipe: dict, only: Sequence[str]) -> float:
    """What the plan counts for the matrices of a part of the model."""
    plan = mergery.plan(recipe, only=only)
    nodes = [node for step in plan.steps for node in merged_of(step.node)]
    return sum(route.operations for route in map(route_of, nodes) if route is not None)


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


def numbers(cost: Cost, unit: float) -> dict[str, float | str]:
    """What is kept of one method."""
    kept: dict[str, float | str] = {
        "seconds": round(cost.seconds, 1), "linear": round(cost.seconds / unit, 1), "peak": round(cost.peak),
        "planned": round(cost.planned),
    }  # fmt: skip
    if cost.growth is not None:
        measured = "one layer" if cost.part == LAYER else "two matrices"
        kept |= {"measured": measured, "whole": round(cost.whole), "growth": round(cost.growth, 1)}
    return kept


def page(data: dict) -> str:
    """The page, in Markdown."""
    found = sorted(
        ((methods()[name], each) for name, each in data["methods"].items() if name in methods()),
        key=lambda pair: pair[1]["seconds"],
    )
    whole = [(method, each) for method, each in found if "whole" not in each]
    parts = [(method, each) for method, each in found if "whole" in each]
    lines = [
        "# What methods cost",
        "",
        "Written by `python -m benchmarks.methods_cost --write docs/methods-cost.md`; do not edit.",
        "",
        f"How long each method takes, against `{COMPARE}`, and how much memory. Models of {data['size']} parameters in",
        f"bfloat16, {EXPERTS} fine-tunes on their base, default settings. `mergery plan` says both for your models beforehand.",
        "",
        "## Methods on entries, rows and tensors",
        "",
        f"Their time grows with the size of the models, their memory does not. `{COMPARE}`"
        f" took {data['methods'][COMPARE]['seconds']:.1f} seconds.",
        "",
        *table(
            ("method", f"times {COMPARE}", "memory, MB"),
            [(linked(method.name), f"{each['linear']:.1f}", f"{each['peak']:.0f}") for method, each in whole],
        ),
        "",
        "## Methods on matrices",
        "",
        "Their time grows faster than the size: a model of twice the width is four times as large, and takes five to seven",
        "times as long. Each worker holds whole matrices, so that `--threads 1` takes the least memory.",
        "",
        *table(
            ("method", f"times {COMPARE}", "planned memory, MB"),
            [(linked(method.name), f"{each['linear']:.0f}", f"{each['whole']:.0f}") for method, each in parts],
        ),
        "",
        *whole_model(figures("layer")),
        *one_layer(figures("layer")),
        *one_matrix(figures("matrix-speed")),
        *fold("All figures", everything(whole, parts)),
        "## How it was measured",
        "",
        *(__doc__ or "").split("\n\n")[2].strip().splitlines(),
        "",
        f"{data['machine']}.",
    ]
    return "\n".join(lines) + "\n"


def everything(whole: list[tuple[Method, dict]], parts: list[tuple[Method, dict]]) -> list[str]:
    """All that was measured, in two tables."""
    first = [
        (method.name, f"{each['seconds']:.1f}", f"{each['peak']:.0f}", f"{each['planned']:.0f}", method.cost)
        for method, each in whole
    ]
    second = [
        (method.name, f"{each['seconds']:.0f}", each["measured"], f"{each['peak']:.0f}", f"{each['planned']:.0f}",
         f"{each['whole']:.0f}", f"{each['growth']:.1f}", square_route(method).words)
        for method, each in parts
    ]  # fmt: skip
    return [
        "`planned` is what `mergery plan` foretold.",
        "",
        *table(("method", "seconds", "peak memory, MB", "planned, MB", "reads"), first, left=("reads",)),
        "",
        "All methods on matrices get their singular vectors from the eigenvectors of the smaller Gram matrix, in float64, which"
        " is exact to the inputs' own precision and takes about half the time of a full decomposition, or where"
        " rounding allows in float32, made exact next to the last that is kept. `twice as wide` is how"
        " many times as long one matrix of twice the width takes: 4 would be the cost of a pass over it, 8 that of a matrix"
        " product.",
        "",
        *table(
            ("method", "seconds", "measured on", "peak memory there, MB", "planned there, MB", "planned for the model, MB",
             "twice as wide", "route"),
            second, left=("measured on", "route"),
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=list(SIZES), default="0.4B")
    parser.add_argument("--repeats", type=int, default=1, help="of merges of the whole model, after a first one")
    parser.add_argument("--only", nargs="+", metavar="METHOD", default=[], help="some methods, to look")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page of what was measured")
    parser.add_argument("--grow", metavar="METHOD", help="print how a method grows with width, and nothing else")
    options = parser.parse_args()
    if options.grow:
        print(grow(find(options.grow)))
        return
    data = figures("methods-cost") or {"methods": {}}
    if not options.page:
        measure_all(options, data)
    if options.write:
        options.write.write_text(page(data))
    else:
        print(page(data))


def measure_all(options: argparse.Namespace, data: dict) -> None:
    """Measure what is asked for, and put it among the figures."""
    chosen = [find(name) for name in options.only] or [method for method in methods().values() if not method.statistics]
    chosen = [find(COMPARE), *(method for method in chosen if method.name != COMPARE)]
    making = f"from benchmarks.models import build; build({options.size!r}, {EXPERTS})"  # here it would stay in memory
    subprocess.run([sys.executable, "-c", making], cwd=HERE.parent, check=True)
    folders = build(options.size, EXPERTS)
    data |= {"size": options.size, "machine": machine()}
    unit = 0.0
    with tempfile.TemporaryDirectory(dir=folders[0].parent) as scratch:
        for method in chosen:
            cost = measure(method, folders, options.repeats, Path(scratch))
            unit = unit or cost.seconds
            data["methods"][method.name] = numbers(cost, unit)
            keep("methods-cost", data)
            print(f"{method.name}: {cost.seconds:.1f} s, {cost.peak:.0f} MB of {cost.planned:.0f}", flush=True)


if __name__ == "__main__":
    main()
