"""What it costs to bake an adapter into a model of 70 billion parameters, beside reading and writing the same bytes.

    python -m benchmarks.baking [--layers 4] [--turns 3] [--scratch FOLDER]     measure, and write the figures into the page
    python -m benchmarks.baking --page                                          write them again, without measuring

The base has the shape of Llama 3.1 70B, and its adapter rank 16 on every matrix; both are sparse files of zeros, which take no
room. The whole is planned. So many of its layers, of 1.7 GB each, are baked, in turns with a program that reads the base's
files and writes them again in pieces of 8 MB; both end with their bytes on the disk. Each is a process of its own, start-up
included.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages import figures, keep, machine, table
from benchmarks.sparse import llama_config, llama_shapes, sparse

PAGE = Path(__file__).parents[1] / "docs" / "adapters.md"
BLOCK = re.compile(r"(<!-- made: python -m benchmarks\.baking -->\n\n).*?(<!-- end -->)", re.S)
RANK = 16
SHAPE = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64}
COPY = """
import os, sys
from pathlib import Path
piece = memoryview(bytearray(8 << 20))
Path(sys.argv[2]).mkdir()
for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    with open(path, "rb", 0) as source, open(Path(sys.argv[2], path.name), "wb", 0) as target:
        while count := source.readinto(piece):
            target.write(piece[:count])
        os.fsync(target.fileno())
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baking", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--layers", type=int, default=4, help="that are baked; 1.7 GB each, of input that is sparse and of output"
    )
    parser.add_argument("--turns", type=int, default=3, help="of baking and copying")
    parser.add_argument("--scratch", type=Path, help="a folder for models and outputs")
    parser.add_argument("--page", action="store_true", help="write the page again, without measuring")
    options = parser.parse_args()
    if not options.page:
        with tempfile.TemporaryDirectory(dir=options.scratch) as place:
            keep("baking", measure(Path(place), options.layers, options.turns))
    PAGE.write_text(page(figures("baking")), encoding="utf-8")


def page(data: Mapping[str, Any]) -> str:
    """docs/adapters.md with the figures."""
    text = "\n".join(lines(data))
    return BLOCK.sub(lambda match: f"{match[1]}{text}\n\n{match[2]}", PAGE.read_text(encoding="utf-8"))


def measure(place: Path, layers: int, turns: int) -> dict[str, Any]:
    """Plan the whole, bake a part."""
    whole, part = make(place / "whole", 80, 128256), make(place / "part", layers, 32000)
    planned = run([sys.executable, "-m", "mergery", "plan", str(place / "whole" / "recipe.yaml"), "--json"])
    foretold = json.loads(planned.pop("said"))
    print("plan", planned, foretold.get("peak_memory"), flush=True)
    found: dict[str, list[dict[str, float]]] = {"bake": [], "copy": []}
    for _ in range(turns):
        base, lora, out = (str(place / name) for name in ("part/base", "part/lora", "out"))
        bake = ["-m", "mergery", "adapter", "bake", base, lora, out, "--quiet"]
        for name, command in (("bake", bake), ("copy", ["-c", COPY, base, out])):
            one = run([sys.executable, *command])
            one.pop("said")
            found[name].append(one)
            print(name, one, flush=True)
            shutil.rmtree(place / "out")
    return {
        "machine": machine(), "layers": layers, "whole": whole, "part": part, "plan": planned,
        "memory": foretold["peak_memory"] / 2**20, "turns": found,
    }  # fmt: skip


def make(folder: Path, layers: int, words: int) -> dict[str, float]:
    """A base, an adapter for it, and the recipe of both. Returns the base's parameters and bytes."""
    config = llama_config(num_hidden_layers=layers, vocab_size=words, **SHAPE)
    shapes = llama_shapes(config)
    sparse(folder / "base", shapes, config)
    matrices = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if "_proj" in name}
    factors: dict[str, tuple[int, ...]] = {}
    for name, (rows, columns) in matrices.items():
        factors[f"base_model.model.{name}.lora_A.weight"] = (RANK, columns)
        factors[f"base_model.model.{name}.lora_B.weight"] = (rows, RANK)
    targets = sorted({name.rpartition(".")[2] for name in matrices})
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "task_type": "CAUSAL_LM", "target_modules": targets}
    sparse(folder / "lora", factors, said)
    (folder / "lora/config.json").rename(folder / "lora/adapter_config.json")
    (folder / "lora/model.safetensors").rename(folder / "lora/adapter_model.safetensors")
    model = {"path": str(folder / "base"), "adapters": [str(folder / "lora")]}
    recipe = {"models": {"model": model}, "merge": {"method": "passthrough"}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    count = float(sum(math.prod(shape) for shape in shapes.values()))
    return {"parameters": count, "bytes": 2 * count}


def run(command: list[str]) -> dict[str, Any]:
    """Seconds of a process, by the clock and of the processors, its peak MiB, and what it printed."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"{' '.join(command)} failed")
        out.seek(0)
        return {
            "wall": wall, "processor": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss / 1024, "said": out.read()
        }  # fmt: skip


def lines(data: Mapping[str, Any]) -> list[str]:
    """The figures as Markdown. Of time, that of the processors, and what a bake takes of a copy's by the clock."""
    middle = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in ("wall", "processor", "peak")}
        for name, turns in data["turns"].items()
    }
    bake, copy, plan = middle["bake"], middle["copy"], data["plan"]
    size, whole = f"{data['part']['bytes'] / 1e9:.1f} GB", f"{data['whole']['parameters'] / 1e9:.0f} billion parameters"
    rows = [
        (f"plan all of it, {whole}", f"{plan['processor']:.1f}", "", f"{plan['peak']:.0f}"),
        (f"bake {data['layers']} of its layers, {size}", *cells(bake, copy)),
        (f"read and write {size}", *cells(copy, copy)),
    ]
    columns = ("an adapter of rank 16 on a Llama of 70 B", "processor, s", "time by the clock", "peak, MiB")
    return table(columns, rows)


def cells(found: Mapping[str, float], copy: Mapping[str, float]) -> list[str]:
    """Seconds of the processors, the time by the clock as a share of a copy's, and MiB."""
    return [f"{found['processor']:.0f}", f"{found['wall'] / copy['wall']:.2f}", f"{found['peak']:.0f}"]


if __name__ == "__main__":
    main()
