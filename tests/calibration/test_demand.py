"""Statistics that a recipe's `calibration` gives data for are made before the merge, once."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import mergery as package
from mergery.calibration import running


@pytest.fixture
def said(model, write, tmp_path, monkeypatch):
    """A recipe of two models with data, and a cache of its own: `said(method="regmean")` writes recipe.yaml."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for seed, name in ((1, "one"), (2, "two")):
        write(9, seed=seed, name=f"{name}.jsonl")

    def make(refine=None, calibration=None, **merge):
        models = {name: str(model("llama", seed)) for seed, name in enumerate(("base", "one", "two"))}
        if "base" not in merge:
            models.pop("base")
        data = {
            "models": models,
            "merge": merge,
            "output": {"dtype": "float32"},
            "calibration": calibration
            or {"data": {"one": "one.jsonl", "two": "two.jsonl"}, "samples": 6, "length": 64},
            **({"refine": refine} if refine else {}),
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    return make


def test_a_merge_makes_what_it_needs_once(said, mergery, model, tmp_path, monkeypatch):
    recipe = said(method="regmean")
    planned = mergery("plan", recipe)
    assert planned.code == 0, planned.err
    assert "statistics of one (gram) on 6 items of one.jsonl are made first" in " ".join(planned.out.split())
    assert not (tmp_path / "cache" / "mergery" / "statistics").exists()
    first = mergery("merge", recipe, tmp_path / "first")
    assert first.code == 0, first.err
    kept = sorted((tmp_path / "cache" / "mergery" / "statistics").iterdir())
    assert len(kept) == 2
    assert {json.loads((each / "statistics.json").read_text())["data"][0]["examples"] for each in kept} == {6}
    monkeypatch.setattr(running, "StreamedModel", None)  # nothing is run again
    again = mergery("plan", recipe)
    assert "are there, in" in " ".join(again.out.split())
    assert mergery("merge", recipe, tmp_path / "second").code == 0
    one, other = (load_file(tmp_path / each / "model.safetensors") for each in ("first", "second"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert package.verify(tmp_path / "second", sample=3) == []


def test_it_is_what_statistics_by_hand_give(said, mergery, model, tmp_path):
    assert mergery("merge", said(method="regmean"), tmp_path / "demanded").code == 0
    models = {}
    for seed, name in ((1, "one"), (2, "two")):
        made = mergery(
            "calibrate", model("llama", seed), "--data", tmp_path / f"{name}.jsonl", "--limit", 6, "--longest", 64,
            tmp_path / f"{name}-stats",
        )  # fmt: skip
        assert made.code == 0, made.err
        models[name] = {"path": str(model("llama", seed)), "statistics": f"{name}-stats"}
    recipe = tmp_path / "by-hand.yaml"
    recipe.write_text(
        yaml.safe_dump({"models": models, "merge": {"method": "regmean"}, "output": {"dtype": "float32"}})
    )
    assert mergery("merge", recipe, tmp_path / "by-hand").code == 0
    one, other = (load_file(tmp_path / each / "model.safetensors") for each in ("demanded", "by-hand"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_data_are_other_statistics(said, mergery, write, tmp_path):
    recipe = said(method="fisher")
    assert mergery("merge", recipe, tmp_path / "first").code == 0
    write(9, seed=7, name="one.jsonl")
    assert mergery("merge", recipe, tmp_path / "second").code == 0
    assert len(list((tmp_path / "cache" / "mergery" / "statistics").iterdir())) == 3


def test_own_samples_instead_of_data(said, mergery, tmp_path):
    recipe = said(method="regmean", calibration={"data": "synthetic", "samples": 40, "length": 12})
    outcome = mergery("merge", recipe, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    (one, _) = sorted((tmp_path / "cache" / "mergery" / "statistics").iterdir())
    first = json.loads((one / "statistics.json").read_text())["data"]
    assert first[0]["examples"] == 40 and first[0]["file"] == "synthetic, seed 0"
    shutil.rmtree(one)
    assert mergery("merge", recipe, tmp_path / "again").code == 0
    assert json.loads((one / "statistics.json").read_text())["data"] == first


def test_a_data_set(said, mergery, tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    lines = [json.dumps({"body": "ab cd ef"}), json.dumps({"body": "gh ij"}), json.dumps({"body": "kl"})]
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(lines) + "\n")
    calibration = {"data": f"datasets:{tmp_path / 'set'}:train:body", "samples": 2}
    outcome = mergery("merge", said(method="regmean", calibration=calibration), tmp_path / "out")
    assert outcome.code == 0, outcome.err
    calibration["data"] += "s"
    outcome = mergery("merge", said(method="regmean", calibration=calibration), tmp_path / "other")
    assert outcome.code == 2 and "no column of texts called 'bodys'" in outcome.err and "body" in outcome.err


def test_a_refined_merge(said, mergery, tmp_path):
    recipe = said("featcal", method="task_arithmetic", base="base", scale=0.4)
    planned = mergery("plan", recipe)
    assert "the merge is refined by FeatCal before it is written, on 6 items of data" in " ".join(planned.out.split())
    outcome = mergery("merge", recipe, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "refined by FeatCal on 12 texts of one, two: 19 tensors" in " ".join(outcome.err.split())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- FeatCal: Solve each block" in card and "2605.13030" in card and "before it is written" not in card
    assert not (tmp_path / "out.refined").exists()
    assert package.verify(tmp_path / "out", sample=3) == []
    again = mergery("merge", recipe, tmp_path / "out")
    assert (again.code == 0 and "already" in again.err) or "there before" in again.err


def test_a_refined_merge_on_statistics(said, mergery, tmp_path):
    recipe = said({"method": "featcal", "anchor": 1}, method="regmean")
    assert mergery("merge", recipe, tmp_path / "out").code == 0
    once = mergery("merge", said(method="regmean"), tmp_path / "plain")
    assert once.code == 0, once.err
    one, other = (load_file(tmp_path / each / "model.safetensors") for each in ("out", "plain"))
    assert not all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("given", "said_of_it"),
    [
        ({"calibration": {"data": {"one": "one.jsonl"}}, "method": "regmean"}, "calibration has no data of 'two'"),
        ({"calibration": {"data": "none.jsonl"}, "method": "regmean"}, "the data 'none.jsonl' cannot be read"),
        ({"calibration": {"data": "one.jsonl", "sample": 3}, "method": "regmean"}, "unknown key 'sample'"),
        ({"calibration": {"data": {"won": "one.jsonl"}}, "method": "regmean"}, "unknown model 'won'"),
        ({"calibration": {"data": "one.jsonl", "length": 1}, "method": "regmean"}, "length is 1"),
        ({"calibration": {"data": "one.jsonl", "labels": "some"}, "method": "fisher"}, "unknown labels 'some'"),
        ({"refine": "featcal", "method": "linear"}, "featcal needs a base"),
        ({"refine": "featcall", "method": "linear"}, "did you mean 'featcal'"),
        ({"refine": {"method": "regmean_plus", "off_diagonal": 2}, "method": "linear"}, "off_diagonal is 2"),
        ({"refine": {"method": "regmean_plus", "ridge": 2}, "method": "linear"}, "regmean_plus has no setting 'ridge'"),
        (
            {"refine": "regmean_plus", "calibration": {"data": {"two": "no.jsonl"}}, "method": "linear"},
            "cannot be read",
        ),
    ],
)
def test_what_is_refused_beforehand(given, said_of_it, said, mergery, tmp_path):
    outcome = mergery("merge", said(**given), tmp_path / "out")
    assert outcome.code == 2 and said_of_it in outcome.err, outcome.err
    assert "try:" in outcome.err and "recipe.yaml:" in outcome.err
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()


def test_refine_without_data(said, mergery, tmp_path):
    path = said("regmean_plus", method="linear")
    path.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "calibration"}))
    outcome = mergery("merge", path, tmp_path / "out")
    assert outcome.code == 2 and "regmean_plus needs 'calibration'" in outcome.err


def test_a_part_of_a_model_is_not_refined(said, mergery, tmp_path):
    outcome = mergery("merge", said("regmean_plus", method="linear"), tmp_path / "out", "--only", "layers.0")
    assert outcome.code == 2 and "is not refined" in outcome.err


def test_other_commands_do_not_take_it_for_the_plain_merge(said, mergery, tmp_path):
    recipe = said("regmean_plus", method="linear")
    for command in (("calibrate", recipe, "--data", tmp_path / "one.jsonl", tmp_path / "stats"),
                    ("evaluate", recipe, "--tasks", tmp_path / "one.jsonl", "--results", tmp_path / "results")):  # fmt: skip
        outcome = mergery(*command)
        assert outcome.code == 2 and "this recipe's merge needs calibration" in outcome.err, outcome.err
