"""Time and memory against the number of parameters, of models and of tensors.

    python -m benchmarks.scaling [--method ties] [--largest 1.6] [--write docs/scaling.md]
    python -m benchmarks.scaling --page --write docs/scaling.md       write the page again, without measuring

Every point is a process of its own: `mergery merge` to a folder on the disk, or `mergery plan`, which writes nothing.
Processor time is the process's user and system time, start-up included; peak memory is the largest resident set that the
system saw, and the planned memory is what `mergery plan` foretells. Models are sparse files of zeros, which take no room, so
that a model of 405 billion parameters can be planned on any machine: reading them costs memory bandwidth but no disk, and
the outputs are written and synced in full. Only the shape of the curves means anything on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.pages import figures, fold, keep, machine, table
from benchmarks.sparse import Shapes, experts_shapes, llama_config, llama_shapes, sparse


@dataclass(frozen=True)
class Point:
    """One process: what was measured, at which size."""

    size: float  # what the curve runs over
    label: str
    wall: float  # seconds, start-up included
    processor: float  # seconds
    peak: float  # MB
    planned: float = float("nan")  # MB, of a merge


def run(arguments: list[str]) -> tuple[float, float, float, str]:
    """Wall seconds, processor seconds and peak MB of a process, and what it printed."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, "-m", "mergery", *arguments], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"mergery {' '.join(arguments)} failed")
        out.seek(0)
        return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out.read()


def write_recipe(scratch: Path, models: list[Path], method: str) -> Path:
    """A recipe over a base and its fine-tunes."""
    path = scratch / "recipe.yaml"
    names = {f"model-{number}": str(model) for number, model in enumerate(models)}
    path.write_text(json.dumps({"models": names, "merge": {"method": method, "base": "model-0"}}))
    return path


def plan_point(recipe: Path, size: float, label: str) -> Point:
    wall, processor, peak, _ = run(["plan", str(recipe), "--json"])
    return Point(size, label, wall, processor, peak)


def merge_point(recipe: Path, size: float, label: str, *only: str) -> Point:
    facts = json.loads(run(["plan", str(recipe), "--json", *only])[3])
    out = recipe.parent / "out"
    wall, processor, peak, _ = run(["merge", str(recipe), str(out), "--quiet", *only])
    shutil.rmtree(out)
    return Point(size, label, wall, processor, peak, facts["peak_memory"] / 2**20)


def family(scratch: Path, shapes: Shapes, config: Mapping[str, object], count: int) -> list[Path]:
    """A base and its fine-tunes, in place of the last ones."""
    shutil.rmtree(scratch / "models", ignore_errors=True)
    return [sparse(scratch / "models" / str(number), shapes, config) for number in range(count)]


def count_parameters(shapes: Shapes) -> int:
    total = 0
    for shape in shapes.values():
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def measure(scratch: Path, method: str, largest: float, most_models: int) -> dict[str, list[Point]]:
    """All curves."""
    curves: dict[str, list[Point]] = {name: [] for name in TITLES}

    def add(curve: str, point: Point) -> None:
        curves[curve].append(point)
        print(f"{curve}: {row(point)}", flush=True)

    share = largest / 16
    while share <= largest:
        hidden = max(64, int((share * 1e9 / 8 / 14.5) ** 0.5) // 64 * 64)
        config = llama_config(
            hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=8, vocab_size=4 * hidden,
            num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64,
        )  # fmt: skip
        shapes = llama_shapes(config)
        recipe = write_recipe(scratch, family(scratch, shapes, config, 4), method)
        size = count_parameters(shapes)
        add("parameters", merge_point(recipe, size, f"{size / 1e6:.0f} million"))
        share *= 2
    config = llama_config(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=2, vocab_size=4096, num_attention_heads=4,
        num_key_value_heads=4,
    )  # fmt: skip
    models = family(scratch, llama_shapes(config), config, most_models + 1)
    for count in sorted({2, 5, 10, most_models // 4, most_models // 2, most_models}):
        add("models", merge_point(write_recipe(scratch, models[: count + 1], method), count, f"{count}"))
    for layers, experts in ((2, 160), (4, 400), (10, 500)):
        config = {"model_type": "qwen3_moe", "num_hidden_layers": layers}
        shapes = experts_shapes(layers, experts)
        recipe = write_recipe(scratch, family(scratch, shapes, config, 4), method)
        add("tensors", merge_point(recipe, len(shapes), f"{len(shapes)}"))
    for layers, experts in ((10, 330), (32, 312), (64, 520)):
        config = {"model_type": "qwen3_moe", "num_hidden_layers": layers}
        shapes = experts_shapes(layers, experts)
        recipe = write_recipe(scratch, family(scratch, shapes, config, 4), method)
        add("planned tensors", plan_point(recipe, len(shapes), f"{len(shapes)}"))
    for changes in (
        {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
        {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
        {},
    ):
        config = llama_config(**changes)
        shapes = llama_shapes(config)
        recipe = write_recipe(scratch, family(scratch, shapes, config, 4), method)
        size = count_parameters(shapes)
        add("plans", plan_point(recipe, size, f"{size / 1e9:.0f} billion"))
        point = merge_point(
            recipe, size, f"{size / 1e9:.0f} billion", "--only", "model.layers.0.self_attn.*_proj.weight"
        )
        add("parts", point)
    return curves


# --- telling ------------------------------------------------------------------------------------------------------------

TITLES = {
    "parameters": ("Merging: number of parameters", "parameters of each of 4 models"),
    "models": ("Merging: number of models", "fine-tunes of 4.7 million parameters and their base"),
    "tensors": ("Merging: number of tensors", "tensors of each of 4 models, 8 by 8 for the most part"),
    "plans": ("Planning: number of parameters", "parameters of each of 4 models"),
    "planned tensors": ("Planning: number of tensors", "tensors of each of 4 models"),
    "parts": ("Merging a part: the attention of one layer", "parameters of each of 4 models"),
}


def row(point: Point) -> list[str]:
    """A point as a row of a table."""
    planned = [] if point.planned != point.planned else [f"{point.planned:.0f}"]
    return [point.label, f"{point.wall:.1f}", f"{point.processor:.1f}", f"{point.peak:.0f}", *planned]


def tables(curves: Mapping[str, list[Point]]) -> list[str]:
    """The figures as Markdown."""
    lines: list[str] = []
    for curve, points in curves.items():
        title, runs = TITLES[curve]
        columns = [runs, "wall, s", "processor, s", "peak memory, MiB"]
        columns += ["planned memory, MiB"] if points[0].planned == points[0].planned else []
        lines += [f"### {title}", "", *table(columns, [row(point) for point in points]), ""]
    return lines[:-1]


def page(data: Mapping[str, Any], picture: str) -> str:
    """The page, in Markdown."""
    curves = {name: [Point(**point) for point in points] for name, points in data["curves"].items()}
    sizes, counts, plans = (curves[name] for name in ("parameters", "models", "plans"))
    lines = [
        "# Scaling",
        "",
        "Written by `python -m benchmarks.scaling --write docs/scaling.md`; do not edit.",
        "",
        f"How time and memory of `{data['method']}` grow, on an ordinary machine with two cores.",
        "",
        f"- **Larger models** take more time and hardly more memory: {sizes[0].peak:.0f} MiB for {sizes[0].label} parameters,"
        f" {sizes[-1].peak:.0f} MiB for {sizes[-1].label}.",
        f"- **More models** at once take more memory: {counts[0].peak:.0f} MiB for {counts[0].label} fine-tunes,"
        f" {counts[-1].peak:.0f} MiB for {counts[-1].label}.",
        f"- **Planning** reads headers alone: a merge of models of {plans[-1].label} parameters is planned in"
        f" {plans[-1].wall:.1f} seconds.",
        "- `mergery plan` foretells the memory; the broken line below is what it said.",
        "",
        f"![Time and peak memory of merges and plans]({picture})",
        "",
        *fold("All figures", tables(curves)),
        "## How it was measured",
        "",
        *(__doc__ or "").split("\n\n")[2].strip().splitlines(),
        "",
        f"{data['machine']}.",
    ]
    return "\n".join(lines) + "\n"


MERGE, PLAN, FAINT = "#0b6e99", "#d9730d", "#8a8f98"


def draw(curves: Mapping[str, list[Point]], path: Path) -> None:
    """Time above, memory below, one column for each thing that grows."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), layout="constrained", sharex="col")
    columns = (
        ("parameters of each of 4 models", "parameters", "plans", (1e8, 1e9, 1e10, 1e11)),
        ("fine-tunes merged at once", "models", None, (2, 5, 10, 25, 50, 100)),
        ("tensors of each of 4 models", "tensors", "planned tensors", (1e3, 1e4, 1e5)),
    )
    for column, (runs, merges, plans, ticks) in enumerate(columns):
        for line, value in enumerate(("processor", "peak")):
            axis = axes[line, column]
            for curve, color, mark, label in ((merges, MERGE, "o", "merge"), (plans, PLAN, "s", "plan")):
                if curve is None:
                    continue
                points = curves[curve]
                sizes, heights = [point.size for point in points], [getattr(point, value) for point in points]
                axis.plot(sizes, heights, f"{mark}-", color=color, label=label, markersize=5)
                if curve == merges and value == "peak":
                    axis.plot(sizes, [point.planned for point in points], "--", color=FAINT, label="merge, as planned")
            axis.set(xscale="log", ylim=(0, axis.dataLim.y1 * 1.15))
            axis.xaxis.set_major_locator(FixedLocator(ticks))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: short(size)))
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        axes[1, column].set_xlabel(runs)
    axes[0, 0].set_ylabel("processor time, s")
    axes[1, 0].set_ylabel("peak memory, MiB")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)


def short(number: float) -> str:
    """A number as a tick says it: 100 M, 1 B, 10 k."""
    for size, letter in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.0f}{letter}"
    return f"{number:.0f}"


def main() -> None:
    """Measure and print; write the page and its picture where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--method", default="ties")
    parser.add_argument("--largest", type=float, default=1.6, help="parameters of the largest merge, in billions")
    parser.add_argument("--models", type=int, default=100, help="fine-tunes that are merged at once")
    parser.add_argument("--scratch", type=Path, help="a folder for models and outputs")
    parser.add_argument("--write", type=Path, help="the page; its picture stands beside it")
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page of what was measured")
    options = parser.parse_args()
    data = figures("scaling")
    if not options.page:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            curves = measure(Path(scratch), options.method, options.largest, options.models)
        points = {name: [asdict(point) for point in curve] for name, curve in curves.items()}
        told = {name: [{k: v for k, v in each.items() if v == v} for each in curve] for name, curve in points.items()}
        data = {"method": options.method, "machine": machine(), "curves": told}
        if options.write:
            keep("scaling", data)
            draw(curves, options.write.with_suffix(".png"))
    text = page(data, "scaling.png" if options.write is None else options.write.with_suffix(".png").name)
    if options.write:
        options.write.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
