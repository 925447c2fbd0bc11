"""How task vectors meet: measures worked by hand, and from the command line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import mergery as library
from mergery.errors import PlanError
from mergery.report.interference import SIDE, conflict, interference, meeting


def outer(i: int, j: int, size: int = 6) -> torch.Tensor:
    matrix = torch.zeros(size, size)
    matrix[i, j] = 1.0
    return matrix


def test_task_vectors_that_share_nothing():
    found = meeting([outer(0, 0), outer(1, 1), outer(2, 2)])
    assert found["cosine"] == found["inputs"] == found["outputs"] == found["heads"] == 0.0
    assert found["rank"] == pytest.approx(1 / 6)
    assert found["conflict"] == 0.5  # no entry is large in two


def test_one_input_two_outputs():
    found = meeting([outer(0, 3), outer(1, 3)])
    assert found["inputs"] == pytest.approx(1.0)
    assert found["outputs"] == found["cosine"] == 0.0


def test_equal_and_opposite():
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(12, 8, generator=generator)
    same, against = meeting([vector, 3.0 * vector]), meeting([vector, -vector])
    for name in ("cosine", "inputs", "outputs", "heads", "tails"):
        assert same[name] == pytest.approx(1.0, abs=1e-5)
    assert same["conflict"] == 0.0
    assert against["conflict"] == 1.0
    assert against["cosine"] == pytest.approx(-1.0, abs=1e-5)
    assert against["inputs"] == pytest.approx(1.0, abs=1e-5)


def test_a_head_that_is_shared_and_tails_that_are_not():
    found = meeting([3.0 * outer(0, 0) + outer(1, 1), 3.0 * outer(0, 0) + outer(2, 2)])
    assert found["heads"] == pytest.approx(1.0)
    assert found["tails"] == pytest.approx(0.0, abs=1e-6)
    assert found["cosine"] == pytest.approx(0.9)


def test_signs_count_where_both_are_large():
    one = torch.tensor([[5.0, 4.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]])
    other = torch.tensor([[5.0, -4.0, -0.1, -0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]])
    assert float(conflict(one, other)) == 0.5


def test_models_adapters_and_words(mergery, llamas):
    outcome = mergery("inspect", llamas / "base", llamas / "a", llamas / "b", "--interference")
    assert outcome.code == 0
    assert "2 task vectors, 28 matrices" in outcome.out
    facts = json.loads(mergery("inspect", llamas / "base", llamas / "a", llamas / "b", "--interference", "--json").out)[
        "interference"
    ]
    assert facts == library.inspect(llamas / "base", [llamas / "a", llamas / "b"], interference=True)["interference"]
    assert abs(facts["cosine"]) < 0.1  # of noise
    assert facts["conflict"] == pytest.approx(0.5, abs=0.05)


def test_few_matrices_of_many(llamas):
    models = [llamas / "a", llamas / "b"]
    assert interference(llamas / "base", models, most=5).matrices == 5


def test_one_fine_tune_and_none_that_differs(mergery, llamas):
    outcome = mergery("inspect", llamas / "base", llamas / "a", "--interference")
    assert outcome.code == 2
    assert "two fine-tunes or more" in outcome.err
    assert "try: mergery inspect" in outcome.err
    with pytest.raises(PlanError, match="the base in every matrix"):
        interference(llamas / "base", [llamas / "base", llamas / "a"])


def test_a_large_matrix_is_looked_at_in_part(tmp_path):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2 * SIDE, 16, generator=generator)
    for name in ("base", "one", "other"):
        (tmp_path / name).mkdir()
        change = torch.zeros_like(weight)
        change[::2] += 0.01 * torch.randn(SIDE, 16, generator=generator) if name != "base" else 0.0
        save_file({"layers.0.mlp.up_proj.weight": weight + change}, tmp_path / name / "model.safetensors")
    found = interference(tmp_path / "base", [tmp_path / "one", tmp_path / "other"])
    assert found.matrices == 1
    assert load_file(tmp_path / "base/model.safetensors")["layers.0.mlp.up_proj.weight"].shape == (2 * SIDE, 16)
    assert found.size == pytest.approx(0.01, rel=0.05)
