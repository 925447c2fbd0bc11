"""What training code puts before a model's names is no part of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mergery import api
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.adapted import NoModel
from mergery.checkpoints.renamed import RenamedCheckpoint, unwrapped

from .reading import read_bytes, tensor_bytes

NAMES = (
    "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight",
    "lm_head.weight",
)  # fmt: skip


def model() -> dict[str, torch.Tensor]:
    return {name: torch.full((2, 3), float(number)) for number, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    ("before", "layer", "said"),
    [
        ("_orig_mod.", "", "'_orig_mod.'"),
        ("module.", "", "'module.'"),
        ("base_model.model.", "", "'base_model.model.'"),
        ("_orig_mod.module.", "", "'_orig_mod.', 'module.'"),
        ("module._orig_mod.", "", "'_orig_mod.', 'module.'"),
        ("module.module.", "", "'module.'"),
        ("model.", "", "'model.'"),  # a Lightning module's
        ("base_model.model._orig_mod.", "", "'_orig_mod.', 'base_model.model.'"),
        ("", "_orig_mod.", "'_orig_mod.'"),  # layer by layer
        ("_fsdp_wrapped_module.", "_fsdp_wrapped_module.", "'_fsdp_wrapped_module.'"),
        ("", "_checkpoint_wrapped_module.", "'_checkpoint_wrapped_module.'"),
    ],
)
def test_wrappers_are_taken_off(before: str, layer: str, said: str) -> None:
    """Also one in another, and around layers."""
    plain = model()
    wrapped = {before + name.replace("layers.0.", f"layers.0.{layer}"): value for name, value in plain.items()}
    checkpoint = open_checkpoint(wrapped)
    assert list(checkpoint.tensors) == list(plain)
    assert checkpoint.remarks == (f"taken without {said} in its names, which wrappers put there",)
    for name, value in plain.items():
        assert checkpoint.tensors[name].name == name
        assert read_bytes(checkpoint, name) == tensor_bytes(value)
    plan = api.plan({"models": {"a": plain, "b": wrapped}, "merge": {"method": "linear"}})
    assert [step.name for step in plan.steps] == list(plain)
    assert any(f"b: taken without {said}" in warning for warning in plan.warnings)


def test_names_of_a_models_own_are_kept() -> None:
    for names in (
        NAMES,
        ("module.x.weight", "other.weight"),
        ("model.encoder.x", "model.decoder.x"),
        ("model.layers.0.module.x", "model.norm.weight"),
    ):
        checkpoint = open_checkpoint({name: torch.ones(2) for name in names})
        assert tuple(checkpoint.tensors) == names
        assert not checkpoint.remarks


def test_names_that_would_become_one_are_kept() -> None:
    names = ("layers.0._orig_mod.w", "layers.0.w")
    assert tuple(open_checkpoint({name: torch.ones(2) for name in names}).tensors) == names


def test_what_peft_trained_whole_is_the_weight() -> None:
    """`modules_to_save` keeps a trained copy beside the module as it was."""
    before = "base_model.model.lm_head."
    state = {
        "base_model.model.model.embed_tokens.weight": torch.zeros(2, 3),
        f"{before}original_module.weight": torch.ones(2, 3),
        f"{before}modules_to_save.default.weight": torch.full((2, 3), 2.0),
    }
    checkpoint = open_checkpoint(state)
    assert list(checkpoint.tensors) == ["model.embed_tokens.weight", "lm_head.weight"]
    assert read_bytes(checkpoint, "lm_head.weight") == tensor_bytes(torch.full((2, 3), 2.0))
    assert checkpoint.remarks[1] == (
        f"1 tensors as they were before peft trained them are left out (such as '{before}original_module.weight')"
    )


def test_an_adapter_keeps_its_names() -> None:
    names = ("base_model.model.q_proj.lora_A.weight", "base_model.model.q_proj.lora_B.weight")
    assert tuple(open_checkpoint({name: torch.ones(2, 2) for name in names}).tensors) == names


def test_a_renamed_checkpoint_is_the_other_in_all_else(sharded_folder: Any) -> None:
    plain = open_checkpoint(sharded_folder)
    renamed = RenamedCheckpoint(plain, {f"x.{name}": name for name in plain.tensors})
    assert [name.removeprefix("x.") for name in renamed.tensors] == list(plain.tensors)
    same = ("config", "contents", "files", "label", "location", "stamp", "fingerprint", "hash_contents")
    for each in same:
        mine, theirs = (getattr(checkpoint, each) for checkpoint in (renamed, plain))
        assert (mine() == theirs()) if callable(mine) else (mine == theirs)
    assert renamed.file("config.json") == plain.file("config.json") if "config.json" in plain.files else True
    assert unwrapped(renamed) is renamed
    renamed.close()


def test_a_checkpoint_without_tensors_has_nothing_to_unwrap() -> None:
    empty = NoModel("empty")
    assert unwrapped(empty) is empty


def test_tied_names_stay_tied() -> None:
    table = torch.ones(3, 2)
    checkpoint = open_checkpoint({"module.a": table, "module.b": table})
    assert checkpoint.aliases == {"b": "a"}
