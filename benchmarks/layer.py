"""One layer of a Llama, merged for what it costs: what `mergery plan` foretells, and what it takes.

    python -m benchmarks.layer [--size 8B] [--only METHOD ...] [--skip down_proj] [--again]
    python -m benchmarks.layer --plans

A base and three fine-tunes with random weights in bfloat16, one layer of the real shapes and a small vocabulary: one matrix
of each shape, merged by one thread in a process of its own. Figures are kept in `figures/layer.json` at once, and
`python -m benchmarks.methods_cost --page` shows them: the processor time of a layer's seven matrices, times the layers of
the model, over two cores, beside the hours that the plan says. `--plans` asks the plan alone, of every method on matrices;
headers are enough.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.methods_cost import wait
from benchmarks.pages import figures, keep, machine
from benchmarks.sparse import llama_config, llama_shapes, sparse
from benchmarks.waiting import SIZES

import mergery
from mergery.graph.products import route_of
from mergery.method import methods
from mergery.run.estimate import merged_of, peak_memory, seconds
from mergery.run.workers import Options

CACHE = Path(__file__).parent / ".cache"
METHODS = ("cart", "iso_c", "tsv_merge", "swudi_a")
NAMES = ("base", "a", "b", "c")
LENGTH, BASE = 1e-3, 0.02  # root mean squares of task vectors and base


def of_one_layer(size: str) -> dict:
    """The config of a model of one layer and few words."""
    return llama_config(**{**SIZES[size], "num_hidden_layers": 1, "vocab_size": 256})


def models(folder: Path, size: str) -> list[Path]:
    """The base and its fine-tunes, of one layer, written once."""
    places = [folder / name for name in NAMES]
    if all((place / "model.safetensors").exists() for place in places):
        return places
    import torch
    from safetensors.torch import save_file

    config = of_one_layer(size)
    for seed, place in enumerate(places):
        tensors = {}
        for number, (name, shape) in enumerate(llama_shapes(config).items()):
            same, own = (torch.Generator().manual_seed(each) for each in (number, 1000 * seed + number))
            values = torch.randn(shape, generator=same).mul_(BASE)
            if seed:
                values += torch.randn(shape, generator=own).mul_(LENGTH)
            tensors[name] = values.bfloat16()
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text(json.dumps(config, indent=2))
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    return places


def recipe(method: str, folders: list[Path]) -> dict:
    named = {folder.name: str(folder) for folder in folders}
    return {"models": named, "merge": {"method": method, "models": list(NAMES[1:]), "base": NAMES[0]}}


def whole(method: str, size: str, *threads: int) -> tuple[float, list[int]]:
    """Hours on two cores, and MB with so many threads, that the plan says of the whole model; headers are enough for it."""
    with tempfile.TemporaryDirectory() as scratch:
        config = llama_config(**SIZES[size])
        folders = [sparse(Path(scratch) / name, llama_shapes(config), config) for name in NAMES]
        path = Path(scratch) / "recipe.yaml"
        path.write_text(json.dumps(recipe(method, folders)))
        plan = mergery.plan(path)
        hours = seconds(plan, Options(threads=2)) / 3600
        memory = [peak_memory(plan, Options(threads=count)) >> 20 for count in threads]
        plan.close()
        return hours, memory


def plans() -> None:
    """Keep what the plan says of the whole model by every method on matrices that takes three fine-tunes and their base, and
    of the matrices that were measured.
    """
    found = {}
    for name, method in sorted(methods().items()):
        if method.unit != "matrix" or method.routing is None:
            continue
        try:
            hours, memory = whole(name, "8B", 2, 1)
        except mergery.MergeryError as error:
            print(f"{name}: {error.what}", flush=True)
            continue
        found[name] = [round(hours, 2), *memory]
        print(f"{name}: {hours:.1f} h, {memory[0] / 1000:.1f} GB", flush=True)
    data = figures("layer") or {"machines": {}}
    for sizes in data["machines"].values():
        for size, of_methods in sizes.items():
            for name, own in of_methods.items():
                own["hours"], _ = whole(name, size)
                own.pop("memory", None)
                for shape, told in planned_layer(name, size).items():
                    own["matrices"].get(shape, {}).update(told)
    keep("layer", {**data, "plans": found})


def planned_layer(method: str, size: str) -> dict[str, dict[str, float]]:
    """What the plan says of one matrix of each shape of a layer, MB and operations; headers are enough for it."""
    with tempfile.TemporaryDirectory() as scratch:
        config = of_one_layer(size)
        folders = [sparse(Path(scratch) / name, llama_shapes(config), config) for name in NAMES]
        path = Path(scratch) / "recipe.yaml"
        path.write_text(json.dumps(recipe(method, folders)))
        return {
            shape: {"count": len(names), "planned": memory >> 20, "operations": operations}
            for shape, (names, operations, memory) in shapes_of(path).items()
        }


def part_of(name: str) -> list[str]:
    """Options that merge one matrix by one thread."""
    return ["--threads", "1", "--only", name]


def shapes_of(path: Path) -> dict[str, tuple[list[str], float, int]]:
    """The shapes of the matrices that a recipe merges, with their names, and the operations and bytes that the plan says of
    one.
    """
    plan = mergery.plan(path)
    names: dict[str, list[str]] = {}
    for step in plan.steps:
        if any(route_of(node) is not None for node in merged_of(step.node)):
            names.setdefault(" x ".join(map(str, step.slot.info.shape)), []).append(step.slot.info.name)
    plan.close()
    found = {}
    for shape, own in names.items():
        part = mergery.plan(path, only=[own[0]])
        routes = [route_of(node) for step in part.steps for node in merged_of(step.node)]
        operations = sum(route.operations for route in routes if route is not None)
        found[shape] = own, operations, peak_memory(part, Options(threads=1))
        part.close()
    return found


def measure(method: str, size: str, options: argparse.Namespace, scratch: Path) -> None:
    """Merge one matrix of each shape of the layer, and keep what it took at once."""
    folders = models(CACHE / f"layer-{size}", size)
    path, out = scratch / "recipe.yaml", scratch / "out"
    path.write_text(json.dumps(recipe(method, folders)))
    shapes, told = shapes_of(path), planned_layer(method, size)
    for shape, (names, _, _) in shapes.items():
        data = figures("layer") or {"machines": {}}
        own = data["machines"].setdefault(machine(), {}).setdefault(size, {}).setdefault(method, {"matrices": {}})
        if (shape in own["matrices"] and not options.again) or any(word in names[0] for word in options.skip):
            continue
        command = [sys.executable, "-m", "mergery", "merge", str(path), str(out), *part_of(names[0]), "--json"]
        shutil.rmtree(out, ignore_errors=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        usage = wait(subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment), command)
        shutil.rmtree(out, ignore_errors=True)
        own["matrices"][shape] = {
            **told[shape], "processor": round(usage.ru_utime + usage.ru_stime, 1), "peak": usage.ru_maxrss // 1024,
        }  # fmt: skip
        own["of"] = len(shapes)
        own["hours"], _ = whole(method, size)
        keep("layer", data)
        print(f"{method} {shape}: {own['matrices'][shape]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SIZES), default="8B", help="of the model that the layer is of")
    parser.add_argument("--only", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--skip", nargs="+", default=[], metavar="NAME", help="leave out matrices of such names")
    parser.add_argument("--again", action="store_true", help="measure what is there already")
    parser.add_argument("--plans", action="store_true", help="ask the plan of the whole model alone, of every method")
    options = parser.parse_args()
    if options.plans:
        plans()
        return
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        for method in options.only:
            measure(method, options.size, options, Path(scratch))


if __name__ == "__main__":
    main()
