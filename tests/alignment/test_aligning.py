"""`mergery align` and `align` in a recipe: from the command line to a model that transformers loads."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mergery as package
from mergery.alignment import demand
from mergery.errors import MergeryError
from mergery.testing.symmetries import random_transform
from mergery.views.transforms import transformed
from tests.conftest import make_llama
from tests.views.test_transforms import opened, written


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """A base, a fine-tune of it in other coordinates (`moved`), and a stranger from another seed; a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = make_llama(tmp_path / "base", 1)
    tuned = make_llama(tmp_path / "tuned", 2, base)
    view, spaces = opened(tuned)
    written(transformed(view, random_transform(spaces, 3), spaces), tuned, tmp_path / "moved")
    make_llama(tmp_path / "stranger", 9)
    return tmp_path


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def furthest(one: Path, other: Path) -> float:
    mine, theirs = tensors(one), tensors(other)
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def answers(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(torch.arange(12)[None]).logits


def test_a_model_is_brought_into_the_coordinates_of_another(models, mergery):
    """The fine-tune comes back to where its base is, and computes what it did."""
    assert furthest(models / "tuned", models / "moved") > 0.05
    outcome = mergery("align", models / "moved", models / "out", "--to", models / "base", "--check")
    assert outcome.code == 0, outcome.err
    # matrices that no one sees are fitted to the base: what the fine-tune has learnt along them is not its own
    assert furthest(models / "tuned", models / "out") < 0.06
    assert torch.allclose(answers(models / "moved"), answers(models / "out"), atol=1e-5)
    assert mergery("verify", models / "out", "--sample", 4).code == 0
    facts = json.loads((models / "out" / "transform" / "transform.json").read_text())
    assert facts["method"] == "weights"
    assert facts["left"][1] < 0.1 * facts["left"][0]
    card = (models / "out" / "README.md").read_text()
    assert "taken in other coordinates of 9 of its spaces, those of reference" in card


def test_the_second_time_it_is_there(models, mergery):
    assert mergery("align", models / "moved", models / "out", "--to", models / "base", "-q").code == 0
    kept = list((models / "cache" / "mergery" / "transforms").iterdir())
    assert len(kept) == 1
    stamp = kept[0].stat().st_mtime_ns
    outcome = mergery("align", models / "moved", models / "other", "--to", models / "base", "--dry-run")
    assert outcome.code == 0
    assert not (models / "other").exists()
    time.sleep(0.01)
    assert mergery("align", models / "moved", models / "again", "--to", models / "base", "-q").code == 0
    assert kept[0].stat().st_mtime_ns == stamp
    assert furthest(models / "out", models / "again") == 0.0


def test_a_dry_run_says_what_is_going_to_be_done(models, mergery):
    outcome = mergery("align", models / "moved", models / "out", "--to", models / "base", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "model is aligned to reference first, and the transform kept" in outcome.out
    assert not (models / "out").exists()


def test_a_recipe_aligns_its_models_before_any_method(models, mergery):
    """The average of a model with itself in other coordinates is the model, once they are aligned."""
    recipe = models / "recipe.yaml"
    recipe.write_text("models: {base: ./base, moved: ./moved}\nmerge: {method: linear}\nalign: base\n")
    plan = mergery("plan", recipe)
    assert "moved is aligned to base first" in plan.out
    assert mergery("merge", recipe, models / "out").code == 0
    assert mergery("verify", models / "out", "--sample", 3).code == 0
    recipe.write_text("models: {base: ./base, tuned: ./tuned}\nmerge: {method: linear}\n")
    assert mergery("merge", recipe, models / "wanted").code == 0
    assert furthest(models / "wanted", models / "out") < 0.03
    aligned = json.loads((models / "out" / "mergery.lock.json").read_text())
    assert aligned["recipe"]["align"] == "base"


def test_fine_tunes_of_one_base_are_merged_as_without_it(models):
    recipe = {"models": {"base": models / "base", "tuned": models / "tuned"}, "merge": {"method": "linear"}}
    plain = package.merge(recipe)
    aligned = package.merge({**recipe, "align": "base"})
    assert all(torch.equal(plain[name], aligned[name]) for name in plain)


def test_the_average_of_strangers_is_closer_to_both(models):
    """Of two random models nothing is learnt: but what is left of their difference is less."""
    package.align(models / "stranger", models / "base", models / "out", spaces=["mlp", "residual"])
    base, stranger, out = (tensors(models / name) for name in ("base", "stranger", "out"))

    def apart(one: dict[str, torch.Tensor]) -> float:
        return sum(float(((one[name] - base[name]) ** 2).sum()) for name in base)

    assert apart(out) < 0.95 * apart(stranger)
    assert torch.allclose(answers(models / "stranger"), answers(models / "out"), atol=1e-5)


def test_an_output_that_answers_otherwise_is_told(models, monkeypatch):
    from mergery.alignment import checking

    monkeypatch.setattr(checking, "CLOSE", 0.0)
    with pytest.raises(MergeryError, match="does not answer as the model did"):
        package.align(models / "moved", models / "base", models / "out", check=True)


MISTAKES = {
    "align: nowhere": "unknown model 'nowhere'",
    "align: {to: base, spaces: [neurons]}": "no kind of space is called 'neurons'",
    "align: {to: base, method: magic}": "no way to align is called 'magic'",
    "align: {to: base, method: activations}": "activations need data",
    "align: {to: base, data: texts.jsonl}": "weights are matched without data",
    "align: {to: base, models: moved}": "models must be a list",
    "align: [base]": "align names the model whose coordinates the others get",
    "align: {to: base, samples: 0}": "samples is 0",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_what_is_wrong_with_align_is_told_with_its_place(line, models, mergery):
    recipe = models / "recipe.yaml"
    recipe.write_text(f"models: {{base: ./base, moved: ./moved}}\nmerge: {{method: linear}}\n{line}\n")
    outcome = mergery("merge", recipe, models / "out")
    assert outcome.code == 2
    assert MISTAKES[line] in outcome.err
    assert "recipe.yaml:3:" in outcome.err


def test_a_search_says_that_models_have_to_be_aligned_first(models):
    recipe = {
        "models": {"base": models / "base", "moved": models / "moved"},
        "merge": {"method": "linear"},
        "align": "base",
    }
    with pytest.raises(MergeryError, match="models have to be aligned"):
        package.plan(recipe).check_ready()


def test_converted_models_and_models_of_other_shapes_are_refused(models):
    recipe = {"merge": {"method": "linear"}, "align": "base"}
    wider = {"path": str(models / "moved"), "convert": {"intermediate_size": 96}}
    with pytest.raises(MergeryError, match="a model that is converted cannot be aligned"):
        package.plan({"models": {"base": models / "base", "wider": wider}, **recipe})
    make_llama(models / "other", 1, hidden_size=64)
    with pytest.raises(MergeryError, match="residual has 64 in model and 32 in reference"):
        package.align(models / "other", models / "base", models / "out")
    make_llama(models / "deeper", 1, num_hidden_layers=5)
    with pytest.raises(MergeryError, match="'reference' has 4 layers with attention, and 'model' 5"):
        package.align(models / "deeper", models / "base", models / "out")


def test_what_can_be_refused_is_refused_before_a_transform_is_looked_for(models, mergery, monkeypatch):
    monkeypatch.setattr(demand, "find_transform", lambda *given: pytest.fail("it was looked for"))
    (models / "full").mkdir()
    (models / "full" / "notes.txt").write_text("mine")
    for out, said in (("full", "is not empty"), ("base", "is, or lies in, the model 'reference'")):
        outcome = mergery("align", models / "moved", models / out, "--to", models / "base")
        assert outcome.code == 2 and said in outcome.err
    make_llama(models / "deeper", 1, num_hidden_layers=5)
    outcome = mergery("align", models / "moved", models / "out", "--to", models / "deeper", "--dry-run")
    assert outcome.code == 2 and "cannot be aligned" in outcome.err


@pytest.mark.parametrize("method", ["weights", "activations", "learned", "transport"])
def test_a_model_with_a_number_that_is_none_is_refused_by_the_name_of_its_tensor(models, mergery, llamas, method):
    damaged = tensors(models / "moved")
    damaged["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(damaged, models / "moved" / "model.safetensors", {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(llamas / "base" / name, models / "moved" / name)
    (models / "texts.jsonl").write_text("".join(f'{{"text": "w{n} w{n + 1} w3"}}\n' for n in range(8)))
    data = () if method == "weights" else ("--data", models / "texts.jsonl")
    outcome = mergery("align", models / "moved", models / "out", "--to", models / "base", "--method", method, *data)
    assert outcome.code == 2
    assert "holds NaN or infinity" in outcome.err
    assert not (models / "out").exists()


def test_the_plan_is_the_same_wherever_the_transform_lies(models):
    recipe = {
        "models": {"base": models / "base", "moved": models / "moved"},
        "merge": {"method": "linear"},
        "align": "base",
    }
    package.merge(recipe)
    first = package.plan(recipe)
    (models / "cache").rename(models / "elsewhere")
    kept = next((models / "elsewhere" / "mergery" / "transforms").iterdir())
    named = {"base": models / "base", "moved": {"path": str(models / "moved"), "transform": str(kept)}}
    second = package.plan({**recipe, "models": named})
    assert first.digest == second.digest
    assert np.all([not plan.before for plan in (first, second)])
