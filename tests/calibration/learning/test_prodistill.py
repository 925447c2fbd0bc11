"""ProDistill as a refiner of recipes: blocks come nearer, what stands outside stays, and a killed run goes on."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import mergery as library
from mergery.calibration.learning import distilling
from tests.calibration.conftest import FAMILIES
from tests.calibration.whole import load, rows_of


@pytest.fixture
def recipe(model, write, tmp_path):
    """A recipe of two fine-tunes whose merge is refined: `recipe("llama", epochs=5)`."""

    def make(family, **settings):
        models = {"base": str(model(family))}
        for seed, name in ((1, "one"), (2, "two")):
            folder = shutil.copytree(model(family), tmp_path / name, dirs_exist_ok=True)
            torch.manual_seed(seed)
            state = load_file(folder / "model.safetensors")
            for key, value in state.items():
                if value.is_floating_point():
                    state[key] = value + 0.05 * torch.randn_like(value)
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
            models[name] = str(folder)
        data = {
            name: str(write(9, seed=seed, pairs=family == "t5", name=f"{name}.jsonl"))
            for seed, name in ((1, "one"), (2, "two"))
        }
        path = tmp_path / "recipe.yaml"
        merge = {"method": "task_arithmetic", "base": "base", "scale": 0.4}
        said = {"models": models, "merge": merge, "output": {"dtype": "float32"}, "calibration": {"data": data}}
        plain = {**said, "refine": {"method": "prodistill", **settings}}
        path.write_text(yaml.safe_dump(plain))
        (tmp_path / "host.yaml").write_text(
            yaml.safe_dump({"models": models, "merge": merge, "output": {"dtype": "float32"}})
        )
        return path

    return make


def gap(module, other, rows):
    """The mean squared distance of the last hidden states of two models, over rows."""
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row.tokens])
            states = [each(input_ids=ids, output_hidden_states=True).hidden_states[-1] for each in (module, other)]
            total += float((states[0] - states[1]).square().sum())
            count += states[0].numel()
    return total / count


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5", "mixtral"])
def test_the_merge_comes_nearer_to_its_models(family, recipe, mergery, tokenizer, tmp_path):
    path = recipe(family, epochs=20, rate=0.05)
    for each, out in ((path, "out"), (tmp_path / "host.yaml", "host")):
        outcome = mergery("merge", each, tmp_path / out)
        assert outcome.code == 0, outcome.err
    host, out = (load_file(tmp_path / each / "model.safetensors") for each in ("host", "out"))
    moved = {name for name in host if not torch.equal(host[name], out[name])}
    assert moved and all(".0." in name or ".1." in name for name in moved)
    modules = {each: load(tmp_path / each, FAMILIES[family][0]) for each in ("host", "out", "one", "two")}
    if family == "t5":
        return
    for name in ("one", "two"):
        rows = rows_of(tmp_path / f"{name}.jsonl", modules["out"], tokenizer)
        assert gap(modules["out"], modules[name], rows) < 0.8 * gap(modules["host"], modules[name], rows)


def test_no_epochs_are_the_merge(recipe, mergery, tmp_path):
    assert mergery("merge", recipe("llama", epochs=0), tmp_path / "out").code == 0
    assert mergery("merge", tmp_path / "host.yaml", tmp_path / "host").code == 0
    one, other = (tmp_path / each / "model.safetensors" for each in ("out", "host"))
    assert one.read_bytes() == other.read_bytes()


def test_a_run_that_was_killed_goes_on(recipe, tmp_path, monkeypatch):
    path = recipe("llama", epochs=4)
    library.merge(path, tmp_path / "whole")
    done, real = [], distilling.distil

    def stop(unit, *rest):
        if len(done) == 1:
            raise RuntimeError("the power is cut")
        done.append(unit.name)
        return real(unit, *rest)

    monkeypatch.setattr(distilling, "distil", stop)
    with pytest.raises(RuntimeError):
        library.merge(path, tmp_path / "out")
    again = []
    monkeypatch.setattr(distilling, "distil", lambda unit, *rest: (again.append(unit.name), real(unit, *rest))[1])
    library.merge(path, tmp_path / "out")
    assert len(again) == 1 and again != done
    one, other = (tmp_path / each / "model.safetensors" for each in ("out", "whole"))
    assert one.read_bytes() == other.read_bytes()


def test_it_needs_a_base(recipe, mergery, tmp_path):
    path = recipe("llama")
    said = yaml.safe_load(path.read_text())
    del said["models"]["base"]
    path.write_text(yaml.safe_dump({**said, "merge": {"method": "linear"}}))
    outcome = mergery("merge", path, tmp_path / "out")
    assert outcome.code == 2 and "prodistill needs a base" in outcome.err
