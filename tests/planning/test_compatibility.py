"""Models that do not belong together are refused before any work, with the facts in which they differ."""

from __future__ import annotations

import json

import jsonschema
import pytest
import torch

from mergery import api
from mergery.architecture.facts import ALLOWABLE, meanings
from mergery.checkpoints.config import Config
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.errors import MergeryError, RecipeError
from mergery.planning.compatibility import config_differences
from mergery.recipe.schema import recipe_schema
from tests.conftest import make_llama, tensors_of

LLAMA = {
    "model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "hidden_act": "silu", "max_position_embeddings": 64,
}  # fmt: skip
WEIGHTS = {"model.layers.0.mlp.up_proj.weight": torch.ones(4, 8), "model.norm.weight": torch.ones(8)}


def plan_of(mine, theirs, **rest):
    models = {"base": MemoryCheckpoint(WEIGHTS, "base", mine), "other": MemoryCheckpoint(WEIGHTS, "other", theirs)}
    return api.plan({"models": models, "merge": {"method": "linear"}, **rest})


@pytest.mark.parametrize(
    ("key", "changes", "text"),
    [
        ("num_attention_heads", {"num_attention_heads": 4}, "num_attention_heads differs: base has 2, other has 4"),
        ("rope_theta", {"rope_theta": 5e5}, "rope_theta differs: base has 10000.0, other has 500000.0"),
        (
            "rope_scaling",
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            'rope_scaling differs: base has {}, other has {"rope_type": "linear", "factor": 4.0}',
        ),
        ("hidden_act", {"hidden_act": "gelu"}, 'hidden_act differs: base has "silu", other has "gelu"'),
        (
            "residual_multiplier",
            {"residual_multiplier": 0.22},
            "residual_multiplier differs: base has 1.0, other has 0.22",
        ),
        ("sliding_window", {"sliding_window": 16}, "sliding_window differs: base has null, other has 16"),
        ("layer_types", {"layer_types": ["sliding_attention"]}, "layer_types differs"),
        (
            "norm",
            {"rms_norm_eps": None, "layer_norm_eps": 1e-6},
            'norm differs: base has "RMSNorm", other has "LayerNorm"',
        ),
        ("logits_scaling", {"logits_scaling": 8.0}, "logits_scaling differs: base has 1.0, other has 8.0"),
    ],
)
def test_what_changes_the_meaning_of_weights_is_refused_and_can_be_allowed(key, changes, text):
    base = {
        **LLAMA, "residual_multiplier": 1.0, "logits_scaling": 1.0, "sliding_window": None, "layer_types": ["full_attention"],
    }  # fmt: skip
    other = {
        name: value for name, value in {**base, **changes}.items() if value is not None or name == "sliding_window"
    }
    with pytest.raises(MergeryError, match="'base' and 'other' use their weights differently") as error:
        plan_of(base, other)
    assert text in str(error.value)
    assert f"allow: [{key}" in str(error.value)
    assert key in ALLOWABLE
    allow = [fact for fact, _, _ in config_differences(Config(base), Config(other)) if fact in ALLOWABLE]
    assert any(text in warning for warning in plan_of(base, other, allow=allow).warnings)


def test_lesser_differences_are_warnings():
    plan = plan_of(LLAMA, {**LLAMA, "max_position_embeddings": 128, "eos_token_id": 5, "rms_norm_eps": 1e-5})
    text = "\n".join(plan.warnings)
    assert "max_position_embeddings differs: base has 64, other has 128; the output takes its donor's" in text
    assert "rms_norm_eps differs" in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 1e4}, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", "factor": 8.0}},
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}},
        ),
        (
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None},
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }
            },
        ),
        ({"n_embd": 8, "n_head": 2}, {"hidden_size": 8, "num_attention_heads": 2, "head_dim": 4}),
        ({"sliding_window": 4096, "use_sliding_window": False}, {"sliding_window": None}),
        ({"torch_dtype": "float16"}, {"dtype": "bfloat16"}),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
            {"rope_theta": 1e4, "rope_scaling": None},
        ),
        ({"layer_types": ["full_attention"] * 2}, {"layer_types": ["full_attention"] * 3}),
    ],
)
def test_two_spellings_of_one_fact_are_equal(old, new):
    assert not config_differences(Config(old), Config(new))
    shared = set(meanings(Config(old))) & set(meanings(Config(new)))
    assert shared or "torch_dtype" in old


def test_families_that_are_not_one_are_refused_and_can_be_allowed():
    with pytest.raises(MergeryError, match="the models are of different families") as error:
        plan_of(LLAMA, {**LLAMA, "model_type": "mistral"})
    assert "base is llama, other is mistral" in str(error.value)
    assert plan_of(LLAMA, {**LLAMA, "model_type": "mistral"}, allow=["model_type"]).steps


def test_allow_is_strict():
    with pytest.raises(RecipeError, match="no difference is called 'rope_teta'") as error:
        plan_of(LLAMA, LLAMA, allow=["rope_teta"])
    assert "did you mean 'rope_theta'?" in str(error.value)
    with pytest.raises(RecipeError, match="allow must be a list"):
        plan_of(LLAMA, LLAMA, allow="rope_theta")


def test_the_command_refuses_before_it_writes(mergery, recipe, tmp_path):
    make_llama(tmp_path / "base", 0)
    make_llama(tmp_path / "far", 1, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    text = "models: {base: ./base, far: ./far}\nmerge: {method: linear}\n"
    outcome = mergery("merge", recipe(text), tmp_path / "out")
    assert outcome.code == 2
    assert "rope_theta differs: base has 10000.0, far has 500000.0" in outcome.err
    assert not (tmp_path / "out").exists()
    assert mergery("merge", recipe(text + "allow: [rope_theta]\n"), tmp_path / "out").code == 0


def test_the_schema_knows_parts_and_allowed_differences():
    validator = jsonschema.Draft202012Validator(recipe_schema())
    weight = {"value": 0.5, "where": {"part": "vision", "role": "linear"}}
    data = {"models": {"a": "x", "b": "y"}, "merge": {"method": "linear", "weight": weight}, "allow": ["rope_theta"]}
    assert validator.is_valid(data)
    assert not validator.is_valid({**data, "allow": ["rope"]})
    weight["where"]["part"] = "eyes"
    assert not validator.is_valid(data)


def test_the_vision_tower_counts():
    mine = {"model_type": "llava", "text_config": LLAMA, "vision_config": {"patch_size": 14, "num_attention_heads": 4}}
    theirs = {**mine, "vision_config": {"patch_size": 16, "num_attention_heads": 4}}
    with pytest.raises(MergeryError, match=r"vision.patch_size differs: base has 14, other has 16"):
        plan_of(mine, theirs)


def merged(weights, config, merge, out):
    models = {name: MemoryCheckpoint(each, name, config) for name, each in weights.items()}
    plan = api.merge({"models": models, "merge": merge}, out).plan
    return tensors_of(out), "\n".join(plan.warnings)


def test_norms_that_are_offsets_are_averaged_where_others_turn(tmp_path):
    torch.manual_seed(0)
    names = ("model.layers.0.input_layernorm.weight", "model.layers.0.mlp.up_proj.weight")
    weights = {model: {name: torch.randn(6, 4) for name in names} for model in "ab"}
    merge = {"method": "slerp", "t": 0.25}
    plain, _ = merged(weights, {"model_type": "llama"}, merge, tmp_path / "llama")
    gemma, said = merged(weights, {"model_type": "gemma2"}, merge, tmp_path / "gemma")
    a, b = (weights[model][names[0]] for model in "ab")
    assert torch.allclose(gemma[names[0]], 0.75 * a + 0.25 * b, atol=1e-6)
    assert not torch.allclose(plain[names[0]], gemma[names[0]], atol=1e-3)
    assert torch.equal(plain[names[1]], gemma[names[1]])
    assert "1 tensors are norms stored as offsets from one" in said


def test_buffers_are_copied_and_the_plan_says_so(tmp_path):
    torch.manual_seed(0)
    names = ("model.layers.0.mlp.gate.e_score_correction_bias", "model.layers.0.mlp.gate.weight")
    weights = {model: {name: torch.randn(6) for name in names} for model in ("base", "a", "b")}
    merge = {"method": "task_arithmetic", "base": "base"}
    out, said = merged(weights, {"model_type": "deepseek_v3"}, merge, tmp_path / "out")
    assert torch.equal(out[names[0]], weights["base"][names[0]])
    assert not torch.equal(out[names[1]], weights["base"][names[1]])
    assert f"1 tensors are buffers: they are copied, not merged (such as {names[0]!r})" in said


def test_state_space_parameters_and_low_rank_factors_have_a_remark():
    weights = {
        "model.layers.0.mixer.A_log": torch.ones(4),
        "model.layers.0.self_attn.kv_b_proj.weight": torch.ones(4, 4),
    }
    models = {name: MemoryCheckpoint(weights, name, {"model_type": "x"}) for name in "ab"}
    text = "\n".join(api.plan({"models": models, "merge": {"method": "linear"}}).warnings)
    assert "1 parameters in log space are merged as stored: an average of logarithms is a geometric mean" in text
    assert "1 low-rank factors of attention are merged one by one" in text


@pytest.mark.parametrize(
    ("family", "said", "text"),
    [
        ("llama", {"rope_theta": 1e6}, "rope_theta differs: base has 10000.0, other has 1000000.0"),
        ("mixtral", {"rope_theta": 1e4}, "rope_theta differs: base has 1000000.0, other has 10000.0"),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_theta differs"),
        (
            "llama",
            {"rope_scaling": {"type": "yarn", "factor": 16.0}},
            'rope_scaling differs: base has {}, other has {"rope_type": "yarn", "factor": 16.0}',
        ),
        ("llama", {"hidden_act": "gelu"}, 'hidden_act differs: base has "silu", other has "gelu"'),
        ("gemma", {"head_dim": 128}, "head_dim differs: base has 256, other has 128"),
        ("mistral", {"sliding_window": None}, "sliding_window differs: base has 4096, other has null"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 64},
            "sliding_window differs: base has null, other has 64",
        ),
        ("granite", {"residual_multiplier": 0.22}, "residual_multiplier differs: base has 1.0, other has 0.22"),
        ("mixtral", {"num_experts_per_tok": 1}, None),
        ("llama", {"rms_norm_eps": 1e-5}, None),
    ],
)
def test_an_absent_key_is_its_default(family, said, text):
    """What transformers takes where a config says nothing; `null` under rope_scaling says that there is none."""
    silent = {"model_type": family, "hidden_size": 8, "num_attention_heads": 2}
    if text is None:  # a difference that is no fault
        plan = plan_of(silent, silent | said)
        assert any(warning.startswith(f"{next(iter(said))} differs") for warning in plan.warnings)
        return
    with pytest.raises(MergeryError, match="use their weights differently") as error:
        plan_of(silent, silent | said)
    assert text in str(error.value)
    with pytest.raises(MergeryError):
        plan_of({**silent, "rope_scaling": None}, silent | said)


@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma3_text", "modernbert", "qwen2", "granite", "gpt_neox"])
def test_a_default_that_is_written_out_is_no_difference(family):
    """The config that transformers writes says all; one that says no more than the sizes means the same."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[family]()
    sizes = ("model_type", "hidden_size", "num_attention_heads", "num_key_value_heads")
    whole = config.to_dict()
    silent = {key: whole[key] for key in sizes if key in whole}
    differing = [key for key, *_ in config_differences(Config(silent), Config(whole)) if key in ALLOWABLE]
    assert not differing


def test_the_defaults_are_those_of_transformers():
    import transformers
    from benchmarks.defaults import TABLE, text

    made_by = json.loads(TABLE.read_text())[""]["transformers"]
    if made_by != transformers.__version__:
        pytest.skip(f"the table is of transformers {made_by}, and {transformers.__version__} is here")
    assert TABLE.read_text() == text(), "python -m benchmarks.defaults writes it"
