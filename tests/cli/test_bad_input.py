"""What people get wrong: one clear message, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import make_llama, tensors_of

MERGE = "merge: {method: ties, base: base, density: 0.5}\n"
LOCAL = "models: {base: {llamas}/base, a: ./a}\n"


@pytest.fixture
def copy(llamas, tmp_path) -> Path:
    """A copy of the fine-tune `a` to damage."""
    return Path(shutil.copytree(llamas / "a", tmp_path / "a"))


def change(folder: Path, edit) -> None:
    tensors = tensors_of(folder)
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refused(mergery, path: Path, out: Path, *says: str) -> str:
    for command in (("plan", path, out), ("merge", path, out)):
        outcome = mergery(*command)
        assert outcome.code == 2, (command, outcome)
        assert "Traceback" not in outcome.err
        for part in says:
            assert part in outcome.err, outcome.err
        assert not list(out.glob("*.safetensors"))
        assert not out.with_name(out.name + ".partial").exists()
    return outcome.err


def test_a_missing_recipe(mergery, tmp_path):
    refused(mergery, tmp_path / "nothing.yaml", tmp_path / "out", "cannot read recipe", "No such file")


def test_a_missing_model_names_its_neighbour(mergery, recipe, tmp_path):
    path = recipe("models: {base: {llamas}/bsae, a: {llamas}/a}\n" + MERGE)
    refused(mergery, path, tmp_path / "out", "bsae", "did you mean")


def test_a_missing_tensor(mergery, recipe, tmp_path, copy):
    change(copy, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    refused(mergery, recipe(LOCAL + MERGE), tmp_path / "out", "'a' lacks 'model.layers.1.mlp.up_proj.weight'", ":2:8")


def test_an_extra_tensor_is_not_lost_silently(mergery, recipe, tmp_path, copy):
    change(copy, lambda tensors: tensors.update({"value_head.weight": torch.zeros(3)}))
    text = refused(mergery, recipe(LOCAL + MERGE), tmp_path / "out", "'a' has 'value_head.weight'", "drop:")
    assert "'base' lacks" in text
    path = recipe(LOCAL + MERGE + "drop: ['value_head.*']\n")
    outcome = mergery("plan", path)
    assert outcome.code == 0
    assert "left out: value_head.weight" in outcome.out


def test_a_shape_mismatch(mergery, recipe, tmp_path, copy):
    change(copy, lambda tensors: tensors.update({"model.norm.weight": torch.ones(16)}))
    refused(mergery, recipe(LOCAL + MERGE), tmp_path / "out", "'model.norm.weight' is [32] in 'base' and [16] in 'a'")


def test_vocabularies_of_different_sizes(mergery, recipe, tmp_path):
    make_llama(tmp_path / "a", 5, vocab_size=130)
    refused(mergery, recipe(LOCAL + MERGE), tmp_path / "out", "vocabularies differ in size", "[130, 32] in 'a'")


def test_different_depths(mergery, recipe, tmp_path):
    make_llama(tmp_path / "a", 5, num_hidden_layers=3)
    refused(mergery, recipe(LOCAL + MERGE), tmp_path / "out", "'a' has 3 layers and 'base' has 4", "stack")


def test_layers_that_do_not_exist(mergery, recipe, tmp_path):
    text = "models: {base: {llamas}/base}\nmerge: {stack: [{models: {base: 0-9}}]}\n"
    refused(mergery, recipe(text), tmp_path / "out", "layers 0-9 of 'base' do not exist", "0-3")


def test_different_families(mergery, recipe, tmp_path, copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    refused(mergery, recipe(LOCAL + MERGE), tmp_path / "out", "different families", "base is llama, a is mistral")


def test_quantised_files(mergery, recipe, tmp_path, copy):
    def edit(tensors):
        name = "model.layers.0.mlp.up_proj"
        out, inner = tensors.pop(f"{name}.weight").shape
        tensors[f"{name}.qweight"] = torch.zeros(inner, out // 8, dtype=torch.int32)
        tensors[f"{name}.qzeros"] = torch.zeros(1, out // 8, dtype=torch.int32)
        tensors[f"{name}.scales"] = torch.ones(1, out)

    change(copy, edit)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    text = LOCAL + "merge: {method: linear, models: [base, a]}\n"
    refused(mergery, recipe(text), tmp_path / "out", "'a' is quantised by AWQ", "AWQ moves scales")


def test_fp8_is_refused_rather_than_scaled_wrongly(mergery, recipe, tmp_path, copy):
    def edit(tensors):
        name = "model.layers.0.mlp.up_proj.weight"
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors["model.layers.0.mlp.up_proj.some_scale"] = torch.ones(1)

    change(copy, edit)
    refused(mergery, recipe(LOCAL + MERGE), tmp_path / "out", "'a' is quantised", "float8_e4m3fn")


def test_a_truncated_file(mergery, recipe, tmp_path, copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(mergery, recipe(LOCAL + MERGE), tmp_path / "out", "model.safetensors")


def test_a_header_that_lies(mergery, recipe, tmp_path, copy):
    file = copy / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["model.norm.weight"]["data_offsets"][1] += 4
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    refused(mergery, recipe(LOCAL + MERGE), tmp_path / "out", "model.norm.weight")


def test_a_disk_that_is_too_small(mergery, recipe, tmp_path, copy, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(mergery, recipe(LOCAL + MERGE), tmp_path / "out", "the disk is too small", "are needed and 1.0 kB are free")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["linear", "ties", "slerp", "nearswap"])
def test_nan_in_an_input_names_tensor_and_model(mergery, recipe, tmp_path, copy, value, method):
    def edit(tensors):
        tensors["model.layers.2.mlp.up_proj.weight"][3, 4] = value

    change(copy, edit)
    needs_base = method in ("ties", "nearswap")
    extra = ", t: 0.5" if method in ("slerp", "nearswap") else ""
    merge = f"merge: {{method: {method}{', base: base' if needs_base else ''}{extra}}}\n"
    outcome = mergery("merge", recipe(LOCAL + merge), tmp_path / "out")
    assert outcome.code == 2
    assert "'model.layers.2.mlp.up_proj.weight' of model 'a' holds NaN or infinity" in outcome.err
    assert not (tmp_path / "out").exists()


def test_weights_that_cancel(mergery, recipe, tmp_path, copy):
    text = LOCAL + "merge: {method: linear, weight: {base: 1, a: -1}}\n"
    refused(mergery, recipe(text), tmp_path / "out", "sum to zero", "normalize: false")


def test_overflow_names_the_tensor(mergery, recipe, tmp_path, copy):
    text = LOCAL + "merge: {method: task_arithmetic, base: base, scale: 1.0e+9}\noutput: {dtype: float16}\n"
    outcome = mergery("merge", recipe(text), tmp_path / "out")
    assert outcome.code == 2
    assert "gives NaN or infinity in float16" in outcome.err


def test_two_runs_on_one_output(recipe, tmp_path, copy):
    from mergery.errors import PlanError
    from mergery.planning.plan import make_plan
    from mergery.run.sinks import FolderSink

    plan = make_plan(recipe(LOCAL + MERGE))
    first = FolderSink(plan, tmp_path / "out")
    with pytest.raises(PlanError, match="another run is writing"):
        FolderSink(plan, tmp_path / "out")
    first.abandon()


def test_unknown_options_and_commands(mergery):
    for arguments in (("mrege",), ("merge",), ("merge", "a", "b", "--thread", "2"), ("plan", "--jsn")):
        outcome = mergery(*arguments)
        assert outcome.code == 2, arguments
        assert outcome.err.startswith("mergery: ")
