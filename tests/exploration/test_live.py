"""A model that follows recipes: the same parameters as loading the merged folder, and only what changed is made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mergery
from mergery.errors import PlanError
from mergery.evaluation.loading import pretrained
from mergery.exploration.live import LiveModel
from mergery.recipe import Recipe
from mergery.recipe.reading import load_recipe
from tests.conftest import make_llama


def recipe(zoo: Path, **merge: Any) -> Recipe:
    models = {name: str(zoo / name) for name in ("base", "a", "b")}
    said = {key: value for key, value in {"base": "base", **merge}.items() if value is not None}
    return load_recipe({"models": models, "merge": said})


@pytest.fixture
def live(zoo: Path) -> Iterator[LiveModel]:
    made = LiveModel(recipe(zoo, method="ties", weight=1.0), "language")
    yield made
    made.close()


def same_as_folder(live: LiveModel, wanted: Recipe, folder: Path) -> None:
    followed = live.follow(live.plan(wanted)).module.state_dict()
    mergery.merge(wanted, folder)
    loaded = pretrained(str(folder), "language", "float32").state_dict()
    assert followed.keys() == loaded.keys()
    for name, tensor in loaded.items():
        assert torch.equal(followed[name], tensor), name


def test_follows_from_recipe_to_recipe_to_the_bit(live: LiveModel, zoo: Path, tmp_path: Path) -> None:
    steps = [
        {"method": "ties", "weight": 1.0},
        {"method": "ties", "weight": {"a": 0.2, "b": [0.1, 0.9]}},
        {"method": "sce", "select_topk": 0.5},
        {"method": "dare_linear", "density": 0.4},
        {"method": "task_arithmetic", "weight": [{"where": {"role": "mlp"}, "value": 0.4}, {"value": 0.9}]},
    ]
    for number, step in enumerate(steps):
        same_as_folder(live, recipe(zoo, **step), tmp_path / str(number))


def test_only_what_a_change_touches_is_made_again(live: LiveModel, zoo: Path) -> None:
    def weight(mlp: float, rest: float) -> list[dict[str, Any]]:
        return [{"where": {"role": "mlp"}, "value": mlp}, {"value": rest}]

    live.follow(live.plan(recipe(zoo, method="task_arithmetic", weight=weight(0.5, 1.0))))
    everything = live.made
    live.follow(live.plan(recipe(zoo, method="task_arithmetic", weight=weight(0.6, 1.0))))
    mlps = sum(".mlp." in name for name in live.keys)
    assert live.made == mlps < everything


def test_what_is_asked_of_the_whole_model_makes_all_of_it_again(live: LiveModel, zoo: Path, tmp_path: Path) -> None:
    """PCB-Merging's cuts are of the whole task vector: what its MLPs get changes every tensor."""
    live.follow(live.plan(recipe(zoo, method="pcb", density=0.3)))
    parts = [{"where": {"role": "mlp"}, "take": "base"}]
    same_as_folder(live, recipe(zoo, method="pcb", density=0.3, parts=parts), tmp_path / "out")


def test_a_seed_is_part_of_the_key(live: LiveModel, zoo: Path) -> None:
    models = {name: str(zoo / name) for name in ("base", "a", "b")}
    for seed in (0, 1):
        data = {"models": models, "merge": {"method": "dare_linear", "base": "base", "density": 0.5}, "seed": seed}
        live.follow(live.plan(load_recipe(data)))
        assert live.made


def test_a_model_of_another_shape_is_loaded_anew(live: LiveModel, zoo: Path, tmp_path: Path) -> None:
    live.follow(live.plan(recipe(zoo, method="linear")))
    alone = {"models": {"a": str(zoo / "a")}, "merge": {"method": "passthrough", "stack": {"upscale": "a", "drop": 1}}}
    same_as_folder(live, load_recipe(alone), tmp_path / "stacked")
    same_as_folder(live, recipe(zoo, method="linear"), tmp_path / "linear")


def test_a_module_that_keeps_weights_in_another_form_is_made_anew(zoo: Path, tmp_path: Path) -> None:
    """transformers fuses a Mixtral's experts as it loads them, so that its parameters are not the merged tensors."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=128, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=2, max_position_embeddings=64,
    )  # fmt: skip
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        MixtralForCausalLM(config).save_pretrained(tmp_path / name)
        for file in zoo.joinpath("base").glob("*token*"):
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    live = LiveModel(recipe(tmp_path, method="linear", weight=1.0), "language")
    try:
        same_as_folder(live, recipe(tmp_path, method="linear", weight={"a": 0.3, "b": 0.7}), tmp_path / "one")
        same_as_folder(live, recipe(tmp_path, method="linear", weight={"a": 0.6, "b": 0.7}), tmp_path / "two")
    finally:
        live.close()


def test_a_changed_file_is_noticed(tmp_path: Path, zoo: Path) -> None:
    for name in ("base", "a", "b"):
        make_llama(tmp_path / name, 3)
        for file in zoo.joinpath("base").glob("*token*"):
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    live = LiveModel(recipe(tmp_path, method="linear"), "language")
    try:
        plan = live.plan(recipe(tmp_path, method="linear"))
        with (tmp_path / "a" / "model.safetensors").open("r+b") as opened:
            opened.seek(-4, 2)
            opened.write(bytes(4))
        with pytest.raises(PlanError, match="changed"):
            live.follow(plan)
    finally:
        live.close()


def test_a_module_that_has_moved_is_followed_where_it_is(live: LiveModel, zoo: Path, tmp_path: Path) -> None:
    """An evaluation moves the module to its device, where its parameters have other memory."""
    module = live.follow(live.plan(recipe(zoo, method="linear"))).module
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()
    same_as_folder(live, recipe(zoo, method="ties", weight=0.4), tmp_path / "out")


def test_the_same_plan_again_costs_nothing_and_is_still_told(live: LiveModel, zoo: Path) -> None:
    plan = live.plan(recipe(zoo, method="linear"))
    first = live.follow(plan)
    made = live.made
    assert live.follow(live.plan(recipe(zoo, method="linear"))) is first
    assert live.made == made > 0


def test_a_merge_that_is_refined_on_data_is_refused(zoo: Path, tmp_path: Path) -> None:
    """Its candidates would be scored without what the data do."""
    (tmp_path / "texts.jsonl").write_text('{"text": "ab"}\n')
    models = {name: str(zoo / name) for name in ("base", "a", "b")}
    data = {"models": models, "merge": {"method": "task_arithmetic", "base": "base"}, "refine": "featcal"}
    with pytest.raises(PlanError, match="needs calibration"):
        LiveModel(load_recipe({**data, "calibration": {"data": str(tmp_path / "texts.jsonl")}}), "language")
