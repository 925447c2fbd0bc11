"""Runs that were killed go on; what is learnt is an ordinary recipe; what cannot be learnt is refused."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mergery as library
from mergery.calibration.learning import descent, running
from mergery.calibration.learning.weights import Weights, exactly
from tests.calibration.learning.conftest import SUM, weights_of


def test_a_run_that_was_killed_goes_on(recipe, run, tmp_path, monkeypatch):
    path = recipe("llama")
    assert run(path, "--steps", 12, out="whole.yaml").code == 0
    steps, moved = [], Weights.move

    def move(self, gradient, rate):
        if len(steps) == 7:
            raise RuntimeError("the power is cut")
        steps.append(self.step)
        moved(self, gradient, rate)

    monkeypatch.setattr(Weights, "move", move)
    monkeypatch.setattr(descent, "EVERY", -1.0)
    with pytest.raises(RuntimeError):
        run(path, "--steps", 12)
    monkeypatch.setattr(Weights, "move", moved)
    assert (tmp_path / "learned.yaml.learning").is_dir()
    outcome = run(path, "--steps", 12)
    assert outcome.code == 0 and "going on: 7 steps are done" in outcome.err
    assert (tmp_path / "learned.yaml").read_bytes() == (tmp_path / "whole.yaml").read_bytes()
    assert run(path, "--steps", 12, "--seed", 1, "--batch", 2, out="other.yaml").code == 0
    assert weights_of(tmp_path / "other.yaml") != weights_of(tmp_path / "whole.yaml")


def test_what_another_run_has_left_is_not_taken_up(recipe, run, tmp_path, monkeypatch):
    path = recipe("llama")

    def stop(*arguments):
        raise RuntimeError("the power is cut")

    with monkeypatch.context() as patch:
        patch.setattr(running, "descend", stop)
        with pytest.raises(RuntimeError):
            run(path, "--steps", 3)
    assert run(path, "--steps", 4).code == 0
    (tmp_path / "other.yaml.learning").mkdir()
    outcome = run(path, out="other.yaml")
    assert outcome.code == 2 and "stands in the way" in outcome.err


def test_the_recipe_is_right_from_where_it_is_written(recipe, run, mergery, tmp_path):
    (tmp_path / "deep").mkdir()
    outcome = run(recipe("llama"), "--steps", 1, out="deep/learned.yaml")
    assert outcome.code == 0, outcome.err
    assert yaml.safe_load((tmp_path / "deep/learned.yaml").read_text())["models"]["one"] == "../one"
    assert mergery("plan", tmp_path / "deep/learned.yaml").code == 0


def test_parts_keep_what_they_had(recipe, run, mergery, tmp_path):
    parts = [{"where": {"role": "norm"}, "method": "linear"}, {"where": {"role": "embed"}, "take": "two"}]
    path = recipe("llama", {**SUM, "parts": parts})
    assert run(path, "--steps", 3).code == 0
    names = {case["where"]["name"] for case in weights_of(tmp_path / "learned.yaml")["one"]}
    assert not any("norm" in name or "embed" in name for name in names)
    for each, out in ((path, "plain"), (tmp_path / "learned.yaml", "learned")):
        assert mergery("merge", each, tmp_path / out).code == 0
    one, other = (load_file(tmp_path / each / "model.safetensors") for each in ("plain", "learned"))
    same = {name for name in one if torch.equal(one[name], other[name])}
    assert same == {name for name in one if "norm" in name or "embed" in name}


def test_names_are_patterns_that_fit_themselves_alone():
    assert exactly("a.b[0].c*") == "a.b[[]0].c[*]"


def test_it_works_from_python(recipe, write, tmp_path):
    options = library.LearnOptions("labels", by="model", steps=2)
    found = library.learn(recipe("llama"), write(3), tmp_path / "learned.yaml", options=options)
    assert library.load_recipe(found).merge.method == "task_arithmetic"


@pytest.mark.parametrize(
    ("merge", "said"),
    [
        ({"method": "slerp", "t": 0.5, "models": ["one", "two"]}, "the weights of slerp cannot be learnt"),
        ({"method": "tsv_merge", "base": "base"}, "the weights of tsv_merge cannot be learnt"),
        ({"method": "ties", "base": "base"}, "the weights of ties are learnt with function: sum"),
        ({"method": "linear", "stack": [{"models": {"two": "0-1", "one": "0-1"}}]}, "the weights of a stack"),
    ],
)
def test_merges_without_such_weights_are_refused(merge, said, recipe, run):
    outcome = run(recipe("llama", merge))
    assert outcome.code == 2 and said in outcome.err and "recipe.yaml:" in outcome.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--objective", "distill", "--data", "one=one.jsonl"), "distill needs data of 'two'"),
        (("--objective", "nsc", "--data", "one.jsonl"), "nsc needs data of 'one'"),
        (("--data", "three=one.jsonl"), "merges no model called 'three'"),
        (("--data", "one=one.jsonl", "--data", "one=two.jsonl"), "names 'one' twice"),
        (("--data", "one.jsonl", "--rate", "0"), "rate is 0"),
        (("--data", "none.jsonl"), "cannot be read"),
    ],
)
def test_what_does_not_go_together_is_refused(options, said, recipe, run, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run(recipe("llama"), *options, data=())
    assert outcome.code == 2 and said in outcome.err, outcome.err
    assert not list(tmp_path.glob("learned*"))


def test_a_classifier_needs_labels_to_learn_from_them(recipe, run):
    outcome = run(recipe("bert"), "--objective", "labels")
    assert outcome.code == 2 and "the data has no labels" in outcome.err


def test_a_recipe_that_is_there_is_not_overwritten(recipe, run, tmp_path):
    (tmp_path / "learned.yaml").write_text("mine")
    outcome = run(recipe("llama"))
    assert outcome.code == 2 and "already there" in outcome.err


def test_a_machine_that_cannot_hold_the_merge_is_told_before_any_work(recipe, run, tmp_path, monkeypatch):
    path = recipe("llama")
    monkeypatch.setattr(running, "machine_memory", lambda: 100_000)
    outcome = run(path)
    said = " ".join(outcome.err.split())
    assert outcome.code == 2 and "learning needs" in said and "this machine has 100.0 kB" in said
    assert "refine: featcal" in said
    assert not (tmp_path / "learned.yaml.learning").exists()


def test_each_expert_of_a_mixture_has_a_weight(recipe, run, mergery, tmp_path):
    path = recipe("mixtral")
    outcome = run(path, "--steps", 4, "--by", "expert", "--rate", 0.05)
    assert outcome.code == 0, outcome.err
    cases = weights_of(tmp_path / "learned.yaml")["one"]
    experts = [case for case in cases if "name" in case.get("where", {})]
    assert [case["where"]["name"] for case in experts[:2]] == [
        "model.layers.0.block_sparse_moe.experts.0.*",
        "model.layers.0.block_sparse_moe.experts.1.*",
    ]
    assert len(experts) == 8 and cases[:8] == experts  # two layers of four, before the layers themselves
    assert len({case["value"] for case in experts}) > 4
    assert mergery("merge", tmp_path / "learned.yaml", tmp_path / "out").code == 0
    made, base, one, two = (load_file(tmp_path / each / "model.safetensors") for each in ("out", "base", "one", "two"))
    other = weights_of(tmp_path / "learned.yaml")["two"]
    for number, (mine, theirs) in enumerate(zip(experts, other, strict=False)):
        name = f"model.layers.{number // 4}.block_sparse_moe.experts.{number % 4}.w2.weight"
        wanted = base[name] + mine["value"] * (one[name] - base[name]) + theirs["value"] * (two[name] - base[name])
        assert torch.allclose(made[name].float(), wanted, atol=2e-3)
