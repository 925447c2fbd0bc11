"""Checkpoints of a run, named by a pattern."""

from __future__ import annotations

import shutil

import pytest
import torch

from mergery import api
from mergery.recipe import Source
from mergery.recipe.reading import load_recipe
from mergery.recipe.runs import find_run
from tests.conftest import tensors_of


@pytest.fixture
def run(tmp_path, llamas):
    """A folder of checkpoints whose names do not sort as their steps do."""
    for name, step in (("base", 500), ("a", 1000), ("b", 1500), ("c", 10000)):
        shutil.copytree(llamas / name, tmp_path / f"run/checkpoint-{step}")
    return tmp_path / "run"


TEXT = "models: {run: ./run/checkpoint-*}\nmerge: {method: run_average}\n"


def test_a_run_is_its_checkpoints_in_the_order_of_steps(recipe, run, llamas):
    read = load_recipe(recipe(TEXT))
    assert read.merge.models == ("run@500", "run@1000", "run@1500", "run@10000")
    paths = [model.path for model in read.models.values() if isinstance(model, Source)]
    assert [path.rsplit("-", 1)[1] for path in paths] == ["500", "1000", "1500", "10000"]


def test_it_is_merged(recipe, run, llamas, tmp_path):
    out = api.merge(recipe(TEXT.replace("run_average", "run_average, by: exponential, alpha: 0.25, last: 2")))
    b, c = tensors_of(llamas / "b"), tensors_of(llamas / "c")
    for name, tensor in out.items():
        assert torch.allclose(tensor, 0.75 * b[name] + 0.25 * c[name], rtol=0, atol=1e-6)
    api.merge(recipe(TEXT), tmp_path / "out")
    assert not api.verify(tmp_path / "out", sample=2)


def test_a_run_among_other_models(recipe, run):
    text = """\
models: {base: {llamas}/base, run: ./run/checkpoint-1*, other: {llamas}/c}
merge: {method: task_arithmetic, base: base, models: [other, run], weight: {run@1000: 0.5, run@1500: 0.25, other: 1}}
"""
    text = text.replace("1*", "1?00")
    assert load_recipe(recipe(text)).merge.models == ("other", "run@1000", "run@1500")


def test_weight_files_of_a_run(tmp_path, llamas):
    for step in (9, 10):
        shutil.copy(llamas / "a/model.safetensors", tmp_path / f"step_{step}_v2.safetensors")
    with pytest.raises(Exception, match="are both step 2"):
        find_run("step_*.safetensors", tmp_path)
    for step in (9, 10):
        (tmp_path / f"step_{step}_v2.safetensors").rename(tmp_path / f"step{step}.safetensors")
    assert find_run("step*.safetensors", tmp_path) == {9: "step9.safetensors", 10: "step10.safetensors"}
    assert list(find_run(str(tmp_path / "step*"), tmp_path / "elsewhere")) == [9, 10]


def test_the_step_is_in_the_part_with_the_wildcard(tmp_path, llamas):
    for step in (2, 10):
        shutil.copytree(llamas / "a", tmp_path / f"run1/{step}/model7")
    assert find_run("run1/*/model7", tmp_path) == {2: "run1/2/model7", 10: "run1/10/model7"}


@pytest.mark.parametrize(
    ("pattern", "messages"),
    [
        ("./run/step-*", ["no checkpoint matches './run/step-*'", "patterns are looked up from"]),
        ("./run/*", ["'./run/last' has no step number", "./run/[0-9]*"]),
        ("./run/*5*", ["'./run/checkpoint-750' has no weights, and 1 more", "the optimizer's state alone"]),
        ("./run/*500*", ["'./run/checkpoint-500' and './run/old-500' are both step 500"]),
    ],
)
def test_what_is_wrong_with_a_run(recipe, run, mergery, pattern, messages):
    for name in ("last", "checkpoint-750", "checkpoint-850", "old-500"):
        (run / name).mkdir()
    (run / "checkpoint-750/optimizer.pt").write_bytes(b"state")
    if "500" not in pattern:
        (run / "old-500").rmdir()
    outcome = mergery("plan", recipe(TEXT.replace("./run/checkpoint-*", pattern)))
    assert outcome.code == 2
    assert "recipe.yaml:1:15: " in outcome.err
    for message in messages:
        assert message in outcome.err


def test_a_run_is_not_one_model(recipe, run, mergery):
    text = (
        "models: {run: ./run/checkpoint-*, a: {llamas}/a}\nmerge: {method: task_arithmetic, base: run, models: [a]}\n"
    )
    outcome = mergery("plan", recipe(text))
    assert outcome.code == 2
    assert "'run' is a run of 4 checkpoints, run@500 to run@10000" in outcome.err
    assert "name one: run@10000" in outcome.err


def test_a_folder_may_have_a_star_in_its_name(recipe, run, tmp_path, llamas):
    shutil.copytree(llamas / "a", tmp_path / "run[1]")
    read = load_recipe(recipe("models: {a: './run[1]'}\nmerge: {method: passthrough}\n"))
    assert list(read.models) == ["a"]
