"""What it costs to merge adapters into a model by a method on matrices, beside merging the models that they make.

    python -m benchmarks.merging_adapters [--only METHOD ...] [--scratch FOLDER]   measure, and write the figures into the page
    python -m benchmarks.merging_adapters --page                                   write them again, without measuring

A base with random weights in bfloat16 and three adapters of rank 16 on it. One matrix of 4096 x 4096 is merged by one thread,
in a process of its own, start-up included: from the adapters, as factors; and from the models that they make, baked in float32,
whose differences are the same numbers as matrices. Hours and memory of a whole Llama of 8B are what the plan says of one with
such adapters on all its matrices, and of its fine-tunes; headers are enough for it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.methods_cost import wait
from benchmarks.pages import figures, keep, machine, table
from benchmarks.sparse import llama_config, llama_shapes, sparse
from benchmarks.waiting import SIZES

import mergery
from mergery.run.estimate import peak_memory, seconds
from mergery.run.workers import Options

PAGE = Path(__file__).parents[1] / "docs" / "adapters.md"
BLOCK = re.compile(r"(<!-- made: python -m benchmarks\.merging_adapters -->\n\n).*?(<!-- end -->)", re.S)
METHODS = ("dc_merge", "iso_c")
NAMES = ("a", "b", "c")
RANK, SIDE = 16, 4096
LENGTH, BASE = 1e-3, 0.02  # root mean squares of an adapter's product and of the base
MATRIX = "model.layers.0.self_attn.q_proj"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.merging_adapters", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--scratch", type=Path, help="a folder for models and outputs")
    parser.add_argument("--page", action="store_true", help="write the page again, without measuring")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        models(options.make)
        return
    if not options.page:
        with tempfile.TemporaryDirectory(dir=options.scratch) as place:
            # in a process of its own: a child's peak begins with what its parent holds
            subprocess.run([sys.executable, "-m", "benchmarks.merging_adapters", "--make", place], check=True)
            for method in options.only:
                data = figures("merging-adapters") or {"methods": {}}
                data["machine"] = machine()
                data["methods"][method] = {**measure(method, Path(place)), **planned(method, Path(place))}
                keep("merging-adapters", data)
                print(method, data["methods"][method], flush=True)
    PAGE.write_text(page(figures("merging-adapters")), encoding="utf-8")


def page(data: Mapping[str, Any]) -> str:
    """docs/adapters.md with the figures."""
    text = "\n".join(lines(data))
    return BLOCK.sub(lambda match: f"{match[1]}{text}\n\n{match[2]}", PAGE.read_text(encoding="utf-8"))


def models(place: Path) -> None:
    """The base of few tensors, its adapters, and the models that they make."""
    import torch
    from safetensors.torch import save_file

    shape = {"hidden_size": SIDE, "intermediate_size": 64, "vocab_size": 64, "num_attention_heads": 32}
    config = llama_config(num_hidden_layers=1, **shape)
    draw = torch.Generator().manual_seed(0)
    base = {
        name: torch.randn(shape, generator=draw).mul_(BASE).bfloat16() for name, shape in llama_shapes(config).items()
    }
    (place / "base").mkdir()
    (place / "base" / "config.json").write_text(json.dumps(config))
    save_file(base, place / "base" / "model.safetensors", metadata={"format": "pt"})
    for name in NAMES:
        down, up = (torch.randn(shape, generator=draw) for shape in ((RANK, SIDE), (SIDE, RANK)))
        stem = f"base_model.model.{MATRIX}.lora_"
        adapter(place / name, ["q_proj"])
        save_file(
            {f"{stem}A.weight": down, f"{stem}B.weight": up * (LENGTH / RANK**0.5)},
            place / name / "adapter_model.safetensors",
        )
        whole = {"models": {"m": f"{place / 'base'}+{place / name}"}, "merge": {"method": "passthrough"}}
        mergery.merge({**whole, "output": {"dtype": "float32"}}, place / f"baked-{name}")


def adapter(folder: Path, targets: list[str]) -> None:
    """A folder with the config of an adapter."""
    folder.mkdir(parents=True)
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "task_type": "CAUSAL_LM", "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(said))


def recipe(method: str, base: Path, models: Mapping[str, str]) -> dict[str, Any]:
    return {"models": {"base": str(base), **models}, "merge": {"method": method, "base": "base"}}


def measure(method: str, place: Path) -> dict[str, Any]:
    """Seconds of the processor and MiB that the matrix takes, both ways."""
    found = {}
    ways = {
        "factors": {name: f"{place / 'base'}+{place / name}" for name in NAMES},
        "models": {name: str(place / f"baked-{name}") for name in NAMES},
    }
    for way, given in ways.items():
        path, out = place / "recipe.yaml", place / "out"
        path.write_text(json.dumps(recipe(method, place / "base", given)))
        command = [sys.executable, "-m", "mergery", "merge", str(path), str(out), "--only", f"{MATRIX}.weight"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        usage = wait(subprocess.Popen([*command, "--threads", "1", "--quiet"], env=environment), command)
        shutil.rmtree(out)
        part = mergery.plan(path, only=[f"{MATRIX}.weight"])
        found[way] = {
            "processor": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss / 1024,
            "told": peak_memory(part, Options(threads=1)) / 2**20,
        }  # fmt: skip
        part.close()
    return found


def planned(method: str, place: Path) -> dict[str, Any]:
    """Hours on two cores and MB that the plan says of a whole Llama of 8B, both ways."""
    whole = place / "8B"
    if not whole.exists():
        config = llama_config(**SIZES["8B"])
        shapes = llama_shapes(config)
        for name in ("base", *(f"tuned-{name}" for name in NAMES)):
            sparse(whole / name, shapes, config)
        for name in NAMES:
            factors(whole / name, shapes)
    ways = {
        "factors": {name: f"{whole / 'base'}+{whole / name}" for name in NAMES},
        "models": {name: str(whole / f"tuned-{name}") for name in NAMES},
    }
    found = {}
    for way, given in ways.items():
        plan = mergery.plan(recipe(method, whole / "base", given))
        found[way] = {
            "hours": seconds(plan, Options(threads=2)) / 3600, "memory": peak_memory(plan, Options(threads=2)) / 2**20
        }  # fmt: skip
        plan.close()
    return {"whole": found}


def factors(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """An adapter on all matrices of a model's layers; a sparse file."""
    own: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if "_proj" in name:
            stem = f"base_model.model.{name.removesuffix('.weight')}.lora_"
            own |= {f"{stem}A.weight": (RANK, shape[1]), f"{stem}B.weight": (shape[0], RANK)}
    adapter(folder, sorted({name.split(".")[-2] for name in shapes if "_proj" in name}))
    held = sparse(folder / "held", own, {})
    (held / "model.safetensors").rename(folder / "adapter_model.safetensors")
    shutil.rmtree(held)


def lines(data: Mapping[str, Any]) -> list[str]:
    """The figures as Markdown."""
    columns = ("", "processor, s", "peak, MiB", "all of an 8B, planned", "GB, planned")
    return table(columns, list(rows(data)))


def rows(data: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    words = {"factors": "of three adapters", "models": "of the models that they make"}
    for method, found in data["methods"].items():
        for way, said in words.items():
            own, whole = found[way], found["whole"][way]
            hours = whole["hours"]
            time = f"{hours * 3600:.0f} s" if hours < 0.1 else f"{hours:.1f} hours"
            yield (
                f"`{method}` {said}", f"{own['processor']:.1f}", f"{own['peak']:,.0f}", time, f"{whole['memory'] / 1000:.1f}"
            )  # fmt: skip


if __name__ == "__main__":
    main()
