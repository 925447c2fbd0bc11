"""Layers of one or several models on each other: by slices and by rule."""

import copy
import json

import pytest
import torch

from mergery.architecture.anatomy import RESIDUAL
from tests.conftest import tensors_of
from tests.views.shapes.conftest import FAMILIES, TOKENS, forward, load, logits, make, same

SOME = [
    "llama",
    "gemma2",
    "gemma3_text",
    "qwen3_moe",
    "qwen2_moe",
    "gpt2",
    "gpt_neo",
    "deepseek_v3",
    "smollm3",
    "mamba",
]


def stacking(stack: str, family: str) -> str:
    return f"models: {{m: ./{family}}}\nmerge: {{stack: {stack}}}\n"


@torch.no_grad()
def restacked_logits(folder, layers):
    """What transformers' own modules compute when they are put in another order."""
    model = load(folder)
    inner = model.base_model
    name = next(name for name in ("layers", "h") if hasattr(inner, name))
    modules = [copy.deepcopy(getattr(inner, name)[layer]) for layer in layers]
    for number, module in enumerate(modules):
        for part in module.modules():
            if hasattr(part, "layer_idx"):
                part.layer_idx = number
    setattr(inner, name, torch.nn.ModuleList(modules))
    config = model.config
    for key in ("layer_types", "no_rope_layers"):
        if isinstance(vars(config).get(key), list):
            setattr(config, key, [getattr(config, key)[layer] for layer in layers])
    config.num_hidden_layers = len(layers)
    return model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("family", SOME)
def test_stacked_files_compute_what_stacked_modules_do(family, merged, tmp_path):
    """Sliding windows, experts and dense layers, local attention and missing rotations go with their layers."""
    make(tmp_path / family, family)
    slices = "[{models: {m: 0-1}}, {models: {m: 1-3}}, {models: {m: 3}}]"
    layers = [0, 1, 1, 2, 3, 3]
    assert same(logits(merged(stacking(slices, family))), restacked_logits(tmp_path / family, layers), 1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe"])
def test_upscaling_lays_two_copies_on_each_other(family, merged, tmp_path):
    """SOLAR: the first copy without its last layers, the second without its first."""
    make(tmp_path / family, family)
    up = logits(merged(stacking("{upscale: m, drop: 1}", family)))
    assert same(up, restacked_logits(tmp_path / family, [0, 1, 2, 1, 2, 3]), 1e-5)


def test_solar_has_48_layers_of_32(mergery, tmp_path):
    make(tmp_path / "llama", "llama", num_hidden_layers=32, hidden_size=8, intermediate_size=8)
    (tmp_path / "recipe.yaml").write_text(stacking("{upscale: m, drop: 8}", "llama"))
    facts = json.loads(mergery("plan", tmp_path / "recipe.yaml", "--json").out)
    assert facts["output"]["layers"] == 48
    assert facts["changes"][0]["what"] == "layers 32 -> 48, 0-23 and 8-31"
    assert "train it further" in facts["changes"][0]["loses"]


@pytest.mark.parametrize("family", sorted(RESIDUAL))
def test_inserted_blocks_change_no_bit(family, merged, tmp_path):
    """LLaMA Pro: copies whose output projections are zero."""
    base = forward(make(tmp_path / family, family))
    assert torch.equal(logits(merged(stacking("{insert: m, every: 2}", family))), base)
    assert load(tmp_path / "out").config.num_hidden_layers == 6


def test_inserted_blocks_are_copies_with_silent_outputs(merged, tmp_path):
    make(tmp_path / "llama", "llama", num_hidden_layers=5)
    before, after = tensors_of(tmp_path / "llama"), tensors_of(merged(stacking("{insert: m, every: 2}", "llama")))
    for new, old in enumerate((0, 1, 1, 2, 3, 3, 4)):  # the last group is not whole
        for rest in ("self_attn.q_proj.weight", "mlp.up_proj.bias", "input_layernorm.weight"):
            assert torch.equal(after[f"model.layers.{new}.{rest}"], before[f"model.layers.{old}.{rest}"])
        for rest in ("self_attn.o_proj.weight", "self_attn.o_proj.bias", "mlp.down_proj.weight", "mlp.down_proj.bias"):
            assert bool(after[f"model.layers.{new}.{rest}"].any()) == (new not in (2, 5))


def test_a_grown_model_is_a_model_of_another_merge(merged, tmp_path):
    """The mean of a model with inserted blocks and itself is itself, as one recipe."""
    base = forward(make(tmp_path / "llama", "llama"))
    text = (
        "models:\n  m: ./llama\n  pro: {stack: {insert: m, every: 4}}\n  deep: {path: ./llama, convert: {layers: 5}}\n"
        "merge: {method: linear, models: [pro, deep]}\n"
    )
    assert torch.equal(logits(merged(text)), base)


def test_repeated_layers_can_be_damped(merged, tmp_path):
    make(tmp_path / "llama", "llama")
    scale = "scale: {where: {role: [attention.o, mlp.down]}, value: 0.5}"
    out = tensors_of(merged(stacking(f"[{{models: {{m: 0-3}}}}, {{models: {{m: 3}}, {scale}}}]", "llama")))
    for rest, factor in (("mlp.down_proj.weight", 0.5), ("self_attn.o_proj.weight", 0.5), ("mlp.up_proj.weight", 1.0)):
        assert torch.equal(out[f"model.layers.4.{rest}"], factor * out[f"model.layers.3.{rest}"])
    logits(tmp_path / "out")


def test_old_configs_of_gemma_3_say_the_window_by_a_number(merged, mergery, tmp_path):
    """From a period of 3, layers 0, 1, 2, 2, 3 are no period: a list takes its place."""
    folder = make(
        tmp_path / "gemma3_text", "gemma3_text", layer_types=["sliding_attention"] * 2 + ["full_attention"] * 2
    )
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["layer_types"]
    path.write_text(json.dumps(config | {"sliding_window_pattern": 3}))
    expected = restacked_logits(folder, [0, 1, 2, 2, 3])
    out = merged(stacking("[{models: {m: 0-2}}, {models: {m: 2-3}}]", "gemma3_text"))
    written = json.loads((out / "config.json").read_text())
    kinds = {"s": "sliding_attention", "f": "full_attention"}
    assert written["layer_types"] == [kinds[letter] for letter in "ssffs"]
    assert "sliding_window_pattern" not in written
    assert same(logits(out), expected, 1e-5)
    assert "sliding_window_pattern no longer holds" in " ".join(mergery("plan", tmp_path / "out.yaml").out.split())


def test_layers_keep_their_kind_from_models_of_other_depth(merged, tmp_path):
    """Layer 5 of a deeper model is a sliding one, whatever the donor's layer of this number would be."""
    make(tmp_path / "gemma2", "gemma2")
    make(tmp_path / "deep", "gemma2", seed=1, num_hidden_layers=7)
    text = "models: {m: ./gemma2, deep: ./deep}\nmerge: {stack: [{models: {m: 0-3}}, {models: {deep: 5-6}}]}\n"
    out = merged(text)
    assert [kind[0] for kind in load(out).config.layer_types] == list("sfsffs")
    logits(out)


@pytest.mark.parametrize(
    ("stack", "family", "words"),
    [
        ("{upscale: m, drop: 4}", "llama", "'m' has 4 layers, and the stack would leave out 4"),
        ("{insert: m, every: 5}", "llama", "'m' has 4 layers, and the stack would count 5"),
        ("{upscale: m}", "llama", "upscale needs 'drop'"),
        ("{insert: m, every: true}", "llama", "every is True"),
        ("{insert: x, every: 2}", "llama", "unknown model 'x'"),
        ("{upscale: m, every: 2}", "llama", "unknown key 'every'"),
        ("{grow: m}", "llama", "stack must be a list of slices, or a rule"),
        ("{upscale: m, drop: 1}, method: linear", "llama", "linear cannot upscale"),
        ("{insert: m, every: 2}", "bert", "of the family 'bert' it is not certain what silences a layer"),
        ("[{models: {m: 0-1}}]", "t5", "it has an encoder and a decoder"),
        ("[{models: {m: 0-2}}, {models: {m: 0-3}}]", "deepseek_v3", "first_k_dense_replace cannot describe this stack"),
    ],
)
def test_what_cannot_be_stacked_is_refused_at_its_place(stack, family, words, mergery, tmp_path):
    if family == "t5":
        from transformers import T5Config, T5ForConditionalGeneration

        sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 4}
        T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    else:
        make(tmp_path / family, family, is_decoder=True) if family == "bert" else make(tmp_path / family, family)
    path = tmp_path / "recipe.yaml"
    path.write_text(stacking(stack, family))
    outcome = mergery("merge", path, tmp_path / "out")
    assert outcome.code == 2
    assert words in outcome.err
    assert "recipe.yaml:2:" in outcome.err
    assert not (tmp_path / "out").exists()


def test_layers_that_predict_further_tokens_are_not_stacked(merged, mergery, tmp_path):
    """DeepSeek V3 stores them as one more layer of the stack."""
    from safetensors.torch import save_file

    base = forward(make(tmp_path / "deepseek_v3", "deepseek_v3"))
    folder = tmp_path / "deepseek_v3"
    tensors = tensors_of(folder)
    more = {f"model.layers.4.{n[15:]}": t.clone() for n, t in tensors.items() if n.startswith("model.layers.3.")}
    save_file(tensors | more | {"model.layers.4.eh_proj.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    out = merged(stacking("{insert: m, every: 4}", "deepseek_v3"))
    assert torch.equal(logits(out), base)
    assert json.loads((out / "config.json").read_text())["num_nextn_predict_layers"] == 0
    told = " ".join(mergery("plan", tmp_path / "out.yaml").out.split())
    assert "left out: m: layers 4" in told
    assert "num_nextn_predict_layers is 0 in the output" in told


def test_every_family_that_is_said_to_be_residual_is_tested():
    assert set(FAMILIES) >= RESIDUAL
