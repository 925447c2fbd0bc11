"""Adapters and GGUF: an adapter on a file becomes a folder, and adapters on a folder a file. peft is the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mergery import api
from mergery.testing.families.making import load, logits
from tests.run.gguf.tokenizers import LLAMA, byte_level_folder

pytest.importorskip("gguf", reason="GGUF is read and written with the package gguf")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def adapter(base: Path, folder: Path, seed: int) -> Any:
    """A LoRA adapter with random factors; returns what peft makes of it on its base."""
    model, _ = load(LLAMA, base)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=random))
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    byte_level_folder(tmp_path / "base", "gpt-2")
    return tmp_path / "base"


def test_a_file_with_an_adapter_is_a_folder(base: Path, mergery: Any, tmp_path: Path) -> None:
    expected = adapter(base, tmp_path / "lora", 1)
    assert mergery("export", "gguf", base, tmp_path / "base.gguf", "-t", "f32").code == 0
    outcome = mergery("adapter", "bake", tmp_path / "base.gguf", tmp_path / "lora", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    model, wrong = load(LLAMA, tmp_path / "out")
    assert not wrong
    assert torch.allclose(logits(LLAMA, model), logits(LLAMA, expected), rtol=1e-4, atol=1e-5)


def test_adapters_go_straight_into_a_file(base: Path, mergery: Any, tmp_path: Path) -> None:
    one, two = (adapter(base, tmp_path / f"lora-{seed}", seed).state_dict() for seed in (1, 2))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "models: {base: base, one: base+lora-1, two: base+lora-2}\n"
        "merge: {method: task_arithmetic, base: base, models: [one, two], weight: 0.5}\n"
    )
    assert mergery("export", "gguf", recipe, tmp_path / "x.gguf", "--type", "f32").code == 0
    single = mergery("export", "gguf", f"{base}+{tmp_path / 'lora-1'}", tmp_path / "one.gguf", "--type", "f32")
    assert single.code == 0, single.err
    copy = {"models": {"x": str(tmp_path / "x.gguf")}, "merge": {"method": "passthrough", "models": ["x"]}}
    both, alone = api.merge(copy), api.merge({**copy, "models": {"x": str(tmp_path / "one.gguf")}})
    assert isinstance(both, dict)
    assert isinstance(alone, dict)
    for name in both:
        assert torch.allclose(both[name], (one[name] + two[name]) / 2, rtol=1e-5, atol=1e-6), name
        assert torch.allclose(alone[name], one[name], rtol=1e-5, atol=1e-6), name
