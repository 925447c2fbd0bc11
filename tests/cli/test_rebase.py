"""`mergery rebase`: a fine-tune onto a new base, by hand, and what is told of its effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

NAME = "model.layers.0.mlp.up_proj.weight"


def tensor(folder: Path) -> Any:
    return load_file(folder / "model.safetensors")[NAME].astype(np.float64)


def test_shift_and_transplant_by_hand(mergery: Any, llamas: Path, tmp_path: Path) -> None:
    """From base to b: a - base is added to b; shift leaves out its part along b - base."""
    places = ("--from", llamas / "base", "--to", llamas / "b")
    assert mergery("rebase", llamas / "a", tmp_path / "whole", *places, "--way", "transplant").code == 0
    assert mergery("rebase", llamas / "a", tmp_path / "shifted", *places).code == 0
    old, new, own = (tensor(llamas / name) for name in ("base", "b", "a"))
    delta, step = own - old, new - old
    np.testing.assert_allclose(tensor(tmp_path / "whole"), new + delta, atol=1e-6)
    common = (delta * step).sum() / (step * step).sum()
    np.testing.assert_allclose(tensor(tmp_path / "shifted"), new + delta - common * step, atol=1e-6)
    AutoModelForCausalLM.from_pretrained(tmp_path / "shifted")


def test_on_its_own_base_the_fine_tune_comes_back(mergery: Any, llamas: Path, tmp_path: Path) -> None:
    places = ("--from", llamas / "base", "--to", llamas / "base")
    assert mergery("rebase", llamas / "a", tmp_path / "same", *places).code == 0
    np.testing.assert_allclose(tensor(tmp_path / "same"), tensor(llamas / "a"), atol=1e-6)


def test_the_effect_that_is_left_is_told(
    mergery: Any, llamas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    items = [{"text": f"w{number} w{number + 1} w{number + 2}"} for number in range(12)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "b" / name).write_bytes((llamas / "base" / name).read_bytes())
    for file in (llamas / "b").iterdir():
        (tmp_path / "b" / file.name).write_bytes(file.read_bytes())
    places = ("--from", llamas / "base", "--to", tmp_path / "b", "--tasks", tmp_path / "texts.jsonl")
    done = mergery("rebase", llamas / "a", tmp_path / "out", *places)
    assert done.code == 0, done.err
    assert "over its base" in done.out
    assert "over the new base" in done.out


def test_models_of_another_shape_are_refused(mergery: Any, llamas: Path, tmp_path: Path) -> None:
    done = mergery("rebase", llamas / "a", tmp_path / "out", "--from", llamas / "base", "--to", llamas / "nothing")
    assert done.code == 2
    assert not (tmp_path / "out").exists()
