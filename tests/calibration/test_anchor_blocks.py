"""Blocks as functions: what they make of rows is what the model's own layers make of hidden states."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from mergery.calibration.anchors.blocks import blocks_of, takes_whole
from mergery.calibration.model import StreamedModel
from mergery.calibration.opening import stored_view
from mergery.checkpoints import open_checkpoint
from tests.calibration.conftest import FAMILIES
from tests.calibration.whole import load

TOKENS = 7


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2", "bert"])
def test_a_whole_block_does_as_the_layer_in_the_model(family, model):
    folder = model(family)
    own = load(folder, FAMILIES[family][0])
    ids = torch.randint(2, 128, (3, TOKENS), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = own(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
    with open_checkpoint(folder) as checkpoint:
        streamed = StreamedModel(stored_view(checkpoint))
        block = blocks_of(streamed, whole=True, tokens=TOKENS)[0]
        assert block.whole
        made = block(block.weights(streamed), hidden[0])
    assert torch.allclose(made, hidden[1], rtol=1e-4, atol=1e-4 * float(hidden[1].abs().max()))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_in_a_decoder_no_token_sees_those_that_follow(family, model):
    with open_checkpoint(model(family)) as checkpoint:
        streamed = StreamedModel(stored_view(checkpoint))
        assert not takes_whole(streamed)
        block = blocks_of(streamed, whole=True, tokens=TOKENS)[0]
        rows = torch.randn(2, TOKENS, block.width, generator=torch.Generator().manual_seed(2))
        other = rows.clone()
        other[:, 3:] += 1.0
        weights = block.weights(streamed)
        one, two = block(weights, rows), block(weights, other)
    assert torch.allclose(one[:, :3], two[:, :3], atol=1e-5)
    assert not torch.allclose(one[:, 3:], two[:, 3:], atol=1e-2)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_whole_blocks_of_decoders_are_refined(family, recipe, mergery, tmp_path):
    path, kept = recipe(family), tmp_path / "anchors"
    outcome = mergery("anchors", path, kept, "--steps", 8, "--count", 6, "--tokens", 4, "--blocks", "whole")
    assert outcome.code == 0, outcome.err
    card = json.loads((kept / "anchors.json").read_text())
    assert card["whole"] and all(last < first for first, last in card["losses"].values())
    assert mergery("refine", path, kept, tmp_path / "refined", "--epochs", 5, "--start", "models").code == 0
    assert mergery("merge", path, tmp_path / "plain").code == 0
    plain, refined = (load_file(tmp_path / each / "model.safetensors") for each in ("plain", "refined"))
    moved = {name for name in plain if not torch.equal(plain[name], refined[name])}
    assert any("attn" in name for name in moved) and any("mlp" in name for name in moved)
    load(tmp_path / "refined", FAMILIES[family][0])


def test_more_tokens_than_the_model_takes_are_refused(recipe, mergery, tmp_path):
    outcome = mergery("anchors", recipe("llama"), tmp_path / "anchors", "--tokens", 65, "--blocks", "whole")
    assert outcome.code == 2
    assert "anchors of 65 tokens are too long" in outcome.err and "takes 64 at once" in outcome.err
