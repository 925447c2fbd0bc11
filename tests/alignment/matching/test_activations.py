"""Activation matching: planted symmetries come back from what models say, fine-tunes stay as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mergery.alignment.matching.activations import ActivationMatching, Moments, match_mixed, measured
from mergery.alignment.matching.pairs import Models
from mergery.architecture.spaces import Attention
from mergery.errors import MergeryError
from mergery.recipe.aligning import KINDS, Align
from mergery.testing.families.making import fine_tune, load, logits, make
from mergery.testing.families.table import FAMILIES
from mergery.testing.symmetries import random_transform
from mergery.views.transforms import transformed, why_illegal
from tests.alignment.matching.test_weights import furthest
from tests.views.test_transforms import opened, written

BY_NAME = {family.name: family for family in FAMILIES}


def moments(one: np.ndarray, other: np.ndarray) -> Moments:
    made = Moments.empty(one.shape[1])
    for rows in (slice(0, 5), slice(5, None)):
        made.add(torch.from_numpy(one[rows]), torch.from_numpy(other[rows]))
    return made


def test_moments_are_those_of_all_tokens():
    draw = np.random.default_rng(0)
    one, other = draw.normal(2.0, 1.0, (50, 3)), draw.normal(-1.0, 3.0, (50, 3))
    other[:, 2] = 4.0  # a unit that says the same of every token
    made = moments(one, other)
    wanted = np.corrcoef(one.T, other[:, :2].T)[:3, 3:]
    assert np.allclose(made.correlation[:, :2], wanted)
    assert np.all(made.correlation[:, 2] == 0.0)
    assert np.allclose(made.covariance, np.cov(one.T, other.T, bias=True)[:3, 3:])


@pytest.mark.parametrize("seed", range(3))
def test_planted_heads_and_rotations_are_found(seed):
    """Four query heads on two key heads; the values of each key head are turned, and heads have changed places."""
    draw = np.random.default_rng(seed)
    own = Attention(4, 2, 3, "planes", ())
    says = draw.normal(size=(400, 4, 3)) * draw.uniform(0.5, 2.0, (4, 3))
    groups, queries = np.array([1, 0]), np.array([3, 2, 0, 1])
    turns = np.stack([np.linalg.qr(draw.normal(size=(3, 3)))[0] for _ in range(2)])
    theirs = np.empty_like(says)
    for place, head in enumerate(queries):
        theirs[:, head] = says[:, place] @ turns[place // 2]
    found = match_mixed(moments(says.reshape(400, -1), theirs.reshape(400, -1)), own, KINDS)
    assert np.array_equal(found.groups, groups)
    assert np.array_equal(found.queries, queries)
    assert found.vo is not None
    assert np.abs(found.vo - turns).max() < 0.05


def tokenized(folder: Path, llamas: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((llamas / "base" / name).read_bytes())
    return folder


def texts(folder: Path) -> str:
    draw = np.random.default_rng(0)
    rows = [" ".join(f"w{word}" for word in draw.integers(0, 100, 40)) for _ in range(24)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return "texts.jsonl"


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Gemma"])
def test_planted_symmetries_are_found_on_texts(name, tmp_path, llamas):
    """All but the matrices of values, of which a rotation is found: the function stays, and so do weights but for values."""
    folder = tokenized(make(BY_NAME[name], tmp_path / "model"), llamas)
    view, spaces = opened(folder)
    kinds = ("residual", "mlp", "heads", "qk")
    planted = tokenized(
        written(transformed(view, random_transform(spaces, 1, kinds), spaces), folder, tmp_path / "planted"), llamas
    )
    align = Align("reference", "activations", data=texts(tmp_path))
    for reference in (view, opened(fine_tune(folder, tmp_path / "tuned", 1))[0]):
        models = Models(reference, opened(planted)[0])
        matching = ActivationMatching(models, measured(models, align, tmp_path), kinds)
        transform = matching.run()
        assert not why_illegal(transform, models.spaces)
        if reference is view:
            assert furthest(view, transformed(models.model, transform, models.spaces)) < 1e-4
        else:
            assert matching.history[1] < 0.2 * matching.history[0]


def test_a_fine_tune_stays_as_it_is(tmp_path, llamas):
    base = tokenized(make(BY_NAME["Llama"], tmp_path / "model"), llamas)
    tuned = tokenized(fine_tune(base, tmp_path / "tuned", 1), llamas)
    models = Models(opened(base)[0], opened(tuned)[0])
    align = Align("reference", "activations", data=texts(tmp_path))
    assert ActivationMatching(models, measured(models, align, tmp_path)).run().is_identity


def test_from_the_command_line_to_the_same_answers(tmp_path, llamas, mergery, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts(tmp_path)
    for seed, name in enumerate(("a", "b")):
        tokenized(make(BY_NAME["Llama"], tmp_path / name, seed), llamas)
    words = ("align", tmp_path / "b", tmp_path / "out", "--to", tmp_path / "a", "--method", "activations")
    missing = mergery(*words)
    assert missing.code == 2
    assert "activations need data" in missing.err
    assert "--data texts.jsonl" in missing.err
    outcome = mergery(*words, "--data", tmp_path / "texts.jsonl", "--samples", 8, "--check")
    assert outcome.code == 0, outcome.err
    family = BY_NAME["Llama"]
    apart = logits(family, load(family, tmp_path / "b")[0]) - logits(family, load(family, tmp_path / "out")[0])
    assert float(apart.abs().max()) < 1e-5


def test_too_few_tokens_are_refused(tmp_path, llamas):
    base = tokenized(make(BY_NAME["Llama"], tmp_path / "model"), llamas)
    (tmp_path / "texts.jsonl").write_text('{"text": "w1"}\n')
    models = Models(opened(make(BY_NAME["Llama"], tmp_path / "other", 1))[0], opened(base)[0])
    align = replace(Align("reference", "activations"), data="texts.jsonl")
    with pytest.raises(MergeryError, match="tokens are too few"):
        ActivationMatching(models, measured(models, align, tmp_path)).run()
