"""Sources that are the target in other coordinates come back as the target; and what the modes and switches do to them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.alignment.transport.planted import (
    DIM,
    GROUPS,
    HEADS,
    INNER,
    WIDTH,
    deepened,
    error,
    logits,
    permuted,
    save,
    small,
    widened,
)

Move = Callable[..., Path]
SOURCES: dict[str, Callable[[Any], Any]] = {
    "permuted": permuted,
    "wide": widened,
    "deep": lambda model: deepened(model, (0, 1)),
    "wide and deep": lambda model: widened(deepened(model, (0,))),
}


def moved(out: Path) -> dict[str, torch.Tensor]:
    """The transported weights that were kept beside an output."""
    folder = out.with_name(f"{out.name}.transported")
    return {key: value for file in sorted(folder.glob("*.safetensors")) for key, value in load_file(file).items()}


@pytest.mark.parametrize("kind", SOURCES)
def test_the_target_in_other_coordinates_comes_back(kind: str, move: Move) -> None:
    model = small()
    source = SOURCES[kind](model)
    assert error(logits(source), logits(model)) < 1e-5
    found = transformers.AutoModelForCausalLM.from_pretrained(move(source))
    state = model.state_dict()
    assert error(logits(found), logits(model)) < 0.01
    assert max(error(value, state[key]) for key, value in found.state_dict().items()) < 0.01


def test_means_of_prompts_and_a_larger_epsilon_find_it_less_sharply(move: Move) -> None:
    model = small()
    source = permuted(model)
    sharp, blurred = (
        error(
            logits(transformers.AutoModelForCausalLM.from_pretrained(move(source, rows="prompts", epsilon=epsilon))),
            logits(model),
        )
        for epsilon in (0.01, 0.1)
    )
    assert sharp < 0.07 < blurred < 0.9


def test_a_balanced_coupling_lets_idle_layers_leak_in(move: Move) -> None:
    model = small()
    source = deepened(model, (0, 1))
    found = transformers.AutoModelForCausalLM.from_pretrained(move(source, layers="balanced"))
    assert error(logits(found), logits(model)) > 0.3


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_fused_and_turned_matrices_and_biases_come_back(family: str, move: Move, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shared = {"vocab_size": 128, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1}
    model: Any
    if family == "qwen2":
        config = transformers.Qwen2Config(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            **shared,
        )
        model = transformers.Qwen2ForCausalLM(config)
    else:
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **shared)
        )
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "bias" in name:
                value.normal_(0, 0.3)
    folder = save(model.eval(), tmp_path / "model")
    out = move(folder, into=folder)
    found = transformers.AutoModelForCausalLM.from_pretrained(out)
    state = model.state_dict()
    assert max(error(value, state[key]) for key, value in found.state_dict().items()) < 0.01
    changed = moved(out)
    assert any(name.endswith("bias") for name in changed) and len(changed) >= 8


def test_a_share_of_none_is_the_target_to_the_bit(move: Move, target: Path) -> None:
    out = move(permuted(small()), alpha=0.0)
    before, after = (load_file(folder / "model.safetensors") for folder in (target, out))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_only_chosen_neurons_change_rows_of_all_but_columns_of_outputs(move: Move, target: Path) -> None:
    out = move(small(seed=9), alpha=0.3, neurons=5)
    before, after = (load_file(folder / "model.safetensors") for folder in (target, out))
    for name, value in before.items():
        differs = value != after[name]
        if "proj" not in name:
            assert not differs.any()
        elif "o_proj" in name or "down_proj" in name:
            assert differs.any(0).sum() == 5
        else:
            assert differs.any(1).sum() == 5


def test_fusion_is_convex_or_adds(move: Move, target: Path) -> None:
    source = small(seed=9)
    before = load_file(target / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    convex, added = move(source, alpha=0.25), move(source, alpha=0.25, fusion="residual")
    transported = moved(convex)[name]
    found, other = (load_file(out / "model.safetensors")[name] for out in (convex, added))
    assert error(found, 0.75 * before[name] + 0.25 * transported) < 1e-6
    assert error(other, before[name] + 0.25 * transported) < 1e-6


def test_what_is_learnt_since_is_added_alone(move: Move, target: Path, tmp_path: Path) -> None:
    """A permuted source whose weights moved by some change: the same change, permuted back, is added to the target."""
    model = small()
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if "up_proj" in name:
                value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(4)) * 0.01)
    base = save(permuted(model), tmp_path / "base")
    found = load_file(move(permuted(tuned), since=base) / "model.safetensors")
    before = load_file(target / "model.safetensors")
    for name, value in tuned.state_dict().items():
        assert error(found[name], value) < 1e-3
        if "up_proj" not in name:
            assert error(found[name], before[name]) < 1e-6


# --- the modes of the paper and of its code -------------------------------------------------------------------------------


def test_the_released_form_is_smaller_by_the_entries_of_a_matrix(move: Move) -> None:
    source = small(seed=9, layers=3)
    same = {"rows": "prompts", "layers": "argmin", "epsilon": 0.1, "iterations": 3000}
    found = {mode: moved(move(source, mode=mode, scale="none", **same)) for mode in ("normalised", "paper", "released")}
    sides = {
        "q_proj": (WIDTH, WIDTH),
        "k_proj": (GROUPS * DIM, WIDTH),
        "o_proj": (WIDTH, HEADS * DIM),
        "up_proj": (INNER, WIDTH),
    }
    for module, (outputs, inputs) in sides.items():
        name = f"model.layers.1.{'self_attn' if module != 'up_proj' else 'mlp'}.{module}.weight"
        size = {mode: float(each[name].norm()) for mode, each in found.items()}
        assert size["released"] / size["normalised"] == pytest.approx(1 / (outputs * inputs), rel=0.01)
        assert size["paper"] == pytest.approx(size["released"] / 2, rel=1e-4)  # the target has two layers


def test_the_modes_as_published_couple_all_layers_and_compare_prompts(move: Move) -> None:
    out = move(small(seed=9), mode="released", epsilon=None, neurons=5, modules=("attention",))
    facts = json.loads((out.with_name(f"{out.name}.transported") / "transport.json").read_text())
    told = facts["mark"]["options"]
    assert (told["rows"], told["layers"], told["epsilon"], told["scale"]) == ("prompts", "balanced", 0.1, "none")
    assert facts["rows"] == facts["texts"] and set(facts["layers"]) == {"q", "k", "v", "o"}


# --- controls -------------------------------------------------------------------------------------------------------------


def test_controls_shrink_or_match_at_random(move: Move, target: Path) -> None:
    model, before = small(), load_file(target / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    shrunk = load_file(move(permuted(model), alpha=0.1, control="shrink") / "model.safetensors")
    assert error(shrunk[name], 0.9 * before[name]) < 1e-6
    shuffled = moved(move(permuted(model), control="shuffled"))
    assert error(shuffled[name], before[name]) > 0.9
    assert 0.5 < float(shuffled[name].norm() / before[name].norm()) < 2.0
