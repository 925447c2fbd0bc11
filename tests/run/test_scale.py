"""Very large, very many and very small: what grows, and what must not."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.sparse import experts_shapes, llama_config, llama_shapes, sparse

from mergery import api
from mergery.report.explain import explain
from mergery.run.workers import Options

MAPPED = 64 << 20
"""Bytes by which the memory of one program differs: how much of a library is mapped with what is used of it depends on
how its file came into memory, whole after an installation, in pieces after a start of the machine."""


class Clock:
    """Counts this process's time in seconds of a quiet machine: a busy one is slow at a loop as well.

    The loop takes 0.05 s on a quiet core.
    """

    def __init__(self) -> None:
        self.loop, self.began = loop(), time.process_time()

    def read(self) -> float:
        took = time.process_time() - self.began
        return took / max(1.0, self.loop / 0.05, loop() / 0.05)


def loop() -> float:
    """Processor seconds of a million additions."""
    began, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number
    return time.process_time() - began


def recipe_of(models: list[Path], method: str = "ties") -> dict[str, object]:
    names = {f"m{number}": str(model) for number, model in enumerate(models)}
    return {"models": names, "merge": {"method": method, "base": "m0"}}


def family(folder: Path, count: int, **changes: object) -> list[Path]:
    config = llama_config(**changes)
    return [sparse(folder / str(number), llama_shapes(config), config) for number in range(count)]


def merge_process(recipe: Path, out: Path, *arguments: str, files: int | None = None) -> int:
    """Bytes of resident memory at the peak of a merge in a process of its own, with few open files where asked."""

    def limit() -> None:
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    # the peak of a child counts from its parent's, so that a small process stands between
    code = (
        "import json, resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", "mergery", "merge", str(recipe), str(out), "--quiet"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600, preexec_fn=limit)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


def test_405_billion_parameters_are_planned_in_seconds(tmp_path):
    recipe = recipe_of(family(tmp_path, 4))
    clock = Clock()
    plan = api.plan(recipe)
    facts = explain(plan, Options(threads=2))
    took = clock.read()
    plan.close()
    assert 1.6e12 < sum(step.slot.info.nbytes for step in plan.steps) * 2 < 1.7e12
    assert len(plan.steps) == 1137
    assert len(plan.layout.shards) > 150
    assert facts["peak_memory"] < 1 << 30
    assert took < 6


def test_a_part_of_a_large_model_takes_the_memory_of_a_small_one(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    text = recipe_of(family(tmp_path / "models", 3, num_hidden_layers=40), "linear")
    recipe.write_text(json.dumps(text))
    peak = merge_process(recipe, tmp_path / "out", "--only", "model.norm.weight", "--only", "*.0.self_attn.k_proj.*")
    assert (tmp_path / "out/model.safetensors").stat().st_size > 1024 * 16384 * 2
    assert peak < 400 << 20


def test_a_hundred_thousand_tensors_are_planned_in_seconds(tmp_path):
    shapes = experts_shapes(64, 520)
    config = {"model_type": "qwen3_moe", "num_hidden_layers": 64}
    models = [sparse(tmp_path / name, shapes, config) for name in ("base", "a")]
    clock = Clock()
    plan = api.plan(recipe_of(models))
    explain(plan)
    took = clock.read()
    plan.close()
    assert len(plan.steps) > 100_000
    assert len({id(step.node.settings) for step in plan.steps if hasattr(step.node, "settings")}) == 1
    assert took < 10  # a quiet machine takes less than four


def test_a_hundred_fine_tunes_are_merged_with_few_open_files_and_planned_memory(tmp_path):
    models = family(
        tmp_path / "models", 101, hidden_size=128, intermediate_size=512, num_hidden_layers=1, vocab_size=4096,
        num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(recipe_of(models, "linear")))
    plan = api.plan(recipe)
    planned = explain(plan, Options(threads=2))["peak_memory"]
    plan.close()
    peak = merge_process(recipe, tmp_path / "out", "--threads", "2", files=64)
    assert 0.7 * planned < peak < 1.2 * planned + MAPPED


@pytest.mark.parametrize("method", ["linear", "ties", "pcb"])
def test_the_planned_memory_is_what_a_merge_takes(tmp_path, method):
    planned, took = [], []
    for size in (64, 768):
        models = family(
            tmp_path / f"models{size}", 4, hidden_size=size, intermediate_size=4 * size, num_hidden_layers=4,
            vocab_size=16384 * size // 768, num_attention_heads=4, num_key_value_heads=4,
        )  # fmt: skip
        recipe = tmp_path / f"{size}.yaml"
        recipe.write_text(json.dumps(recipe_of(models, method)))
        plan = api.plan(recipe)
        planned.append(explain(plan, Options(threads=2))["peak_memory"] / 2**20)
        plan.close()
        merge_process(recipe, tmp_path / f"first{size}", "--threads", "2")  # compiles, which takes memory
        took.append(merge_process(recipe, tmp_path / f"out{size}", "--threads", "2") / 2**20)
    said = f"planned {planned} MiB, took {took} MiB"
    assert abs(took[0] - planned[0]) < 0.2 * planned[0] + MAPPED / 2**20, said
    assert abs((took[1] - took[0]) - (planned[1] - planned[0])) < 0.2 * planned[1], said


def test_fifteen_thousand_small_tensors_are_merged_in_seconds(tmp_path):
    shapes = experts_shapes(10, 500)
    config = {"model_type": "qwen3_moe", "num_hidden_layers": 10}
    models = [sparse(tmp_path / name, shapes, config) for name in ("base", "a")]
    plan = api.plan(recipe_of(models, "linear"))
    clock = Clock()
    api.merge(plan, tmp_path / "out")
    assert len(plan.steps) > 15_000
    assert clock.read() < 10


def test_tensors_that_no_value_tells_apart_share_their_settings(tmp_path):
    models = family(
        tmp_path, 3, hidden_size=64, intermediate_size=128, num_hidden_layers=3, vocab_size=128, num_attention_heads=4,
        num_key_value_heads=4,
    )  # fmt: skip
    recipe = recipe_of(models, "task_arithmetic")

    def weights(value: object) -> dict[str, list[float]]:
        changed = {**recipe, "merge": {"method": "task_arithmetic", "base": "m0", "weight": value}}
        plan = api.plan(changed)
        plan.close()
        return {step.name: step.node.settings["weight"].tolist() for step in plan.steps}  # type: ignore[union-attr]

    by_layer = weights([0.0, 0.5, 1.0])
    for layer, expected in enumerate((0.0, 0.5, 1.0)):
        assert by_layer[f"model.layers.{layer}.mlp.up_proj.weight"] == [expected] * 2
    by_role = weights([{"where": {"role": "mlp", "layers": "1"}, "value": 0.25}, {"value": 0.75}])
    assert by_role["model.layers.1.mlp.up_proj.weight"] == [0.25] * 2
    assert by_role["model.layers.1.self_attn.q_proj.weight"] == [0.75] * 2
    assert by_role["model.layers.2.mlp.up_proj.weight"] == [0.75] * 2
    by_name = weights([{"where": {"name": "*.1.mlp.up_proj.*"}, "value": 0.25}, {"value": 0.75}])
    assert by_name["model.layers.1.mlp.up_proj.weight"] == [0.25] * 2
    assert by_name["model.layers.1.mlp.gate_proj.weight"] == [0.75] * 2
