"""Inputs that are no plain models, and what is said of files that the output does not get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery import api
from mergery.errors import MergeryError, Problems

CONFIG = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": 12, "tie_word_embeddings": False,
}  # fmt: skip
PEFT = "base_model.model.model.layers.0.self_attn.q_proj"


def model(folder: Path, seed: int, config: dict | None = None, **more: torch.Tensor) -> Path:
    """A Llama of one layer, with further tensors."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (12, 8), "model.norm.weight": (8,), "lm_head.weight": (12, 8)}
    shapes |= {f"model.layers.0.self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"}
    folder.mkdir(parents=True)
    tensors = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    save_file(tensors | {name.replace("__", "."): value for name, value in more.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    return folder


def adapter(folder: Path, **said: object) -> Path:
    folder.mkdir(parents=True)
    factors = {f"{PEFT}.lora_A.weight": torch.ones(4, 8), f"{PEFT}.lora_B.weight": torch.ones(8, 4)}
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder


def tokenizer(folder: Path, count: int, template: str = "") -> None:
    words = {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(count)}, "unk_token": "w0"}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    data = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, **parts, "model": words}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def refused(sources: dict, **merge: object) -> str:
    with pytest.raises(MergeryError) as caught:
        api.plan({"models": sources, "merge": {"method": "linear", **merge}})
    assert not isinstance(caught.value, Problems), "one cause, one message"
    return str(caught.value).removeprefix("recipe: ")


def warnings(models: dict, **recipe: object) -> str:
    plan = api.plan({"models": models, "merge": {"method": "linear"}, **recipe})
    plan.close()
    return "\n".join(plan.warnings)


NAME_ITS_MODEL = "name the model that it was made for before it, with a +, as in"
FACTORS = "factors that are averaged one by one give another product"


def test_an_adapter_is_answered_as_one_and_the_model_is_not_blamed(tmp_path):
    a, b = model(tmp_path / "a", 1), adapter(tmp_path / "b", r=4, lora_alpha=8, base_model_name_or_path="org/x")
    for place in (b, b / "adapter_model.safetensors"):
        assert refused({"a": str(a), "b": str(place)}) == (
            f"'b' is an adapter, not a model\n  why: LoRA of rank 4, alpha 8, on q_proj, for org/x; {FACTORS}\n"
            f"  try: {NAME_ITS_MODEL} b: org/x+{place}"
        )
    assert refused({"b": str(b), "a": str(a)}, method="task_arithmetic", base="b").startswith("'b' is an adapter")
    stage = {"a": str(a), "b": str(b), "both": {"method": "linear", "models": ["a", "b"]}}
    assert refused(stage, method="linear", models=["a", "both"]).startswith("'b' is an adapter")


def test_several_adapters_are_one_message(tmp_path):
    models = {"a": str(adapter(tmp_path / "a", lora_alpha=8)), "b": str(adapter(tmp_path / "b", lora_alpha=32))}
    hint = f"{NAME_ITS_MODEL} a: MODEL+{models['a']}"
    facts = "LoRA of rank 4, alpha 8, on q_proj; b is LoRA of rank 4, alpha 32, on q_proj"
    assert refused(models) == f"'a', 'b' are adapters, not models\n  why: a is {facts}; {FACTORS}\n  try: {hint}"


def test_a_hint_has_the_paths_of_the_recipe_and_the_model_first(tmp_path):
    model(tmp_path / "a", 1)
    adapter(tmp_path / "lora")
    (tmp_path / "recipes").mkdir()
    for path, said in (("../lora", "MODEL+../lora"), ("../lora+../a", "../a+../lora")):
        recipe = tmp_path / "recipes/r.yaml"
        recipe.write_text(f"models: {{a: ../a, b: {path}}}\nmerge: {{method: linear}}\n")
        with pytest.raises(MergeryError) as caught:
            api.plan(recipe)
        assert str(caught.value).endswith(f"b: {said}"), path


def test_an_adapter_of_image_tools_and_one_beside_its_model(tmp_path):
    kohya = {"lora_unet_q.lora_down.weight": torch.ones(4, 8), "lora_unet_q.lora_up.weight": torch.ones(8, 4)}
    for name in "ab":
        save_file(kohya | {"lora_unet_q.alpha": torch.tensor(1.0)}, tmp_path / f"{name}.safetensors")
    text = refused({name: str(tmp_path / f"{name}.safetensors") for name in "ab"})
    assert text.endswith(f"try: {NAME_ITS_MODEL} a: MODEL+{tmp_path / 'a.safetensors'}")
    save_file({"lora_unet_q.hada_w1_a": torch.ones(4, 8)}, tmp_path / "b.safetensors")
    text = refused({"b": str(tmp_path / "b.safetensors")})
    assert text.endswith("try: merge it into its model first, with the tool that trained it, and name that folder")
    inner = "model.layers.0.self_attn.q_proj"
    beside = {f"{inner}.base_layer.weight": torch.ones(8, 8), f"{inner}.lora_A.default.weight": torch.ones(4, 8)}
    text = refused({"a": str(model(tmp_path / "a", 1)), "b": str(model(tmp_path / "b", 2, **beside))})
    assert text.startswith("'b' has an adapter beside its weights\n")
    assert text.endswith(
        "try: merge it in first: peft's merge_and_unload(), then save_pretrained(), and name that folder"
    )


# --- quantised ------------------------------------------------------------------------------------


def test_quantised_files_are_one_message_whatever_the_config_says(tmp_path):
    a = model(tmp_path / "a", 1)
    b = model(tmp_path / "b", 2, model__layers__0__mlp__up_proj__SCB=torch.ones(8))
    assert refused({"a": str(a), "b": str(b)}) == (
        "the model 'b' is quantised (bitsandbytes, int8)\n  why: it stores 'model.layers.0.mlp.up_proj.SCB'\n"
        "  try: use its bfloat16, float16 or float32 version; this layout is not decoded"
    )


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_what_a_config_has_left_from_a_quantised_base_is_left_out(order, tmp_path):
    scheme = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    folders = {"a": model(tmp_path / "a", 1), "b": model(tmp_path / "b", 2, scheme)}
    models = {name: str(folders[name]) for name in order}
    said = (
        "b: config.json has a quantization_config (bitsandbytes), but its weights are plain numbers; "
        "it is left out of the output"
    )
    assert said in warnings(models)
    api.merge({"models": models, "merge": {"method": "linear"}}, tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    name = "lm_head.weight"
    a, b, out = (load_file(folder / "model.safetensors")[name] for folder in (*folders.values(), tmp_path / "out"))
    assert torch.equal(out, (a + b) / 2)


# --- files ----------------------------------------------------------------------------------------


def test_files_that_are_left_behind_are_named(tmp_path):
    folders = {name: model(tmp_path / name, seed) for seed, name in enumerate("abc")}
    for name in "bc":
        (folders[name] / "trainer_state.json").write_text("{}")
        (folders[name] / "images").mkdir()
        (folders[name] / "README.md").write_text("a card")
    (folders["a"] / "NOTICE").write_text("x")
    (folders["a"] / "modeling_x.py").write_text("x")
    (folders["c"] / "preprocessor_config.json").write_text("{}")
    (folders["c"] / "adapter_config.json").write_text("{}")
    models = {name: str(folder) for name, folder in folders.items()}
    plan = api.plan({"models": models, "merge": {"method": "linear"}})
    assert plan.warnings == (
        "b, c: state of training left behind: trainer_state.json",
        "b, c: left behind: images/",
        "c: left behind: preprocessor_config.json; files beside the weights come from a, which has none of that name",
        "c: adapter_config.json left behind: it would load an adapter upon the merged model",
    )
    api.merge(plan, tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"NOTICE", "modeling_x.py", "README.md"}
    assert not written & {"adapter_config.json", "trainer_state.json", "images", "preprocessor_config.json"}


def test_tokens_without_rows_are_a_warning_and_can_be_left_out(tmp_path):
    models = {name: str(model(tmp_path / name, seed)) for seed, name in enumerate("ab")}
    for folder in models.values():
        tokenizer(Path(folder), 14)
    said = (
        "the tokenizer has 2 tokens (such as 'w12', 'w13') without rows: the embeddings have 12 rows, so that text with them "
        "fails, and converters too; output: {tokenizer: a} leaves them out"
    )
    assert said in warnings(models)
    assert "without rows" not in warnings(models, output={"tokenizer": "a"})
    facts = api.inspect(models["a"])
    assert "the tokenizer has 2 tokens (such as 'w12', 'w13') without rows: the embeddings have 12" in facts["remarks"]
    tokenizer(Path(models["a"]), 13)
    tokenizer(Path(models["b"]), 13)
    assert "the token 'w12' without a row: the embeddings have 12 rows, so that text with it fails" in warnings(models)


def test_an_output_without_a_chat_template_that_models_have(tmp_path):
    models = {name: str(model(tmp_path / name, seed)) for seed, name in enumerate(("base", "a", "b"))}
    tokenizer(Path(models["base"]), 12)
    for name in "ab":
        tokenizer(Path(models[name]), 12, "{{ messages }}")
    assert (
        "the output has no chat template, and 'a', 'b' have one; output: {chat_template: a} takes it along"
        in warnings(models)
    )
    assert "chat template" not in warnings(models, output={"chat_template": "a"})


def test_an_output_without_a_tokenizer_that_a_model_has(tmp_path):
    models = {name: str(model(tmp_path / name, seed)) for seed, name in enumerate("ab")}
    assert warnings(models) == ""
    tokenizer(Path(models["b"]), 12, "{{ messages }}")
    assert warnings(models) == (
        "the output has no tokenizer, because a has none, and 'b' has one; output: {tokenizer: b} takes it along"
    )
    assert "the output has no tokenizer" not in warnings(models, output={"tokenizer": "b"})
    api.merge({"models": models, "merge": {"method": "linear"}, "output": {"tokenizer": "b"}}, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").exists()
