"""A model with adapters on it, wherever a model may stand: never its base alone, and said as what it is."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery import api
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.adapted import AdaptedCheckpoint
from mergery.errors import MergeryError
from mergery.evaluation import open_subject
from tests.views.adapters.peft_models import passed, save_adapter

Q = "model.layers.0.self_attn.q_proj"


def test_a_model_with_an_adapter_is_never_read_or_told_as_its_base(base, lora, other, mergery, tmp_path):
    both = f"{base}+{lora}"
    with open_checkpoint(both) as checkpoint, pytest.raises(TypeError, match="are a view"):
        checkpoint.read(f"{Q}.weight", 0, 1, np.empty(4, np.uint8))
    inspected = " ".join(mergery("inspect", both).out.split())
    assert "LoRA of rank 4, alpha 8, on down_proj, q_proj" in inspected
    assert [each["location"] for each in api.inspect(both)["adapters"]] == [str(lora)]
    recipe = {"models": {"a": both, "b": f"{base}+{other}"}, "merge": {"method": "linear"}}
    api.merge(recipe, tmp_path / "out")
    assert f"| a | `{both}` |" in (tmp_path / "out" / "README.md").read_text()


def test_what_is_scored_is_told_apart_by_every_byte_of_its_adapters(base, lora, tmp_path):
    shutil.copytree(lora, tmp_path / "lora")
    first = open_subject(f"{base}+{tmp_path / 'lora'}")
    path = tmp_path / "lora" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert open_subject(f"{base}+{tmp_path / 'lora'}").fingerprint != first.fingerprint


def test_codes_with_an_adapter_on_them_keep_the_dtype_of_their_model(base, lora, tmp_path):
    folder = tmp_path / "codes"
    shutil.copytree(base, folder)
    tensors = {name: value.bfloat16() for name, value in load_file(base / "model.safetensors").items()}
    for name in [name for name in tensors if "proj" in name]:
        scale = tensors[name].float().abs().amax(1, keepdim=True) / 448
        tensors[name], tensors[f"{name}_scale"] = (tensors[name] / scale).to(torch.float8_e4m3fn), scale
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}})
    )
    plain, adapted = passed(str(folder)), passed(f"{folder}+{lora}")
    assert {value.dtype for value in adapted.values()} == {value.dtype for value in plain.values()} == {torch.bfloat16}


def test_what_the_recipe_drops_is_no_misfit_of_the_adapter(base, lora):
    kept = passed(f"{base}+{lora}", drop=["*q_proj*"])
    whole = passed(f"{base}+{lora}")
    assert kept.keys() == {name for name in whole if "q_proj" not in name}
    assert all(torch.equal(value, whole[name]) for name, value in kept.items())


def test_a_head_that_only_the_adapter_has_is_said(base, tmp_path):
    shutil.copytree(save_adapter(base, tmp_path / "lora", r=2, target_modules=["q_proj"]), tmp_path / "head")
    path = tmp_path / "head" / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.score.weight": torch.randn(3, 32)}, path)
    with pytest.raises(MergeryError, match="brings a head that 'a' does not have") as raised:
        passed(f"{base}+{tmp_path / 'head'}")
    assert "num_labels=3" in str(raised.value)


def test_adapters_behind_an_adapter_are_on_its_recorded_base(base, lora, other):
    named, recorded = passed(f"{base}+{lora}+{other}"), passed(f"{lora}+{other}")
    assert all(torch.equal(value, named[name]) for name, value in recorded.items())
    as_peft = passed({"path": str(base), "adapters": [str(lora), str(other)], "rounding": "peft"})
    alone = passed({"path": str(lora), "adapters": [str(other)], "rounding": "peft"})
    assert all(torch.equal(value, as_peft[name]) for name, value in alone.items())
    twice = AdaptedCheckpoint(
        AdaptedCheckpoint(open_checkpoint(base), [open_checkpoint(lora)]), [open_checkpoint(other)]
    )
    assert all(torch.equal(value, named[name]) for name, value in passed(twice).items())


def test_an_adapter_is_never_for_the_model_under_its_base(base, lora, other, tmp_path):
    """Its base is a model with an adapter on it: on the bare model it would be another."""
    models = {"base": f"{base}+{lora}", "tuned": f"{base}+{lora}+{other}"}
    merge = {"method": "task_arithmetic", "base": "base"}
    api.merge({"models": models, "merge": merge, "output": {"adapter": {"rank": 32}}}, tmp_path / "out")
    said = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == models["base"]
    wanted, found = passed(models["tuned"]), passed(str(tmp_path / "out"))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_a_model_where_an_adapter_should_be_is_said(base):
    for look in (api.inspect, passed):
        with pytest.raises(MergeryError, match="this is no adapter") as raised:
            look(f"{base}+{base}")
        assert "MODEL+ADAPTER" in str(raised.value)


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_recipe_for_an_adapter_is_no_model(command, base, lora, mergery, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    models = f"models: {{base: {base}, a: {base}+{lora}}}"
    recipe.write_text(f"{models}\nmerge: {{method: task_arithmetic, base: base}}\noutput: {{adapter: {{rank: 4}}}}\n")
    (tmp_path / "task.jsonl").write_text('{"text": "a b c"}\n')
    more = ("--tasks", tmp_path / "task.jsonl") if command == "evaluate" else (tmp_path / "x.gguf",)
    words = ("export", "gguf") if command == "export" else (command,)
    outcome = mergery(*words, recipe, *more)
    assert outcome.code == 2
    assert "makes an adapter, not a model" in outcome.err
