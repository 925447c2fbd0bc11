"""Tiny models and copies of them that compute the same in other coordinates."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.evaluation.conftest import train_tokenizer, words

State = dict[str, Tensor]
WIDTH, INNER, HEADS, GROUPS, LAYERS = 32, 48, 4, 2, 2
HEAD = WIDTH // HEADS


def llama(state: Mapping[str, Tensor] | None = None, seed: int = 0, **other: Any) -> Any:
    """A tiny llama, random, or of given weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "head_dim": HEAD,
    }
    config = LlamaConfig(
        vocab_size=128, num_hidden_layers=LAYERS, num_key_value_heads=GROUPS, max_position_embeddings=64,
        initializer_range=0.2, bos_token_id=0, eos_token_id=1, pad_token_id=1, **{**sizes, **other},
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    if state is not None:
        model.load_state_dict({name: value.float() for name, value in state.items()})
    return model


def tuned(state: Mapping[str, Tensor], seed: int, size: float = 0.03, *, norms: bool = True) -> State:
    """A fine-tune: noise on every weight, or on matrices alone."""
    torch.manual_seed(seed)
    noise = {name: size * torch.randn_like(value) for name, value in state.items()}
    return {name: value + (noise[name] if norms or value.dim() > 1 else 0.0) for name, value in state.items()}


def orthogonal(size: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def rotated(state: Mapping[str, Tensor]) -> State:
    """The same function: residual stream and values of heads rotated, neurons permuted. Norms are ones."""
    turn, found = orthogonal(WIDTH, 7), {}
    for name, value in state.items():
        matrix = value.double()
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        order = torch.randperm(INNER, generator=torch.Generator().manual_seed(layer))
        gauges = [orthogonal(HEAD, 20 + 10 * layer + group) for group in range(GROUPS)]
        values = torch.block_diag(*gauges)
        outputs = torch.block_diag(*[gauge for gauge in gauges for _ in range(HEADS // GROUPS)])
        if matrix.dim() == 1:
            found[name] = matrix
        elif name.endswith("o_proj.weight"):
            found[name] = turn.T @ matrix @ outputs
        elif name.endswith("down_proj.weight"):
            found[name] = turn.T @ matrix[:, order]
        else:
            matrix = values.T @ matrix if name.endswith("v_proj.weight") else matrix
            matrix = matrix[order] if name.endswith(("gate_proj.weight", "up_proj.weight")) else matrix
            found[name] = matrix @ turn
    return found


def widened(state: Mapping[str, Tensor]) -> State:
    """The same function with every channel of the residual stream twice."""
    found = {}
    for name, value in state.items():
        matrix = value.double()
        if matrix.dim() == 1 or "embed" in name:
            found[name] = torch.cat([matrix, matrix], -1)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            found[name] = torch.cat([matrix, matrix])
        else:
            found[name] = torch.cat([matrix, matrix], -1) / 2
    return found


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer()


@pytest.fixture
def save(tmp_path: Path, tokenizer: Any) -> Callable[..., Path]:
    """Write a tiny llama of given weights into a folder."""

    def write(name: str, state: Mapping[str, Tensor], **other: int) -> Path:
        model = llama(state, **other)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file of a few texts."""
    rng = random.Random(3)
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": words(rng, 12)}) + "\n" for _ in range(24)))
    return path


def read(folder: Path) -> State:
    from safetensors.torch import load_file

    return {name: value.double() for name, value in load_file(folder / "model.safetensors").items()}


def far(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest relative difference of two models' tensors."""
    assert mine.keys() == theirs.keys()
    return max(
        float((mine[name].double() - theirs[name].double()).norm() / theirs[name].double().norm()) for name in mine
    )


def logits(folder: Path) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.arange(40).reshape(2, 20)).logits.double()
