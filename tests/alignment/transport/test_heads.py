"""Queries and keys whose planes are turned, which computes the same, come back only by planes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mergery.alignment.transport.heads import head_maps, planes_of
from tests.alignment.transport.planted import DIM, GROUPS, HEADS, changed, error, logits, permuted, save, small

Move = Callable[..., Path]


def turn(values: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rows of a query or key matrix with the planes of each head turned: angles (heads, planes)."""
    halves = values.reshape(len(angles), 2, DIM // 2, -1)
    cosine, sine = angles.cos()[..., None], angles.sin()[..., None]
    first, second = halves[:, 0], halves[:, 1]
    return torch.stack([cosine * first - sine * second, sine * first + cosine * second], 1).reshape(values.shape)


def turned(model: Any) -> Any:
    """The same function, with the planes of every group of heads turned, queries and keys alike."""
    state = dict(model.state_dict())
    generator = torch.Generator().manual_seed(2)
    for layer in range(model.config.num_hidden_layers):
        angles = torch.rand(GROUPS, DIM // 2, generator=generator) * 6.28
        for module, each in (("q_proj", angles.repeat_interleave(HEADS // GROUPS, 0)), ("k_proj", angles)):
            name = f"model.layers.{layer}.self_attn.{module}.weight"
            state[name] = turn(state[name], each)
    return changed(model, model.config, state)


def test_turned_planes_come_back_by_planes_and_not_by_neurons(move: Move) -> None:
    model = small()
    source = permuted(turned(model))
    assert error(logits(source), logits(model)) < 1e-5
    errors = {}
    for heads in (False, True):
        found = transformers.AutoModelForCausalLM.from_pretrained(move(source, heads=heads))
        errors[heads] = [
            error(found.state_dict()[name], model.state_dict()[name]) for name in found.state_dict() if "q_proj" in name
        ]
        assert (error(logits(found), logits(model)) < 0.01) == heads
    assert max(errors[True]) < 0.01 and min(errors[False]) > 0.3


def test_one_plane_by_hand() -> None:
    """A quarter turn of half the size: what the source calls x is twice the target's y."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(500, 2, generator=generator)
    other = torch.stack([2 * own[:, 1], -2 * own[:, 0]], 1)
    queries, keys = head_maps((own, own), (other, other), 2, 0.1)
    wanted = torch.tensor([[0.0, -0.5], [0.5, 0.0]])
    assert torch.allclose(queries, wanted, atol=1e-5) and torch.allclose(keys, wanted, atol=1e-5)
    assert planes_of(own, 2).values.abs().square().mean().item() == pytest.approx(1.0)


def test_heads_of_other_sizes_and_families_are_refused(
    target: Path, texts: Path, tmp_path: Path, mergery: Callable[..., Any]
) -> None:
    other = save(small(head_dim=4), tmp_path / "other")
    refused = mergery("transport", other, tmp_path / "out", "--into", target, "--data", texts, "--heads")
    assert refused.code == 2 and "the planes of both models turn at other speeds" in refused.err
    refused = mergery(
        "transport", target, tmp_path / "out", "--into", target, "--data", texts, "--heads", "--modules", "v,o"
    )
    assert refused.code == 2 and "heads are of queries and keys together" in refused.err
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=128)
    gpt = save(transformers.GPT2LMHeadModel(config), tmp_path / "gpt")
    refused = mergery("transport", gpt, tmp_path / "out", "--into", target, "--data", texts, "--heads")
    assert refused.code == 2 and "heads of gpt2 are not matched by planes" in refused.err
