"""Buffers of which files of one model hold more or fewer: they follow from the config, and are never a reason to refuse."""

from __future__ import annotations

import pytest
import torch

from mergery import api
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.errors import MergeryError
from tests.conftest import tensors_of

PLAIN = "model.layers.{}.mlp.up_proj.weight"
BUFFERS = {
    "inv_freq of Llama 2": "model.layers.{}.self_attn.rotary_emb.inv_freq",
    "one for all layers": "model.rotary_emb.inv_freq",
    "masks of GPT-2": "transformer.h.{}.attn.masked_bias",
    "positions of BERT": "bert.embeddings.position_ids",
}


def model(seed: int, buffer: str = "", length: int = 4) -> MemoryCheckpoint:
    random = torch.Generator().manual_seed(seed)
    state = {PLAIN.format(layer): torch.randn(3, 2, generator=random) for layer in range(2)}
    if buffer:
        state |= {buffer.format(layer): torch.arange(float(length)) for layer in range(2)}
    return MemoryCheckpoint(state, config={"model_type": "x"})


def merged(models, out, **merge):
    plan = api.merge({"models": models, "merge": {"method": "linear", **merge}}, out).plan
    return tensors_of(out), plan


@pytest.mark.parametrize("name", BUFFERS.values(), ids=BUFFERS)
def test_a_buffer_that_one_model_has_is_copied_or_left_out(name, tmp_path):
    bare, full = model(1), model(2, name)
    own = sorted({name.format(layer) for layer in range(2)})
    out, plan = merged({"full": full, "bare": bare}, tmp_path / "full")
    assert all(torch.equal(out[each], torch.arange(4.0)) for each in own)
    text = f"{len(own)} buffers that bare lacks are copied from full (such as '{own[0]}')"
    assert text in plan.warnings
    out, plan = merged({"bare": bare, "full": full}, tmp_path / "bare")
    assert out.keys() == set(bare.tensors)
    reason = "a buffer that bare lacks: it is made anew when the model is loaded"
    assert plan.dropped == dict.fromkeys(own, reason)


def test_a_buffer_of_another_length_is_the_donors(tmp_path):
    name = BUFFERS["positions of BERT"]
    out, plan = merged({"a": model(1, name), "b": model(2, name, length=8)}, tmp_path / "out", method="slerp")
    assert torch.equal(out[name], torch.arange(4.0))
    assert f"1 buffers that have another shape in b are copied from a (such as '{name}')" in plan.warnings


def test_statistics_of_data_are_no_such_buffers():
    with pytest.raises(MergeryError, match=r"'b' lacks 'model.norm.running_mean'"):
        api.plan({"models": {"a": model(1, "model.norm.running_mean"), "b": model(2)}, "merge": {"method": "linear"}})


def test_in_a_stack_they_are_left_out_where_models_differ(tmp_path):
    name = BUFFERS["inv_freq of Llama 2"]
    models = {"full": model(1, name), "bare": model(2)}
    both = [{"models": {"full": 0, "bare": 0}}, {"models": {"full": 1}}]
    out, plan = merged(models, tmp_path / "out", stack=both)
    assert set(out) == {PLAIN.format(0), PLAIN.format(1), name.format(1)}
    assert any("1 tensors are buffers that not all models of a slice have alike" in w for w in plan.warnings)
    one = BUFFERS["one for all layers"]
    models = {"full": model(1, one), "bare": model(2)}
    out, _ = merged(models, tmp_path / "next", stack=both)
    assert set(out) == {PLAIN.format(0), PLAIN.format(1), one}
