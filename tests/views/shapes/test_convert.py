"""Models in another shape compute what they did, or say what they lose."""

import json
import re
from pathlib import Path

import pytest
import torch

from mergery.architecture.anatomy import ANATOMIES
from tests.conftest import tensors_of
from tests.views.shapes.conftest import FAMILIES, forward, load, logits, make, same

WIDER = "hidden_size: 48, intermediate_size: 160"
WIDTHS = [family for family in ANATOMIES if family != "gpt2"]


def converting(conversions: str, family: str = "llama") -> str:
    return f"models: {{m: {{path: ./{family}, convert: {{{conversions}}}}}}}\nmerge: {{method: passthrough}}\n"


def numbers(folder: Path) -> dict[str, set[float]]:
    """The numbers in a model's tensors, to the bit and without zero; tensors that differ by their layer alone together."""
    found: dict[str, set[float]] = {}
    for name, tensor in tensors_of(folder).items():
        found.setdefault(re.sub(r"\.\d+\.", ".", name), set()).update(tensor.flatten().tolist())
    return {name: values - {0.0} for name, values in found.items()}


@pytest.mark.parametrize("family", WIDTHS)
def test_each_width_grows_and_the_logits_stay(family, merged, tmp_path):
    """Channels from 32 to 48 scale the norms by sqrt(2/3), which float32 rounds; all else is copies and zeros."""
    base = forward(make(tmp_path / family, family))
    assert same(logits(merged(converting(f"kv_heads: 4, {WIDER}", family))), base)
    config = load(tmp_path / "out").config
    assert (config.num_key_value_heads, config.hidden_size, config.intermediate_size) == (4, 48, 160)
    assert config.head_dim == 8


@pytest.mark.parametrize("family", WIDTHS)
def test_what_is_only_copied_or_zero_is_exact_to_the_bit(family, merged, tmp_path):
    """The weights are; logits are sums over them, and how a longer sum is rounded is the processor's and torch's choice."""
    base = forward(make(tmp_path / family, family))
    assert same(logits(merged(converting("kv_heads: 4, intermediate_size: 160, layers: 6", family))), base)
    assert numbers(tmp_path / "out") == numbers(tmp_path / family)


def test_four_times_the_channels_is_exact_in_bfloat16(merged, mergery, tmp_path):
    """The gains of the norms are halved, which no format rounds."""
    base = forward(make(tmp_path / "llama", "llama", dtype=torch.bfloat16))
    text = converting("hidden_size: 128")
    assert same(logits(merged(text)), base)
    assert "gains of norms times 0.5 (exact)" in mergery("plan", tmp_path / "out.yaml").out
    (tmp_path / "twice.yaml").write_text(converting("hidden_size: 64"))
    loss = "loses what rounding scaled weights to bfloat16 takes"
    assert loss in " ".join(mergery("plan", tmp_path / "twice.yaml").out.split())


@pytest.mark.parametrize("family", [family for family in WIDTHS if family != "olmo2"])
def test_more_heads_of_zeros_change_no_answer(family, merged, tmp_path):
    """Four query heads on two key/value heads become eight on two, and then on four."""
    base = forward(make(tmp_path / family, family))
    assert same(logits(merged(converting("heads: 8, kv_heads: 4", family))), base)
    assert numbers(tmp_path / "out") == numbers(tmp_path / family)
    config = load(tmp_path / "out").config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 4, 8)


def test_heads_with_keys_of_their_own_bring_them_and_channels_grow_along(merged, tmp_path):
    base = forward(make(tmp_path / "llama", "llama", num_key_value_heads=4))
    assert same(logits(merged(converting("heads: 6, hidden_size: 48"))), base)
    query, key = (tensors_of(tmp_path / "out")[f"model.layers.0.self_attn.{each}_proj.weight"] for each in "qk")
    assert query.shape == key.shape == (48, 48)
    assert not query[32:].any() and not key[32:].any()


def test_gpt2_gets_more_neurons_and_layers(merged, tmp_path):
    base = forward(make(tmp_path / "gpt2", "gpt2"))
    assert same(logits(merged(converting("intermediate_size: 160, layers: 5", "gpt2"))), base)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "gpt2")
    assert load(tmp_path / "out").config.n_inner == 160


def test_key_value_heads_are_repeated_in_place(merged, tmp_path):
    make(tmp_path / "llama", "llama")
    name = "model.layers.1.self_attn.k_proj."
    out = tensors_of(merged(converting("kv_heads: 4")))
    for end in ("weight", "bias"):
        first, second = tensors_of(tmp_path / "llama")[name + end].split(8)
        assert torch.equal(out[name + end], torch.cat([first, first, second, second]))


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_fewer_key_value_heads_are_means(family, merged, tmp_path):
    """Phi 3 keeps queries, keys and values in one tensor; its queries stay as they are."""
    before = tensors_of(make(tmp_path / family, family, num_key_value_heads=4))
    after = tensors_of(merged(converting("kv_heads: 2", family)))
    if family == "phi3":
        name = "model.layers.2.self_attn.qkv_proj.weight"
        queries, keys, _ = before[name].split([32, 32, 32])
        assert torch.equal(after[name][:32], queries)
        got = after[name][32:48]
    else:
        keys, got = (tensors["model.layers.2.self_attn.k_proj.weight"] for tensors in (before, after))
    mean = keys.double().reshape(2, 2, 8, 32).mean(1).reshape(16, 32)
    torch.testing.assert_close(got.double(), mean, rtol=1e-6, atol=1e-9)
    assert load(tmp_path / "out").config.num_key_value_heads == 2


def test_means_of_repeated_heads_give_the_model_back(merged, tmp_path):
    make(tmp_path / "llama", "llama")
    merged(converting("kv_heads: 4"), "many")
    back = tensors_of(merged(converting("kv_heads: 2", "many"), "back"))
    before = tensors_of(tmp_path / "llama")
    assert all(torch.equal(back[name], before[name]) for name in before)


def test_layers_are_left_out_evenly(merged, tmp_path):
    make(tmp_path / "llama", "llama", num_hidden_layers=7)
    out, before = tensors_of(merged(converting("layers: 4"))), tensors_of(tmp_path / "llama")
    for new, old in enumerate((0, 2, 4, 6)):
        rest = "mlp.up_proj.weight"
        assert torch.equal(out[f"model.layers.{new}.{rest}"], before[f"model.layers.{old}.{rest}"])
    assert load(tmp_path / "out").config.num_hidden_layers == 4


def test_a_converted_model_merges_with_one_of_its_new_shape(merged, tmp_path):
    """Zeros meet the wide model's own numbers: a mean halves them."""
    make(tmp_path / "llama", "llama")
    make(tmp_path / "wide", "llama", seed=1, hidden_size=64, intermediate_size=96, num_key_value_heads=4, head_dim=8)
    text = (
        "models:\n  wide: ./wide\n  m: {path: ./llama, convert: {kv_heads: 4, intermediate_size: 96, hidden_size: 64}}\n"
        "merge: {method: linear, models: [wide, m]}\n"
    )
    merged(text)
    wide, small, out = (tensors_of(tmp_path / name) for name in ("wide", "llama", "out"))
    name = "model.layers.0.mlp.down_proj.weight"
    torch.testing.assert_close(out[name][:32, :48], (wide[name][:32, :48] + small[name]) / 2)
    torch.testing.assert_close(out[name][32:], wide[name][32:] / 2)
    logits(tmp_path / "out")


def test_plan_and_card_state_what_is_lost(merged, mergery, tmp_path):
    make(tmp_path / "llama", "llama", num_key_value_heads=4)
    card = (merged(converting("kv_heads: 1, intermediate_size: 64, layers: 3")) / "README.md").read_text()
    assert "m: key/value heads 4 -> 1, each the mean of 4; loses the differences between the heads" in card
    assert "m: inner neurons 48 -> 64, the new ones zero (exact)" in card
    assert "convert:\n      kv_heads: 1" in card
    outcome = mergery("plan", tmp_path / "out.yaml", "--json")
    changes = {change["what"]: change["loses"] for change in json.loads(outcome.out)["changes"]}
    assert changes["layers 4 -> 3, without 1"] == "what those did: train it further"
    assert "inner neurons 48 -> 64, the new ones zero (exact)" in mergery("plan", tmp_path / "out.yaml").out


@pytest.mark.parametrize(
    ("conversions", "family", "words"),
    [
        ("kv_heads: 3", "llama", "'m' cannot have 3 key/value heads"),
        ("intermediate_size: 40", "llama", "'m' cannot be narrowed to 40 neurons"),
        ("hidden_size: 16", "llama", "'m' cannot be narrowed to 16 channels"),
        ("hidden_size: 34", "llama", "multiple of the 4 attention heads"),
        ("heads: 8", "gpt2", "queries stand in columns of a fused tensor"),
        ("heads: 8", "olmo2", "one norm is over the queries of all heads"),
        ("heads: 2", "llama", "'m' cannot be narrowed to 2 heads"),
        ("heads: 6", "llama", "heads must divide the 32 channels"),
        ("heads: 2000000000", "llama", "2000000000 heads are more than 64 times the 4 of 'm'"),
        ("hidden_size: 48", "gpt2", "a layer norm takes off the mean of all channels"),
        ("kv_heads: 2", "gpt2", "every query head of 'm' must have its own keys and values"),
        ("kv_heads: 4", "falcon", "how its widths hang together is not known for the family 'falcon'"),
        ("kv_heads: 2.5", "llama", "kv_heads is 2.5"),
        ("layers: 0", "llama", "layers is 0"),
        ("layers: 2000000000", "llama", "2000000000 layers are more than 64 times the 4 of 'm'"),
        ("hidden_size: 2000000000", "llama", "2000000000 channels are more than 64 times the 32 of 'm'"),
        ("intermediate_size: 2000000000", "llama", "2000000000 neurons are more than 64 times the 48 of 'm'"),
        ("kv_head: 2", "llama", "did you mean 'kv_heads'?"),
        ("", "llama", "convert must be a mapping"),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(conversions, family, words, mergery, tmp_path):
    if (family in FAMILIES) and not (tmp_path / family).exists():
        make(tmp_path / family, family)
    path = tmp_path / "recipe.yaml"
    path.write_text(converting(conversions, family))
    outcome = mergery("merge", path, tmp_path / "out")
    wrong = (
        "kv_head:" if "kv_head:" in conversions else f"{conversions.partition(': ')[2]}}}}}" if conversions else "{}"
    )
    column = path.read_text().index(wrong) + 1  # a key where the key is wrong, else its value
    assert outcome.code == 2
    assert words in outcome.err
    assert f"recipe.yaml:1:{column}: " in outcome.err
    assert not (tmp_path / "out").exists()


def test_tensors_that_a_family_does_not_have_are_refused(mergery, tmp_path):
    from safetensors.torch import save_file

    folder = make(tmp_path / "llama", "llama")
    save_file(tensors_of(folder) | {"model.layers.0.adapter.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    (tmp_path / "recipe.yaml").write_text(converting("kv_heads: 4"))
    outcome = mergery("merge", tmp_path / "recipe.yaml", tmp_path / "out")
    assert outcome.code == 2
    assert "'m' has 'model.layers.0.adapter.weight', which its family does not" in outcome.err


def test_a_config_that_does_not_fit_the_weights_is_refused(mergery, tmp_path):
    path = make(tmp_path / "llama", "llama") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 64}))
    (tmp_path / "recipe.yaml").write_text(converting("kv_heads: 4"))
    outcome = mergery("merge", tmp_path / "recipe.yaml", tmp_path / "out")
    assert outcome.code == 2
    assert "does not have the shape that its config states" in outcome.err


def test_the_conversion_is_part_of_what_a_journal_stands_under(tmp_path):
    from mergery import api

    make(tmp_path / "llama", "llama")
    digests = set()
    for heads in (1, 2, 4):
        (tmp_path / "recipe.yaml").write_text(converting(f"kv_heads: {heads}"))
        plan = api.plan(tmp_path / "recipe.yaml")
        digests.add(plan.digest)
        plan.close()
    assert len(digests) == 3
