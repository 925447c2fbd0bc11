"""A hub on this machine, and a model on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from safetensors.torch import save_file

from mergery.testing.hub_server import HubServer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
    close_session()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two shards, each larger than one header request, and files of other formats beside them."""
    folder = tmp_path / "repo"
    folder.mkdir()
    weight_map = {}
    for place in (1, 2):
        shard = f"model-0000{place}-of-00002.safetensors"
        name = f"layers.{place}.weight"
        save_file({name: torch.full((400, 300), float(place))}, folder / shard)
        weight_map[name] = shard
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"w": torch.zeros(100_000)}, folder / "consolidated.safetensors")
    torch.save({"w": torch.zeros(100_000)}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("{{ tool }}")
    return folder
