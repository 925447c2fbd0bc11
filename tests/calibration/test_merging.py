"""Merges that read statistics: what `mergery calibrate` wrote, named in a recipe."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from mergery.checkpoints.statistics import Statistics
from tests.calibration.conftest import FAMILIES
from tests.calibration.whole import load, tensors


@pytest.fixture
def calibrated(mergery, model, write, tmp_path):
    """Two models of a family with statistics, and a recipe for them."""

    def make(family: str, stats: str, **merge: object):
        for seed in (1, 2):
            data = write(5, seed=seed, pairs=family == "t5", name=f"{seed}.jsonl")
            outcome = mergery(
                "calibrate", model(family, seed), "--data", data, "--stats", stats, tmp_path / f"stats-{seed}"
            )
            assert outcome.code == 0, outcome.err
        models = {
            name: {"path": str(model(family, seed)), "statistics": f"stats-{seed}"}
            for seed, name in ((1, "one"), (2, "two"))
        }
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({"models": models, "merge": merge, "output": {"dtype": "float32"}}))
        return recipe

    return make


def parts(model, family, tmp_path):
    """Weights of both models, and what is known of them."""
    weights = [load_file(model(family, seed) / "model.safetensors") for seed in (1, 2)]
    weights = [{name: value.double().numpy() for name, value in each.items()} for each in weights]
    told = [json.loads((tmp_path / f"stats-{seed}" / "statistics.json").read_text()) for seed in (1, 2)]
    return weights, told, [tensors(tmp_path / f"stats-{seed}") for seed in (1, 2)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "t5", "bert"])
def test_regmean(family, calibrated, mergery, model, tmp_path):
    recipe = calibrated(family, "gram", method="regmean", off_diagonal=0.8, weight={"one": 1.0, "two": 3.0})
    outcome = mergery("merge", recipe, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert family != "gpt2" or "seen fewer tokens than they have inputs" in outcome.err
    weights, told, known = parts(model, family, tmp_path)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert len(told[0]["inputs"]) >= 8
    for name in told[0]["inputs"]:
        if "lm_head" in name or name == "classifier.weight":
            continue
        flip = family == "gpt2"
        above = below = 0.0
        for share, own, said, stats in zip((1.0, 3.0), weights, told, known, strict=True):
            gram = stats[f"{said['inputs'][name]['of']}.gram"] / sum(file["tokens"] for file in said["data"])
            shrunk = share * (0.8 * gram + 0.2 * np.diag(np.diag(gram)))
            above, below = above + (own[name].T if flip else own[name]) @ shrunk, below + shrunk
        seen = np.diag(below) > 0
        expected = np.linalg.solve(below[np.ix_(seen, seen)], above[:, seen].T).T
        out = merged[name].double().numpy()
        out = (out.T if flip else out)[:, seen]
        assert np.abs(out - expected).max() < 2e-5 * np.abs(expected).max(), name
    load(tmp_path / "out", FAMILIES[family][0])


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_fisher(family, calibrated, mergery, model, tmp_path):
    recipe = calibrated(family, "fisher", method="fisher", floor=1e-3)
    outcome = mergery("merge", recipe, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    weights, told, known = parts(model, family, tmp_path)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, out in merged.items():
        shares = [
            stats[f"{name}.fisher"] / said["data"][0]["examples"] + 1e-3
            for stats, said in zip(known, told, strict=True)
        ]
        expected = sum(share * own[name] for share, own in zip(shares, weights, strict=True)) / sum(shares)
        assert np.abs(out.double().numpy() - expected).max() < 1e-6 * max(1.0, np.abs(expected).max()), name
    load(tmp_path / "out", FAMILIES[family][0])


def test_stacked_experts_are_merged_with_statistics_of_single_ones(calibrated, mergery, model, tmp_path):
    """A mixture that transformers stores expert by expert, merged into a donor that stores a layer's experts as one tensor."""
    from safetensors.torch import save_file

    recipe = calibrated("mixtral", "gram", method="regmean")
    folder = shutil.copytree(model("mixtral", 3), tmp_path / "stacked")
    state, name = load_file(folder / "model.safetensors"), "model.layers.{}.block_sparse_moe.experts.{}.{}.weight"
    import torch

    for layer in range(2):
        each = {w: [state.pop(name.format(layer, expert, w)) for expert in range(4)] for w in ("w1", "w2", "w3")}
        pairs = [torch.cat(pair) for pair in zip(each["w1"], each["w3"], strict=True)]
        state[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.stack(pairs)
        state[f"model.layers.{layer}.mlp.experts.down_proj"] = torch.stack(each["w2"])
        state[f"model.layers.{layer}.mlp.gate.weight"] = state.pop(f"model.layers.{layer}.block_sparse_moe.gate.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    apart = mergery("merge", recipe, tmp_path / "apart")
    assert apart.code == 0, apart.err
    data = yaml.safe_load(recipe.read_text())
    data["models"]["donor"] = str(folder)
    data["merge"]["models"] = ["one", "two"]
    data["output"]["config"] = "donor"
    recipe.write_text(yaml.safe_dump(data))
    outcome = mergery("merge", recipe, tmp_path / "together")
    assert outcome.code == 0, outcome.err
    one, other = (load_file(tmp_path / each / "model.safetensors") for each in ("apart", "together"))
    for layer in range(2):
        stack = other[f"model.layers.{layer}.mlp.experts.gate_up_proj"]
        for expert in range(4):
            pair = [one[name.format(layer, expert, w)] for w in ("w1", "w3")]
            assert torch.equal(torch.cat(pair), stack[expert])


def test_without_statistics_it_says_what_to_do(mergery, model, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    models = {"one": str(model("llama", 1)), "two": str(model("llama", 2))}
    recipe.write_text(yaml.safe_dump({"models": models, "merge": {"method": "regmean"}}))
    outcome = mergery("plan", recipe)
    assert outcome.code == 2
    assert "regmean needs the Gram matrices of inputs of 'one'" in outcome.err and "of 'two'" in outcome.err
    assert "mergery calibrate" in outcome.err and "--stats gram" in outcome.err


def test_statistics_of_another_model(calibrated, mergery, tmp_path):
    recipe = calibrated("llama", "gram", method="regmean")
    recipe.write_text(recipe.read_text().replace("stats-2", "stats-1"))
    outcome = mergery("plan", recipe)
    assert outcome.code == 2 and "statistics of another model than 'two'" in outcome.err


def test_statistics_of_another_kind(calibrated, mergery):
    outcome = mergery("plan", calibrated("llama", "activation", method="regmean"))
    assert outcome.code == 2 and "its statistics have none for" in outcome.err


def test_a_folder_that_is_no_statistics(calibrated, mergery, model):
    recipe = calibrated("llama", "gram", method="regmean")
    recipe.write_text(recipe.read_text().replace("stats-2", str(model("llama", 2))))
    outcome = mergery("plan", recipe)
    assert outcome.code == 2 and "these are no statistics of 'two'" in outcome.err


def test_statistics_count_for_the_digest(calibrated, mergery, model, write, tmp_path):
    recipe = calibrated("llama", "gram", method="regmean")
    assert mergery("merge", recipe, tmp_path / "out").code == 0
    shutil.rmtree(tmp_path / "stats-2")
    assert mergery("calibrate", model("llama", 2), "--data", write(3, seed=9), tmp_path / "stats-2").code == 0
    again = mergery("merge", recipe, tmp_path / "out")
    assert again.code == 2 and "another plan" in again.err


def test_what_is_said_of_statistics_is_read_again():
    said = Statistics(("gram",), {"name": "m"}, ({"file": "a", "sha256": "b", "examples": 2, "tokens": 9},))
    assert (said.examples, said.tokens) == (2, 9)


@pytest.mark.parametrize(("stats", "merge"), [("gram", {"method": "regmean"}), ("fisher", {"method": "fisher"})])
def test_statistics_follow_their_model_into_other_names(stats, merge, calibrated, mergery, tmp_path):
    recipe = calibrated("llama", stats, **merge)
    assert mergery("merge", recipe, tmp_path / "plain").code == 0
    said = yaml.safe_load(recipe.read_text())
    words = {"q_proj": "o_proj", "o_proj": "q_proj"}  # of one shape: each would take the other's statistics for its own
    for model in said["models"].values():
        model["rename"] = {f"*.{own}.*": f"*.{new}.*" for own, new in words.items()}
    recipe.write_text(yaml.safe_dump(said))
    outcome = mergery("merge", recipe, tmp_path / "renamed")
    assert outcome.code == 0, outcome.err
    plain, renamed = (load_file(tmp_path / each / "model.safetensors") for each in ("plain", "renamed"))
    for name, value in plain.items():
        new = next((name.replace(own, other) for own, other in words.items() if own in name), name)
        assert (renamed[new] == value).all(), name


def test_statistics_of_another_shape_are_refused(calibrated, mergery, tmp_path):
    recipe = calibrated("llama", "fisher", method="fisher")
    name = "model.layers.0.self_attn.q_proj.weight"
    for path in (tmp_path / "stats-1").glob("*.safetensors"):
        found = load_file(path)
        save_file(
            {key: value[:, :16].clone() if key == f"{name}.fisher" else value for key, value in found.items()}, path
        )
    outcome = mergery("merge", recipe, tmp_path / "out")
    assert outcome.code == 2
    assert f"none for '{name}', or of another shape" in outcome.err
