"""Configs rewritten for another depth."""

import pytest

from weft.depth import Origin, restack_config
from weft.errors import PlanError


def restack(config, layers, depth):
    """The config of layers of one model."""
    return restack_config(config, [Origin(config, layer, depth) for layer in layers], depth)


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
