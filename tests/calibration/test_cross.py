"""Cross-moments of a model's inputs with another's, on the same texts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import mergery as library
from mergery.calibration.data import inputs_of
from tests.calibration.conftest import FAMILIES
from tests.calibration.whole import close, load, rows_of, tensors


def seen(module: Any, rows: Any) -> dict[str, np.ndarray]:
    """The inputs of each linear module over all rows, by the name of its weight: (tokens, in)."""
    from transformers.pytorch_utils import Conv1D

    found: dict[str, list[Any]] = {}
    for name, inner in module.named_modules():
        if isinstance(inner, (torch.nn.Linear, Conv1D)):
            rows_seen = found.setdefault(f"{name}.weight", [])
            inner.register_forward_pre_hook(
                lambda _, given, into=rows_seen: into.append(given[0].double().reshape(-1, given[0].shape[-1]))
            )
    with torch.no_grad():
        for row in rows:
            module(**inputs_of([row], module.config), use_cache=False)
    return {name: torch.cat(each).numpy() for name, each in found.items() if each}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bert", "t5"])
def test_as_with_both_models_in_memory(family, model, write, tokenizer, tmp_path):
    data = write(5, pairs=True) if family == "t5" else write(5)
    one, two = model(family), model(family, 1)
    options = library.CalibrationOptions(("gram", "cross"))
    found = library.calibrate(one, data, tmp_path / "stats", beside=two, options=options, tokenizer=tokenizer)
    kept = tensors(tmp_path / "stats")
    rows = rows_of(data, load(one, FAMILIES[family][0]), tokenizer)
    mine, theirs = (seen(load(each, FAMILIES[family][0]), rows) for each in (one, two))
    checked = 0
    for name in found.inputs:
        if name in mine:
            assert close(kept[f"{found.inputs[name].of}.cross"], mine[name].T @ theirs[name], 3e-6), name
            assert found.inputs[name].tokens == (len(mine[name]),)
            checked += 1
    assert checked >= 6
    said = json.loads((tmp_path / "stats" / "statistics.json").read_text())
    assert said["beside"]["name"].endswith(two.name) and said["kinds"] == ["cross", "gram"]


def test_beside_itself_they_are_gram_matrices(model, write, mergery, tmp_path):
    out = mergery(
        "calibrate", model("llama"), "--data", write(4), "--stats", "gram,cross", "--beside", model("llama"), tmp_path / "s"
    )  # fmt: skip
    assert out.code == 0, out.err
    kept = tensors(tmp_path / "s")
    names = [name for name in kept if name.endswith(".cross")]
    assert names and all(close(kept[name], kept[name.replace(".cross", ".gram")]) for name in names)


def test_of_a_merge_beside_its_expert_and_added_up(model, write, mergery, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    models = {name: str(model("llama", seed)) for seed, name in enumerate(("one", "two"))}
    recipe.write_text(yaml.safe_dump({"models": models, "merge": {"method": "linear"}}))
    files = [write(3, seed=seed, name=f"{seed}.jsonl") for seed in (1, 2)]
    for number, file in enumerate(files):
        more = ("--add", tmp_path / "0") if number else ()
        out = mergery(
            "calibrate", recipe, "--data", file, "--stats", "cross", "--beside", model("llama"), *more, tmp_path / str(number)
        )  # fmt: skip
        assert out.code == 0, out.err
    second = mergery(
        "calibrate", recipe, "--data", files[1], "--stats", "cross", "--beside", model("llama"), tmp_path / "b"
    )
    assert second.code == 0, second.err
    first, both, alone = (tensors(tmp_path / name) for name in ("0", "1", "b"))
    assert all(close(both[name], first[name] + alone[name]) for name in both)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--stats", "cross"), "cross-moments are between two models"),
        (("--stats", "gram", "--beside", "llama"), "a model beside this one is for cross-moments"),
        (("--stats", "cross", "--beside", "llama", "--tokens", "a"), "cross is of all tokens"),
        (("--stats", "cross", "--beside", "bert"), "is of another shape than the model"),
    ],
)
def test_refused(given, said, model, write, mergery, tmp_path):
    given = [model(each) if each in FAMILIES else each for each in given]
    out = mergery("calibrate", model("llama"), "--data", write(3), *given, tmp_path / "out")
    assert out.code == 2 and said in " ".join(out.err.split()), out.err


def test_a_block_that_is_run_several_times_is_refused(model, write, mergery, tmp_path):
    given = ("--stats", "cross", "--beside", model("albert"))
    out = mergery("calibrate", model("albert"), "--data", write(3), *given, tmp_path / "out")
    assert out.code == 2 and "run each block once" in " ".join(out.err.split()), out.err
