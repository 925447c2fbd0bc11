"""Models of every family that is read, written as GGUF by other hands, come back as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mergery.testing.families import FAMILIES
from mergery.testing.families.making import build, load, logits

pytest.importorskip("gguf", reason="GGUF is read with the package gguf")
from tests.checkpoints.gguf.writing import ARCHITECTURES, write_gguf

NAMES = (
    "Llama", "Llama 3.1", "Llama 3.2", "Kanana", "Mistral", "Mixtral", "Qwen 2", "Qwen 2 tied", "Qwen 2 MoE", "Qwen 3",
    "Qwen 3 MoE", "Gemma", "Gemma 2", "Gemma 3 text", "Phi 3", "OLMo 2", "Granite", "Mamba",
)  # fmt: skip
BY_NAME = {family.name: family for family in FAMILIES}
ADDS_ONE = ("Gemma", "Gemma 2", "Gemma 3 text", "Mamba")  # values are changed and changed back, each time rounded


def noisy(name: str) -> Any:
    """A tiny model of a family, of which no parameter is zero or one."""
    family = BY_NAME[name]
    if name == "Qwen 3 MoE":  # llama.cpp always does
        family = replace(family, config={**family.config, "norm_topk_prob": True})
    model = build(family)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_a_file_becomes_the_folder_that_it_was_made_from(name: str, mergery: Any, tmp_path: Path) -> None:
    family, model = BY_NAME[name], noisy(name)
    assert model.config.model_type in ARCHITECTURES
    write_gguf(model, tmp_path / "x.gguf")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("models: {x: x.gguf}\nmerge: {method: passthrough, models: [x]}\n")
    outcome = mergery("merge", recipe, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    again, wrong = load(family, tmp_path / "out")
    assert not wrong
    state, before = again.state_dict(), model.state_dict()
    assert state.keys() == before.keys()
    tolerance = 1e-6 if name in ADDS_ONE else 0
    for key, tensor in before.items():
        assert torch.allclose(state[key], tensor, rtol=tolerance, atol=tolerance), key
    assert torch.allclose(logits(family, again), logits(family, model), rtol=1e-4, atol=1e-5)
