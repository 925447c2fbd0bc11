"""LED asks for Fisher information of the base, on the data of each model."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.calibration.whole import tensors


@pytest.fixture
def recipe(model, write, tmp_path, monkeypatch):
    """A recipe of two models and their base: `recipe(models, calibration)` writes it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for seed, name in ((1, "one"), (2, "two")):
        write(6, seed=seed, name=f"{name}.jsonl")

    def make(calibration=None, statistics=None, **merge):
        models = {name: {"path": str(model("llama", seed))} for seed, name in enumerate(("base", "one", "two"))}
        for name, folder in (statistics or {}).items():
            models[name]["statistics"] = folder
        said = {"models": models, "merge": {"method": "led", "base": "base", "share": 0.7, **merge}}
        said |= {"output": {"dtype": "float32"}, **({"calibration": calibration} if calibration else {})}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(said))
        return path

    return make


DATA = {"data": {"one": "one.jsonl", "two": "two.jsonl"}, "labels": "empirical"}


def test_it_is_measured_and_merged(recipe, model, mergery, tmp_path):
    path = recipe(DATA)
    planned = mergery("plan", path)
    said = " ".join(planned.out.split())
    assert "statistics of base for one (fisher) on 256 items of one.jsonl are made first" in said
    assert "statistics of base for two (fisher) on 256 items of two.jsonl are made first" in said
    outcome = mergery("merge", path, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "cache/mergery/statistics").iterdir())) == 4
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")

    # the same by hand, against the reference
    made = {}
    for of, seed, data in (("one", 1, "one"), ("two", 2, "two"), ("base", 0, "one"), ("base", 0, "two")):
        out = tmp_path / f"{of}-{data}"
        outcome = mergery(
            "calibrate", model("llama", seed), "--data", tmp_path / f"{data}.jsonl", "--stats", "fisher", "--labels",
            "empirical", out,
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        made[of, data] = tensors(out)
    by_hand = {
        "one": "one-one",
        "two": "two-two",
        "base": {"one": "base-one", "two": "base-two"},
    }
    outcome = mergery("merge", recipe(statistics=by_hand), tmp_path / "by-hand")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "by-hand/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()
    name = "model.layers.1.mlp.down_proj.weight"
    base, *models = (load_file(model("llama", seed) / "model.safetensors")[name].double().numpy() for seed in range(3))
    known = {of: each[f"{name}.fisher"].astype(np.float64) for of, each in made.items()}
    merged = load_file(tmp_path / "out/model.safetensors")[name].double().numpy()
    elected = []
    for task, x in zip(("one", "two"), models, strict=True):
        both = np.ones(base.shape, bool)
        for values, fisher in ((x, known[task, task]), (base, known["base", task])):
            scores = np.abs(values) * np.sqrt(fisher)
            both &= scores >= np.sort(scores, axis=None)[-int(0.7 * scores.size)] * (1 - 1e-6)
        elected.append(both)
    alone = elected[0] ^ elected[1]
    expected = base + 0.9 * sum((x - base) * (each & alone) for x, each in zip(models, elected, strict=True))
    assert float(np.mean(np.abs(merged - expected) > 1e-5)) < 0.002
    assert 0.1 < alone.mean() < 0.9


def test_one_measurement_of_the_base_serves_all(recipe, model, mergery, tmp_path):
    for name, seed in (("base", 0), ("one", 1), ("two", 2)):
        assert mergery(
            "calibrate", model("llama", seed), "--data", tmp_path / "one.jsonl", "--stats", "fisher", tmp_path / name
        ).code == 0  # fmt: skip
    outcome = mergery("merge", recipe(statistics={each: each for each in ("base", "one", "two")}), tmp_path / "out")
    assert outcome.code == 0, outcome.err
    each = {"base": {"one": "base", "two": "base"}, "one": "one", "two": "two"}
    assert mergery("merge", recipe(statistics=each), tmp_path / "same").code == 0
    assert (tmp_path / "same/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()
    outcome = mergery("merge", recipe(statistics={**each, "base": {"one": "base"}}), tmp_path / "less")
    assert outcome.code == 2
    assert "led needs the Fisher information of 'base' on the data of 'two'" in " ".join(outcome.err.split())


def test_what_is_missing_is_said(recipe, mergery, tmp_path):
    outcome = mergery("merge", recipe(), tmp_path / "out")
    assert outcome.code == 2
    assert "led needs the Fisher information of 'base' on the data of 'one'" in " ".join(outcome.err.split())
    assert "calibration: {data: texts.jsonl}" in outcome.err
    outcome = mergery("merge", recipe({"data": {"one": "one.jsonl"}}), tmp_path / "out")
    assert outcome.code == 2 and "calibration has no data of 'two'" in outcome.err
    outcome = mergery("merge", recipe(statistics={"base": {"three": "x"}}), tmp_path / "out")
    assert outcome.code == 2 and "three" in outcome.err
    outcome = mergery("merge", recipe(statistics={"base": 3}), tmp_path / "out")
    assert outcome.code == 2 and "statistics must be text" in outcome.err
