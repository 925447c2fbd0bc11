"""A model with an adapter on it is calibrated, and merged, as the model that the adapter makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import mergery as library
from tests.calibration.whole import close, inputs, rows_of, tensors

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft, to transformers


@pytest.fixture
def adapted(model, tmp_path):
    """The folder of an adapter on the tiny Llama, and the module that peft makes of both."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model("llama"), dtype=torch.float32)
    torch.manual_seed(5)
    options = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, options).save_pretrained(tmp_path / "adapter")
    fresh = AutoModelForCausalLM.from_pretrained(model("llama"), dtype=torch.float32)
    merged = PeftModel.from_pretrained(fresh, tmp_path / "adapter").merge_and_unload().eval()
    return tmp_path / "adapter", merged


def test_its_inputs_are_those_of_the_merged_model(adapted, model, write, tokenizer, tmp_path):
    folder, merged = adapted
    data = write(4)
    found = library.calibrate(f"{model('llama')}+{folder}", data, tmp_path / "stats")
    kept = tensors(tmp_path / "stats")
    for name, (gram, _, _) in inputs(merged, rows_of(data, merged, tokenizer)).items():
        if name in found.inputs:
            assert close(kept[f"{found.inputs[name].of}.gram"], gram, 3e-6), name
    plain = library.calibrate(model("llama"), data, tmp_path / "plain")
    name = plain.inputs["model.layers.1.self_attn.q_proj.weight"].of
    assert not close(tensors(tmp_path / "plain")[f"{name}.gram"], kept[f"{name}.gram"], 1e-3)


def test_it_is_merged_by_its_statistics(adapted, model, write, mergery, tmp_path):
    folder, merged = adapted
    both = f"{model('llama')}+{folder}"
    for source, name in ((both, "one"), (model("llama", 2), "two")):
        outcome = mergery("calibrate", source, "--data", write(4, name=f"{name}.jsonl"), tmp_path / f"{name}-stats")
        assert outcome.code == 0, outcome.err
    models = {
        "one": {"path": both, "statistics": str(tmp_path / "one-stats")},
        "two": {"path": str(model("llama", 2)), "statistics": str(tmp_path / "two-stats")},
    }
    recipe = tmp_path / "recipe.yaml"
    wanted = {"method": "regmean", "off_diagonal": 0.0}
    recipe.write_text(yaml.safe_dump({"models": models, "merge": wanted, "output": {"dtype": "float32"}}))
    outcome = mergery("merge", recipe, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    name = "model.layers.1.mlp.down_proj.weight"
    weights = [merged.state_dict()[name], load_file(model("llama", 2) / "model.safetensors")[name]]
    shares = [np.diag(tensors(tmp_path / f"{each}-stats")[f"{name}.gram"]) for each in ("one", "two")]
    expected = sum(w.double().numpy() * share for w, share in zip(weights, shares, strict=True)) / sum(shares)
    assert close(load_file(tmp_path / "out" / "model.safetensors")[name].double().numpy(), expected, 1e-5)


def test_a_file_brings_its_own_tokenizer(adapted, model, write, mergery, tmp_path):
    folder, _ = adapted
    assert mergery("export", "gguf", model("llama"), tmp_path / "x.gguf", "--type", "f32").code == 0
    for source in (tmp_path / "x.gguf", f"{tmp_path / 'x.gguf'}+{folder}"):
        outcome = mergery("calibrate", source, "--data", write(2), tmp_path / f"stats-{len(str(source))}")
        assert outcome.code == 0, outcome.err


def test_what_an_adapter_brings_whole_has_fisher_information(model, write, mergery, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model("llama"), dtype=torch.float32)
    torch.manual_seed(5)
    options = LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    tuned = get_peft_model(base, options)
    head = tuned.base_model.model.lm_head.modules_to_save.default.weight
    with torch.no_grad():
        head += torch.randn_like(head)
    tuned.save_pretrained(tmp_path / "adapter")
    both = f"{model('llama')}+{tmp_path / 'adapter'}"
    for source, name in ((both, "one"), (model("llama", 2), "two")):
        data, out = write(4, name=f"{name}.jsonl"), tmp_path / f"{name}-stats"
        assert mergery("calibrate", source, "--data", data, "--stats", "fisher", out).code == 0
    models = {
        "one": {"path": both, "statistics": str(tmp_path / "one-stats")},
        "two": {"path": str(model("llama", 2)), "statistics": str(tmp_path / "two-stats")},
    }
    recipe = tmp_path / "recipe.yaml"
    wanted = {"method": "fisher", "floor": 0.0}
    recipe.write_text(yaml.safe_dump({"models": models, "merge": wanted, "output": {"dtype": "float32"}}))
    outcome = mergery("merge", recipe, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    weights = [head.detach(), load_file(model("llama", 2) / "model.safetensors")["lm_head.weight"]]
    known = [tensors(tmp_path / f"{each}-stats")["lm_head.weight.fisher"] for each in ("one", "two")]
    above, below = sum(w.double().numpy() * f for w, f in zip(weights, known, strict=True)), sum(known)
    expected = np.divide(above, below, out=(weights[0] + weights[1]).double().numpy() / 2, where=below > 0)
    assert close(load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"].double().numpy(), expected, 1e-5)
