"""Tiny models of several families with a tokenizer, and data."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.conftest import train_tokenizer, words

B: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {**B, **IDS, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2ForCausalLM", {**B, **IDS, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2ForCausalLM", {**B, **IDS, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4}),
    "gpt2": ("GPT2LMHeadModel", {
        "vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 1,
    }),
    "mixtral": ("MixtralForCausalLM", {**B, **IDS, "num_key_value_heads": 2, "num_local_experts": 4}),
    "bert": ("BertForSequenceClassification", {**B, "num_labels": 3}),
    "t5": ("T5ForConditionalGeneration", {
        "vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
        "eos_token_id": 1, "decoder_start_token_id": 0,
    }),
    "albert": ("AlbertForMaskedLM", {**B, "embedding_size": 16}),
}  # fmt: skip
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run beside one another: each takes one thread where it would take one for each core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Make:
    """The folder of a tiny model of a family: `model("llama")`; with another seed, another model."""
    import torch
    import transformers

    made: dict[tuple[str, int], Path] = {}

    def make(family: str, seed: int = 0) -> Path:
        if (family, seed) not in made:
            name, options = FAMILIES[family]
            folder = made[family, seed] = tmp_path_factory.mktemp(f"{family}-{seed}")
            kind = getattr(transformers, name)
            torch.manual_seed(seed)
            kind(kind.config_class(**options)).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return made[family, seed]

    return make


@pytest.fixture
def write(tmp_path: Path) -> Make:
    """Write a file of texts, or of prompts with answers: `write(9)`, `write(9, pairs=True)`."""

    def to_file(
        count: int, *, pairs: bool = False, seed: int = 0, name: str = "data.jsonl", label: bool = False
    ) -> Path:
        rng = random.Random(seed)
        items: list[dict[str, Any]] = []
        for _ in range(count):
            text = {"text": words(rng, rng.randint(2, 9))} | ({"label": rng.randrange(3)} if label else {})
            items.append({"prompt": words(rng, 5), "answer": words(rng, rng.randint(1, 3))} if pairs else text)
        path = tmp_path / name
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        return path

    return to_file


@pytest.fixture
def recipe(model: Make, tmp_path: Path) -> Callable[[str], Path]:
    """A recipe of two fine-tunes of a tiny model of a family."""
    import torch
    import yaml
    from safetensors.torch import load_file, save_file

    def make(family: str) -> Path:
        base = model(family)
        for seed, name in ((1, "one"), (2, "two")):
            folder = shutil.copytree(base, tmp_path / name)
            torch.manual_seed(seed)
            state = load_file(folder / "model.safetensors")
            state = {
                key: value + 0.05 * torch.randn_like(value) if value.is_floating_point() else value
                for key, value in state.items()
            }
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        path = tmp_path / "recipe.yaml"
        models = {"base": str(base), "one": "./one", "two": "./two"}
        merge = {"method": "task_arithmetic", "base": "base", "scale": 0.4}
        path.write_text(yaml.safe_dump({"models": models, "merge": merge}))
        return path

    return make
