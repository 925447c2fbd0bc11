"""A model and two adapters on it, made once for each module of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.views.adapters.peft_models import model_of, save_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "llama"
    model_of("llama").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lora(base: Path) -> Path:
    return save_adapter(base, base.parent / "lora", r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])


@pytest.fixture(scope="module")
def other(base: Path) -> Path:
    return save_adapter(base, base.parent / "other", seed=2, r=2, use_dora=True, target_modules=["q_proj", "up_proj"])
