"""One layer of Llama 3.1 8B, merged for what it costs: what `mergery plan` foretells, and what it takes.

    python benchmarks/layer.py [--only METHOD ...] [--skip down_proj]
    python benchmarks/layer.py --plans

A base and three fine-tunes with random weights in bfloat16, one layer of the real shapes and a small vocabulary: one matrix
of each shape, merged by one thread in a process of its own. Figures are kept in `figures/layer.json` at once, and
`methods_cost.py --page` shows them: the processor time of a layer's seven matrices, times the layers of the model, over two
cores, beside the hours that the plan says. `--plans` asks the plan alone, of every method on matrices; headers are enough.
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

import mergery
from mergery.method import methods
from mergery.run.estimate import merged_of, seconds
from mergery.run.workers import Options
from methods_cost import planned, wait
from pages import figures, keep, machine
from sparse import llama_config, llama_shapes, sparse
from waiting import SIZES

CACHE = Path(__file__).parent / ".cache"
METHODS = ("cart", "iso_c", "tsv_merge", "swudi_a")
NAMES = ("base", "a", "b", "c")
LENGTH, BASE = 1e-3, 0.02  # root mean squares of task vectors and base


def models(folder: Path) -> list[Path]:
    """The base and its fine-tunes, of one layer, written once."""
    places = [folder / name for name in NAMES]
    if all((place / "model.safetensors").exists() for place in places):
        return places
    import torch
    from safetensors.torch import save_file

    config = llama_config(**{**SIZES["8B"], "num_hidden_layers": 1, "vocab_size": 256})
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


def whole(method: str, threads: int = 2) -> tuple[float, int]:
    """Hours on some cores, and MB, that the plan says of the whole model; headers are enough for it."""
    with tempfile.TemporaryDirectory() as scratch:
        config = llama_config(**SIZES["8B"])
        folders = [sparse(Path(scratch) / name, llama_shapes(config), config) for name in NAMES]
        path = Path(scratch) / "recipe.yaml"
        path.write_text(json.dumps(recipe(method, folders)))
        plan = mergery.plan(path)
        hours = seconds(plan, Options(threads=threads)) / 3600
        plan.close()
        return hours, round(planned(path, ["--threads", str(threads)]))


def plans() -> None:
    """Keep what the plan says of the whole model by every method on matrices that takes three fine-tunes and their base."""
    found = {}
    for name, method in sorted(methods().items()):
        if method.unit != "matrix" or method.routing is None:
            continue
        try:
            hours, memory = whole(name)
        except mergery.MergeryError as error:
            print(f"{name}: {error.what}", flush=True)
            continue
        found[name] = [round(hours, 2), memory, whole(name, 1)[1]]
        print(f"{name}: {hours:.1f} h, {memory / 1000:.1f} GB", flush=True)
    data = figures("layer") or {"methods": {}}
    for name, own in data["methods"].items():
        own["hours"], own["memory"] = whole(name)
        for shape, planned_now in planned_layer(name).items():
            own["matrices"].get(shape, {})["planned"] = planned_now
    keep("layer", {**data, "plans": found, "machine": machine()})


def planned_layer(method: str) -> dict[str, int]:
    """MB that the plan says of one matrix of each shape of a layer; headers are enough for it."""
    with tempfile.TemporaryDirectory() as scratch:
        config = llama_config(**{**SIZES["8B"], "num_hidden_layers": 1, "vocab_size": 256})
        folders = [sparse(Path(scratch) / name, llama_shapes(config), config) for name in NAMES]
        path = Path(scratch) / "recipe.yaml"
        path.write_text(json.dumps(recipe(method, folders)))
        names = {" x ".join(map(str, shape)): name for name, shape in llama_shapes(config).items()}
        return {shape: round(planned(path, ["--threads", "1", "--only", name])) for shape, name in names.items()}


def measure(method: str, folders: list[Path], skip: list[str], scratch: Path) -> None:
    """Merge one matrix of each shape of the layer, and keep what it took at once."""
    path, out = scratch / "recipe.yaml", scratch / "out"
    path.write_text(json.dumps(recipe(method, folders)))
    plan = mergery.plan(path)
    found = [(step.slot.info, node.route) for step in plan.steps for node in merged_of(step.node) if node.route]
    plan.close()
    shapes: dict[str, list[str]] = {}
    for info, _ in found:
        shapes.setdefault(" x ".join(map(str, info.shape)), []).append(info.name)
    for shape, names in shapes.items():
        data = figures("layer") or {"methods": {}}
        own = data["methods"].setdefault(method, {"matrices": {}})
        if shape in own["matrices"] or any(word in names[0] for word in skip):
            continue
        part = ["--threads", "1", "--only", names[0]]
        command = [sys.executable, "-m", "mergery", "merge", str(path), str(out), *part, "--json"]
        shutil.rmtree(out, ignore_errors=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        usage = wait(subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment), command)
        shutil.rmtree(out, ignore_errors=True)
        own["matrices"][shape] = {
            "count": len(names), "processor": round(usage.ru_utime + usage.ru_stime, 1),
            "peak": usage.ru_maxrss // 1024, "planned": round(planned(path, part)),
            "operations": next(route.operations for info, route in found if info.name == names[0]),
        }  # fmt: skip
        own["of"] = len(shapes)
        own["hours"], own["memory"] = whole(method)
        keep("layer", {**data, "machine": machine()})
        print(f"{method} {shape}: {own['matrices'][shape]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--skip", nargs="+", default=[], metavar="NAME", help="leave out matrices of such names")
    parser.add_argument("--plans", action="store_true", help="ask the plan of the whole model alone, of every method")
    options = parser.parse_args()
    if options.plans:
        plans()
        return
    folders = models(CACHE / "layer-8B")
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        for method in options.only:
            measure(method, folders, options.skip, Path(scratch))


if __name__ == "__main__":
    main()
