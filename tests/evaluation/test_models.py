"""What can be evaluated: folders, adapters, recipes that are never written, modules."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import mergery
from mergery.errors import CheckpointError, DataError, PlanError, RecipeError
from mergery.evaluation import EvaluationOptions, open_subject
from tests.evaluation.conftest import choices, prompts, texts

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's


@pytest.fixture
def merged(zoo, tmp_path):
    path = tmp_path / "half.yaml"
    path.write_text(f"models: {{a: {zoo}/a, b: {zoo}/b}}\nmerge: {{method: linear, weight: {{a: 0.3, b: 0.7}}}}\n")
    return path


def test_a_recipe_scores_as_the_folder_that_it_would_write(merged, write, tmp_path):
    tasks = [write(choices(8), "c.jsonl"), write(texts(4), "t.jsonl"), write(prompts(4), "p.jsonl")]
    before = set(tmp_path.rglob("*"))
    memory = mergery.evaluate(merged, tasks)
    assert set(tmp_path.rglob("*")) == before
    mergery.merge(merged, tmp_path / "out")
    assert memory.scores == mergery.evaluate(tmp_path / "out", tasks).scores
    assert memory.model == "half"


def test_a_recipe_may_be_a_mapping_and_its_models_state_dicts(zoo, write):
    from transformers import AutoModelForCausalLM

    a = AutoModelForCausalLM.from_pretrained(zoo / "a")
    task = write(texts(3))
    recipe = {"models": {"a": str(zoo / "a"), "m": a}, "merge": {"method": "linear"}, "output": {"tokenizer": "a"}}
    found = mergery.evaluate(recipe, task)
    assert found.scores == mergery.evaluate(zoo / "a", task).scores
    with torch.no_grad():
        a.model.layers[3].mlp.down_proj.weight[-1, -1] += 1.0  # beyond what a sample of it would show
    assert mergery.evaluate(recipe, task).fingerprint != found.fingerprint


def test_a_recipe_whose_models_change_before_it_is_merged(zoo, tmp_path):
    shutil.copytree(zoo / "a", tmp_path / "a")
    path = tmp_path / "r.yaml"
    path.write_text(f"models: {{a: {tmp_path}/a, b: {zoo}/b}}\nmerge: {{method: linear}}\n")
    subject = open_subject(path)
    shutil.copy(zoo / "b" / "model.safetensors", tmp_path / "a" / "model.safetensors")
    with pytest.raises(PlanError, match="the models of r have changed since they were looked at"):
        subject.load("language")


def test_a_module_and_its_tokenizer_score_as_their_folder(zoo, write):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module = AutoModelForCausalLM.from_pretrained(zoo / "a").train()
    tokenizer = AutoTokenizer.from_pretrained(zoo / "a")
    task = write(choices(6))
    assert mergery.evaluate(module, task, tokenizer=tokenizer).scores == mergery.evaluate(zoo / "a", task).scores
    assert module.training
    with pytest.raises(CheckpointError, match="a module needs a tokenizer"):
        mergery.evaluate(module, task)
    with pytest.raises(CheckpointError, match="a Linear has no config"):
        mergery.evaluate(torch.nn.Linear(2, 2), task)


@pytest.fixture(scope="module")
def adapter(zoo, tmp_path_factory):
    """A LoRA adapter of `base`, saved by peft."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(zoo / "base"),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    model.save_pretrained(folder)
    whole = folder.parent / "whole"
    model.merge_and_unload().save_pretrained(whole)
    open_subject(zoo / "base").load("language").tokenizer.save_pretrained(whole)
    return folder


def test_an_adapter_scores_as_it_does_merged_into_its_base(adapter, zoo, write):
    tasks = [write(texts(6), "t.jsonl"), write([{"task": {"max_tokens": 4}}, *prompts(4)], "p.jsonl")]
    found = mergery.evaluate(adapter, tasks)
    whole = mergery.evaluate(adapter.parent / "whole", tasks)
    assert found.scores == pytest.approx(whole.scores, rel=1e-5)
    for own, other in zip(found.tasks[1].items, whole.tasks[1].items, strict=True):
        assert own.details["text"] == other.details["text"]
    assert found.scores["t.perplexity"] != pytest.approx(
        mergery.evaluate(zoo / "base", tasks[:1]).scores["t.perplexity"], rel=1e-3
    )


def test_an_adapter_whose_base_is_elsewhere(adapter, zoo, write, tmp_path):
    shutil.copytree(adapter, tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "org/base"
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    task = write(texts(2))
    with pytest.raises(CheckpointError, match="the adapter's base is not here\n  why: it names 'org/base'"):
        mergery.evaluate(tmp_path / "lora", task)
    assert mergery.evaluate(tmp_path / "lora", task, base=zoo / "base").scores == mergery.evaluate(adapter, task).scores
    config["peft_type"] = "PREFIX_TUNING"
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="this adapter cannot be scored"):
        mergery.evaluate(tmp_path / "lora", task, base=zoo / "base")


def test_what_is_no_model(zoo, write, tmp_path):
    task = write(texts(1))
    with pytest.raises(CheckpointError, match="there is no such model folder"):
        mergery.evaluate(tmp_path / "none", task)
    shutil.copytree(zoo / "a", tmp_path / "bare", ignore=shutil.ignore_patterns("token*", "special*"))
    with pytest.raises(CheckpointError, match=r"there is no tokenizer(.|\n)*--tokenizer FOLDER"):
        mergery.evaluate(tmp_path / "bare", task)
    assert (
        mergery.evaluate(tmp_path / "bare", task, tokenizer=zoo / "a").scores
        == mergery.evaluate(zoo / "a", task).scores
    )
    (tmp_path / "bare" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"this model has no config.json"):
        mergery.evaluate(tmp_path / "bare", task)
    config = json.loads((zoo / "a" / "config.json").read_text()) | {"is_encoder_decoder": True}
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is a model of an encoder and a decoder"):
        mergery.evaluate(tmp_path / "bare", task)


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_never_run(part, zoo, write, tmp_path, monkeypatch):
    folder, trap = shutil.copytree(zoo / "a", tmp_path / "a"), tmp_path / "run"
    (folder / "code.py").write_text(f"open({str(trap)!r}, 'w')\n")
    own = {
        "config.json": {"model_type": "of_its_own", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}},
        "tokenizer_config.json": {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["code.T", "code.T"]}},
    }  # fmt: skip
    (folder / part).write_text(json.dumps(json.loads((folder / part).read_text()) | own[part]))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask at a terminal
    recipe = tmp_path / "r.yaml"
    recipe.write_text("models: {a: ./a}\nmerge: {method: passthrough}\n")
    for model in (folder, recipe):
        with pytest.raises(CheckpointError) as caught:
            mergery.evaluate(model, [write(texts(2))])
        assert "why: code that comes with a model is never run" in str(caught.value)
    assert not trap.exists()


def test_threads_are_chosen_and_given_back(zoo, write):
    before = torch.get_num_threads()
    seen = []
    task = write(texts(1))
    mergery.evaluate(
        zoo / "a", task, options=EvaluationOptions(threads=3), on_event=lambda _: seen.append(torch.get_num_threads())
    )
    assert set(seen) == {3}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"batch": 0}, "batch is 0"), ({"threads": -1}, "threads is -1"), ({"longest": 1}, "longest is 1"),
     ({"dtype": "float8"}, "unknown dtype 'float8'")],
)  # fmt: skip
def test_options_that_cannot_be(settings, says):
    with pytest.raises(RecipeError, match=says):
        EvaluationOptions(**settings)


def test_without_transformers_a_user_is_told_what_to_install(zoo, write, mergery, monkeypatch):
    monkeypatch.setattr("mergery.evaluation.loading.find_spec", lambda name: None)
    task = write(texts(3), "facts.jsonl")
    for command in (("evaluate",), ("compare", zoo / "b")):
        outcome = mergery(*command, zoo / "a", "--tasks", task, "--results", task.parent / "kept")
        assert outcome.code == 2
        assert "evaluation needs transformers" in outcome.err
        assert "try: pip install 'mergery[models]', or pip install transformers" in outcome.err
    assert not (task.parent / "kept").exists()


@pytest.mark.parametrize("items", [choices, texts, prompts])
def test_a_model_that_answers_nan_has_no_score(zoo, tmp_path, write, items):
    """NaN is neither more nor less than anything: the first choice would seem the likeliest, and token 0 the next."""
    shutil.copytree(zoo / "a", tmp_path / "a")
    weights = load_file(tmp_path / "a" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(weights, tmp_path / "a" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"task\.jsonl:\d: the model answers NaN"):
        mergery.evaluate(tmp_path / "a", write(items(3)))


def test_a_model_of_images_and_a_base_that_nothing_is_put_on_are_refused(zoo, tmp_path, write):
    from transformers import ViTConfig, ViTForImageClassification

    ViTForImageClassification(
        ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4)
    ).save_pretrained(tmp_path / "vit")
    with pytest.raises(CheckpointError, match="ViTConfig models have no language head in transformers"):
        mergery.evaluate(tmp_path / "vit", write(texts(2)), tokenizer=zoo / "a")
    with pytest.raises(RecipeError, match="is put on no base"):
        mergery.evaluate(zoo / "a", write(texts(2)), base=zoo / "base")
