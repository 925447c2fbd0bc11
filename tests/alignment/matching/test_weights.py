"""Weight matching: planted symmetries come back, fine-tunes stay as they are, and no step makes it worse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery.alignment.matching.pairs import Models
from mergery.alignment.matching.units import Scores, identity
from mergery.alignment.matching.weights import KINDS, WeightMatching
from mergery.errors import MergeryError
from mergery.graph.view import View
from mergery.testing.families.making import fine_tune, make
from mergery.testing.families.table import FAMILIES, Family
from mergery.testing.symmetries import random_transform
from mergery.views.transforms import transformed, why_illegal
from tests.conftest import make_llama
from tests.views.test_transforms import opened, values, written

WANTED = ("Llama", "Qwen 2", "Gemma", "GPT-2", "Mixtral", "Qwen 3", "Phi 3", "GPT-NeoX", "OLMo 2", "Qwen 2 MoE", "BERT")
BY_NAME = {family.name: family for family in FAMILIES}


def planted(family: Family, root: Path, kinds: tuple[str, ...], seed: int = 1) -> tuple[View, View]:
    """A model, and the same in other coordinates."""
    folder = make(family, root / "model")
    view, spaces = opened(folder)
    changed = transformed(view, random_transform(spaces, seed, kinds), spaces)
    return view, opened(written(changed, folder, root / "planted"))[0]


def furthest(one: View, other: View) -> float:
    return max(float(np.abs(values(one.nodes[name]) - values(other.nodes[name])).max()) for name in one.nodes)


def check(reference: View, model: View) -> None:
    matching = WeightMatching(Models(reference, model))
    transform = matching.run()
    spaces = matching.models.spaces
    assert not why_illegal(transform, spaces)
    assert furthest(reference, transformed(model, transform, spaces)) < 1e-5
    assert matching.history[-1] < 1e-9 * matching.history[0]


@pytest.mark.parametrize("name", WANTED)
def test_all_symmetries_at_once_are_found(name, tmp_path):
    check(*planted(BY_NAME[name], tmp_path, KINDS))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_symmetry_is_found_by_itself(kind, tmp_path):
    reference, model = planted(BY_NAME["Mixtral"], tmp_path, (kind,))
    assert furthest(reference, model) > 0.01
    check(reference, model)


@pytest.mark.parametrize("name", WANTED)
def test_a_model_and_its_fine_tune_are_aligned_as_they_are(name, tmp_path):
    base = make(BY_NAME[name], tmp_path / "base")
    view = opened(base)[0]
    for other in (view, opened(fine_tune(base, tmp_path / "tuned", 1))[0]):
        assert WeightMatching(Models(view, other)).run().is_identity


def test_a_fine_tune_with_more_tokens_is_aligned_as_it_is(tmp_path):
    """Rows of tokens do not tell its channels then; the layers do."""
    base = make_llama(tmp_path / "base", 1)
    tensors = load_file(base / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], torch.randn(5, 32)])
    grown = tmp_path / "grown"
    grown.mkdir()
    save_file(tensors, grown / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (grown / "config.json").write_text(json.dumps({**config, "vocab_size": 133}))
    matching = WeightMatching(Models(opened(base)[0], opened(grown)[0]))
    assert matching.run().is_identity


def test_neurons_by_hand():
    """Two neurons with a gate (plain) and a value (signed): the first here is the second there, turned around."""
    scores = Scores(2, signs=True)
    one, other = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 2.0], [-2.0, 0.0]])
    scores.add(one, other, signed=True)
    scores.add(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]]), signed=False)
    units, gain = scores.solved(identity(2, signs=True))
    assert units.order.tolist() == [1, 0]
    assert units.signs is not None
    assert units.signs.tolist() == [-1.0, 1.0]
    assert gain == 5.0  # 2 + 2 + 1, and nothing before


def test_no_step_makes_it_worse_and_the_same_is_found_again(tmp_path):
    """Of two models from different seeds, of which much is left in the end."""
    one, other = (opened(make_llama(tmp_path / name, seed))[0] for seed, name in enumerate("ab"))
    matching, again = WeightMatching(Models(one, other)), WeightMatching(Models(one, other))
    transform = matching.run()
    history = np.array(matching.history)
    assert np.all(np.diff(history) <= 1e-9 * history[0])
    assert history[-1] < 0.9 * history[0]
    arrays, same = transform.arrays(), again.run().arrays()
    assert all(np.array_equal(array, same[name]) for name, array in arrays.items())


def test_spaces_that_are_not_wanted_stay(tmp_path):
    one, other = (opened(make_llama(tmp_path / name, seed))[0] for seed, name in enumerate("ab"))
    found = WeightMatching(Models(one, other), ("mlp",)).run()
    assert found.changed() == [f"layers.{layer}.mlp" for layer in range(4)]
    found = WeightMatching(Models(one, other), ("heads",)).run()
    assert all(heads.qk is None and heads.vo is None for heads in found.heads.values())


def test_models_that_do_not_match_are_refused(tmp_path):
    one = opened(make_llama(tmp_path / "a", 1))[0]
    wider = opened(make_llama(tmp_path / "b", 1, intermediate_size=96))[0]
    with pytest.raises(MergeryError, match=r"layers\.0\.mlp has 96 in model and 64 in model"):
        Models(one, wider)
    deeper = opened(make_llama(tmp_path / "c", 1, num_hidden_layers=5))[0]
    with pytest.raises(MergeryError, match="has 4 layers with attention, and"):
        Models(one, deeper)
