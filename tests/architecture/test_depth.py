"""Configs rewritten for another depth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergery.architecture.depth import _KINDS, Origin, attention_kinds, restack_config
from mergery.checkpoints.config import Config
from mergery.errors import PlanError


def restack(config, layers, depth):
    """The config of layers of one model."""
    return restack_config(Config(config), [Origin(config, layer, depth) for layer in layers], depth)


def test_per_layer_lists_follow_the_depth():
    config = {
        "num_hidden_layers": 4,
        "layer_types": ["a", "b", "c", "d"],
        "mlp_only_layers": [1, 3],
        "eos_token_id": [1, 2, 3, 4],
        "max_window_layers": 4,
    }
    restacked, warnings = restack(config, [0, 1, 2, 1, 2, 3], 4)
    assert restacked["num_hidden_layers"] == 6
    assert restacked["layer_types"] == ["a", "b", "c", "b", "c", "d"]
    assert restacked["mlp_only_layers"] == [1, 3, 5]
    assert restacked["eos_token_id"] == [1, 2, 3, 4]
    assert restacked["max_window_layers"] == 6
    assert not warnings
    assert config["num_hidden_layers"] == 4


def test_dense_layers_of_a_mixture_follow_the_depth():
    config = {"num_hidden_layers": 3, "first_k_dense_replace": 1}
    assert restack(config, [0, 0, 1, 2], 3)[0]["first_k_dense_replace"] == 2
    with pytest.raises(PlanError, match="first_k_dense_replace cannot describe this stack"):
        restack(config, [1, 0, 2], 3)


def test_gpt_neo_writes_patterns():
    config = {"num_layers": 4, "attention_types": [[["global", "local"], 2]]}
    restacked, _ = restack(config, [0, 1, 3], 4)
    assert restacked["attention_types"] == [[["global"], 1], [["local"], 1], [["local"], 1]]


@pytest.mark.parametrize("value", [["global"], [[["global"], "2"]], [[["global"], 10**9]], [[["global"], 1]]])
def test_patterns_that_make_no_sense_are_refused(value):
    with pytest.raises(PlanError, match="attention"):
        restack({"num_layers": 4, "attention_types": value}, [0, 1, 3], 4)


def test_periods_that_transformers_knows():
    """Where a config leaves the kinds of attention to a period, both read the same."""
    from transformers import CONFIG_MAPPING

    for family, kinds in _KINDS.items():
        for changes in ({}, {kinds.key: 3} if kinds.key else {}):
            config = CONFIG_MAPPING[family](num_hidden_layers=11, **changes)
            section = {"model_type": family, **changes}
            assert attention_kinds(section, 11) == config.layer_types, family


@pytest.mark.parametrize(
    ("config", "layers", "words"),
    [
        ({"first_k_dense_replace": 1}, [0, 1, 0, 2, 3], "first_k_dense_replace cannot"),
        ({"first_k_dense_replace": 0, "moe_layer_freq": 2}, [0, 1, 1, 2, 3], "first_k_dense_replace cannot"),
        ({"attn_layer_period": 2, "attn_layer_offset": 1}, [0, 1, 1, 2, 3], "attn_layer_period cannot"),
        ({"expert_layer_period": 2, "expert_layer_offset": 0}, [0, 2, 3], "expert_layer_period cannot"),
        ({"moe_layer_interval": 2, "moe_layer_start_index": 1}, [0, 1, 1, 2, 3], "moe_layer_interval cannot"),
        ({"use_cla": True, "cla_share_factor": 2}, [0, 1, 1, 2, 3], "cla_share_factor cannot"),
        ({"layer_group_size": 2}, [0, 0, 1, 2, 3], "layer_group_size cannot"),
        ({"num_kv_shared_layers": 2}, [0, 2, 1, 3], "num_kv_shared_layers cannot"),
        ({"num_kv_shared_layers": 2}, [2, 3], "num_kv_shared_layers cannot"),
        ({"hidden_size_per_layer_input": 8}, [0, 0, 1, 2, 3], "cannot be stacked"),
        ({"scale_attn_by_inverse_layer_idx": True}, [0, 2, 3], "cannot be moved"),
        ({"no_rope_layers": [0, 2]}, [0, 1, 2, 3], "gives the no_rope_layers of 2 layers, but there are 4"),
    ],
)
def test_what_a_config_cannot_say_is_refused(config, layers, words):
    with pytest.raises(PlanError, match=words):
        restack(config, layers, 4)


@pytest.mark.parametrize(
    ("config", "layers", "expected"),
    [
        ({"num_kv_shared_layers": 2}, [0, 1, 1, 2, 3, 3], {"num_kv_shared_layers": 3}),
        ({"use_cla": True, "cla_share_factor": 2}, [0, 1, 0, 1, 2, 3], {"cla_share_factor": 2}),
        ({"attn_layer_period": 2, "attn_layer_offset": 1}, [0, 1, 0, 1], {"attn_layer_period": 2}),
        ({"decoder_sparse_step": 2}, [0, 1, 0, 1, 2, 3], {"decoder_sparse_step": 2}),
        ({"decoder_sparse_step": 2}, [0, 1, 1, 3], {"decoder_sparse_step": 1, "mlp_only_layers": [0]}),
        (
            {"decoder_sparse_step": 2, "mlp_only_layers": [1]},
            [0, 1, 2, 3, 3],
            {"decoder_sparse_step": 1, "mlp_only_layers": [0, 1, 2]},
        ),
        ({"interleave_moe_layer_step": 2}, [0, 1, 2, 3, 3], {"moe_layers": [1, 3, 4]}),
        ({"moe_layers": [1, 3]}, [0, 1, 1, 2], {"moe_layers": [1, 2]}),
        ({"model_type": "smollm3"}, [0, 3, 3], {"no_rope_layers": [1, 0, 0]}),
        ({"moe_layer_freq": [0, 1, 1, 1], "first_k_dense_replace": 1}, [0, 0, 1], {"moe_layer_freq": [0, 0, 1]}),
        ({"intermediate_size": [8, 16, 24, 32]}, [0, 3], {"intermediate_size": [8, 32]}),
        ({"hybrid_override_pattern": "M-*-"}, [0, 1, 2, 2, 3], {"hybrid_override_pattern": "M-**-"}),
        ({"num_dense_layers": 2}, [0, 2, 3], {"num_dense_layers": 1}),
        (
            {"max_window_layers": 2, "use_sliding_window": True, "sliding_window": 8},
            [0, 1, 1, 2],
            {"max_window_layers": 3},
        ),
        (
            {"max_window_layers": 2, "use_sliding_window": True, "sliding_window": 8},
            [0, 2, 1, 3],
            {"layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]},
        ),
        ({"model_type": "gemma2"}, [0, 1, 0, 1, 2, 3], {"model_type": "gemma2"}),
        ({"sliding_window_pattern": "SF", "layer_types": list("sfsf")}, [0, 1, 1], {"layer_types": list("sff")}),
        ({"num_nextn_predict_layers": 1}, [0, 1], {"num_nextn_predict_layers": 0}),
    ],
)
def test_what_each_layer_is_goes_with_it(config, layers, expected):
    restacked, _ = restack(config, layers, 4)
    assert {key: restacked[key] for key in expected} == expected
    assert "layer_types" in expected or "layer_types" not in restacked


def test_each_layer_is_what_its_own_model_says():
    mine, theirs = {"layer_types": ["a", "b"]}, {"layer_types": ["c", "d", "e"]}
    origins = [Origin(mine, 1, 2), Origin(theirs, 2, 3)]
    assert restack_config(Config(mine), origins, 2)[0]["layer_types"] == ["b", "e"]
    with pytest.raises(PlanError, match="gives the layer_types of no layers, but there are 3"):
        restack_config(Config(mine), [Origin({}, 2, 3)], 2)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=12), st.integers(1, 5))
def test_a_period_becomes_the_list_that_it_stood_for(layers, period):
    """Whatever is written, period or list, each layer reads as the kind that it had."""
    config = {"model_type": "gemma3_text", "sliding_window_pattern": period}
    before = attention_kinds(config, 8)
    restacked, _ = restack(config, layers, 8)
    after = restacked.get("layer_types") or attention_kinds(restacked, len(layers))
    assert after == [before[layer] for layer in layers]
