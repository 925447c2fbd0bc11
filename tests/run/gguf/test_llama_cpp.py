"""Files that are written here, run by llama.cpp: logits and tokens are those of transformers. `make test-gguf` builds it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mergery import api
from mergery.testing.families import FAMILIES, make
from mergery.testing.families.checking import _as_llama
from mergery.testing.families.making import load, logits
from tests.run.gguf.tokenizers import TEXTS, byte_level_folder, pieces_folder

PYTHON = os.environ.get("MERGERY_LLAMA_CPP")
pytestmark = pytest.mark.skipif(not PYTHON, reason="llama.cpp is built and named by `make test-gguf`")

BY_NAME = {family.name: family for family in FAMILIES}
MORE: dict[str, dict[str, Any]] = {
    "Qwen 3 MoE": {"norm_topk_prob": True},
    "EXAONE 3.5": {
        "max_position_embeddings": 64, "layer_norm_epsilon": 1e-5, "rope_theta": 1e4, "activation_function": "silu",
        "rms_norm_eps": 1e-5,
    },
}  # fmt: skip
NAMES = (
    "Llama", "Llama 3.1", "Llama 3.2", "Kanana", "Mistral", "Mixtral", "Qwen 2", "Qwen 2 tied", "Qwen 2 MoE", "Qwen 3",
    "Qwen 3 MoE", "Gemma", "Gemma 2", "Gemma 3 text", "Phi 3", "OLMo 2", "Granite", "EXAONE 3.5", "Mamba",
)  # fmt: skip


def llama_cpp(*asked: dict[str, Any]) -> list[dict[str, Any]]:
    """What llama.cpp answers."""
    assert PYTHON
    child = Path(__file__).with_name("llama_child.py")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"PYTHONPATH": os.environ.get("MERGERY_LLAMA_CPP_PATH", "")}
    done = subprocess.run(
        [PYTHON, str(child)], input=json.dumps(asked), capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_logits(name: str, tmp_path: Path) -> None:
    family = BY_NAME[name]
    family = replace(family, config={**family.config, **MORE.get(name, {})})
    folder = make(family, tmp_path / "model")
    if not family.auto:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **MORE[name]}))
        assert not _as_llama(folder)
        family, folder = replace(BY_NAME["Llama"], config={}), tmp_path / "model-as-llama"
    asked = []
    for kind in ("f32", "f16", "q8_0"):
        api.export_gguf(tmp_path / "model", tmp_path / f"{kind}.gguf", type=kind)
        asked.append({"path": str(tmp_path / f"{kind}.gguf"), "tokens": list(range(10, 22))})
    model, _ = load(family, folder)
    expected = logits(family, model)[0].numpy()
    whole, half, packed = (np.array(each["logits"]) for each in llama_cpp(*asked))
    size = np.abs(expected).max()
    gelu = 10 if name.startswith("Gemma") else 1  # llama.cpp looks it up, in half precision
    assert np.abs(whole - expected).max() < 2e-4 * gelu * size
    assert np.abs(half - expected).max() < 1e-2 * size
    assert np.abs(packed - expected).max() < 0.15 * size


@pytest.mark.parametrize("word", ["gpt-2", "llama-bpe", "qwen2", "smollm"])
def test_byte_level_tokens(word: str, tmp_path: Path) -> None:
    tokenizer = byte_level_folder(tmp_path / "model", word)
    api.export_gguf(tmp_path / "model", tmp_path / "x.gguf", type="f32")
    (answer,) = llama_cpp({"path": str(tmp_path / "x.gguf"), "texts": TEXTS})
    for text, ids in zip(TEXTS, answer["ids"], strict=True):
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize("prefix", [True, False])
def test_tokens_of_sentencepiece(prefix: bool, tmp_path: Path) -> None:
    tokenizer = pieces_folder(tmp_path / "model", prefix=prefix)
    api.export_gguf(tmp_path / "model", tmp_path / "x.gguf", type="f32")
    (answer,) = llama_cpp({"path": str(tmp_path / "x.gguf"), "texts": TEXTS})
    for text, ids in zip(TEXTS, answer["ids"], strict=True):
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids, text
