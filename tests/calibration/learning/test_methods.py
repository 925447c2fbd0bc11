"""What the papers' methods must give: AdaMerging and its ++, learned soups, LoRA soups, distillation, NSC."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.calibration.conftest import FAMILIES
from tests.calibration.learning.conftest import SUM, weights_of
from tests.calibration.whole import load


@pytest.mark.parametrize("by", ["model", "layer", "tensor"])
def test_no_steps_are_the_merge(by, recipe, run, mergery, tmp_path):
    path = recipe("llama")
    outcome = run(path, "--steps", 0, "--by", by)
    assert outcome.code == 0, outcome.err
    for each, out in ((path, "plain"), (tmp_path / "learned.yaml", "learned")):
        assert mergery("merge", each, tmp_path / out).code == 0
    one, other = (tmp_path / each / "model.safetensors" for each in ("plain", "learned"))
    assert one.read_bytes() == other.read_bytes()


def test_a_planted_optimum_is_found(recipe, run, tmp_path):
    """A model's own answers are given by its whole task vector."""
    path = recipe("llama", {**SUM, "models": ["one"]})
    data = [f"one={tmp_path / 'one.jsonl'}"]
    outcome = run(path, "--by", "model", "--objective", "distill", "--steps", 150, "--rate", 0.02, data=data)
    assert outcome.code == 0, outcome.err
    assert weights_of(tmp_path / "learned.yaml")["one"] == pytest.approx(1.0, abs=0.02)
    assert yaml.safe_load((tmp_path / "learned.yaml").read_text())["x-learned"]["loss"][1] < 1e-4


@pytest.mark.parametrize("objective", ["entropy", "labels", "distill", "nsc"])
def test_the_loss_falls(objective, recipe, run, tmp_path):
    outcome = run(recipe("llama"), "--objective", objective, "--steps", 25, "--rate", 0.01, "--rank", 4)
    assert outcome.code == 0, outcome.err
    before, after = yaml.safe_load((tmp_path / "learned.yaml").read_text())["x-learned"]["loss"]
    assert after < before
    assert f"{objective} " in outcome.err and "25 steps" in outcome.err


def test_weights_stay_in_their_range(recipe, run, tmp_path):
    assert run(recipe("llama"), "--steps", 4, "--rate", 0.9, "--range", "unit").code == 0
    values = [case["value"] for each in weights_of(tmp_path / "learned.yaml").values() for case in each]
    assert all(0.0 <= value <= 1.0 for value in values) and {0.0, 1.0} <= set(values)
    assert run(recipe("llama"), "--steps", 4, "--rate", 0.9, "--range", "shares", out="shares.yaml").code == 0
    one, two = weights_of(tmp_path / "shares.yaml").values()
    assert all(a["value"] + b["value"] == pytest.approx(1.0, abs=1e-6) for a, b in zip(one, two, strict=True))


def test_a_learnt_soup_begins_with_the_average(recipe, run, mergery, tmp_path):
    path = recipe("llama", {"method": "linear", "models": ["one", "two"]})
    assert run(path, "--objective", "labels", "--steps", 0).code == 0
    assert {case["value"] for each in weights_of(tmp_path / "learned.yaml").values() for case in each} == {0.5}
    assert run(path, "--objective", "labels", "--steps", 5, "--rate", 0.1, out="soup.yaml").code == 0
    outcome = mergery("merge", tmp_path / "soup.yaml", tmp_path / "soup")
    assert outcome.code == 0, outcome.err
    one, two = (load_file(tmp_path / each / "model.safetensors") for each in ("one", "two"))
    name, soup = "model.norm.weight", load_file(tmp_path / "soup" / "model.safetensors")
    shares = [
        next(c["value"] for c in each if c["where"]["name"] == name)
        for each in weights_of(tmp_path / "soup.yaml").values()
    ]
    assert torch.allclose(soup[name], shares[0] * one[name] + shares[1] * two[name], atol=1e-6)
    assert shares[0] != 0.5


def test_trimmed_and_elected_task_vectors_are_summed_with_learnt_weights(recipe, run, mergery, tmp_path):
    """AdaMerging++: at density 1 and with one model it is AdaMerging; else what is trimmed stays as in the base."""
    plus = {"method": "ties", "base": "base", "function": "sum", "vote": "alike", "scale": 0.3}
    one = [f"one={tmp_path / 'one.jsonl'}"]
    assert run(recipe("llama", {**plus, "density": 1.0, "models": ["one"]}), "--steps", 5, data=one).code == 0
    assert run(recipe("llama", {**SUM, "models": ["one"]}), "--steps", 5, data=one, out="plain.yaml").code == 0
    for mine, other in zip(
        *(weights_of(tmp_path / f"{each}.yaml")["one"] for each in ("learned", "plain")), strict=True
    ):
        assert mine["value"] == pytest.approx(other["value"], abs=1e-5)
    assert run(recipe("llama", {**plus, "density": 0.2}), "--steps", 5, out="plus.yaml").code == 0
    assert mergery("merge", tmp_path / "plus.yaml", tmp_path / "plus").code == 0
    base, merged = (load_file(tmp_path / each / "model.safetensors") for each in ("base", "plus"))
    same = sum(int((merged[name] == base[name]).sum()) for name in base) / sum(value.numel() for value in base.values())
    assert 0.6 < same < 0.8  # each of two keeps a fifth


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_get_a_weight_for_each_of_them_and_module(model, run, mergery, tmp_path):
    """LoRA soups (CAT): sum of alpha s B A, the alphas of a module summing to one."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(model("llama"), dtype=torch.float32)
        options = LoraConfig(
            r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
        )
        get_peft_model(base, options).save_pretrained(tmp_path / f"{name}-lora")
    models = {"base": str(model("llama"))} | {name: f"{model('llama')}+./{name}-lora" for name in ("one", "two")}
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump({"models": models, "merge": {"method": "task_arithmetic", "base": "base", "scale": 0.5}})
    )
    outcome = run(path, "--objective", "labels", "--range", "shares", "--steps", 10, "--rate", 0.1)
    assert outcome.code == 0, outcome.err
    found = weights_of(tmp_path / "learned.yaml")
    assert len(found["one"]) == 4  # two modules of two layers, and nothing else
    outcome = mergery("merge", tmp_path / "learned.yaml", tmp_path / "soup")
    assert outcome.code == 0, outcome.err
    start, soup = (load_file(each / "model.safetensors") for each in (model("llama"), tmp_path / "soup"))
    for case, other in zip(found["one"], found["two"], strict=True):
        name = case["where"]["name"]
        assert case["value"] + other["value"] == pytest.approx(1.0, abs=1e-6)
        expected = start[name].double()
        for each, alpha in (("one", case["value"]), ("two", other["value"])):
            factors = load_file(tmp_path / f"{each}-lora" / "adapter_model.safetensors")
            inner = f"base_model.model.{name.removesuffix('.weight')}"
            expected += (
                alpha * 2.0 * factors[f"{inner}.lora_B.weight"].double() @ factors[f"{inner}.lora_A.weight"].double()
            )
        assert torch.allclose(soup[name].double(), expected, atol=1e-5)


def test_classifiers_answer_with_each_models_own_head(recipe, run, mergery, tmp_path):
    path = recipe("bert")
    assert run(path, "--objective", "labels", "--steps", 6, "--rate", 0.05, label=True).code == 0
    found = {case["where"]["name"]: case["value"] for case in weights_of(tmp_path / "learned.yaml")["one"]}
    heads = {name for name in found if name.startswith("classifier")}
    assert heads and all(found[name] == pytest.approx(0.3) for name in heads)
    assert found["bert.encoder.layer.0.output.dense.weight"] != pytest.approx(0.3)
    # One file for all is answered with the merge's.
    file = [str(tmp_path / "one.jsonl")]
    assert (
        run(path, "--objective", "labels", "--steps", 6, "--rate", 0.05, data=file, out="all.yaml", label=True).code
        == 0
    )
    found = {case["where"]["name"]: case["value"] for case in weights_of(tmp_path / "all.yaml")["one"]}
    assert all(found[name] != pytest.approx(0.3) for name in heads)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2", "mixtral", "bert", "t5"])
def test_all_families_from_end_to_end(family, recipe, run, mergery, tmp_path):
    outcome = run(recipe(family), "--steps", 3, pairs=family == "t5")
    assert outcome.code == 0, outcome.err
    outcome = mergery("merge", tmp_path / "learned.yaml", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    load(tmp_path / "out", FAMILIES[family][0])
    assert not list(tmp_path.glob("*.learning"))
