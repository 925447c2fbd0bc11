"""Other families on their own base, and on a wider one: fused and turned matrices, biases, ties, experts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mergery as library
from tests.alignment.rebasing.conftest import far, read

B: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 1,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2": ("Qwen2ForCausalLM", {**B, "tie_word_embeddings": True}, {"hidden_size": 64}),
    "gemma": ("GemmaForCausalLM", {**B, "head_dim": 8}, {"hidden_size": 64, "intermediate_size": 96}),
    "phi3": ("Phi3ForCausalLM", B, {"hidden_size": 64, "intermediate_size": 96}),
    "mixtral": ("MixtralForCausalLM", {**B, "num_local_experts": 4}, {"hidden_size": 64}),
    "gpt2": (
        "GPT2LMHeadModel",
        {
            "vocab_size": 128,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        {"n_embd": 64},
    ),
}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, tokenizer: Any) -> Make:
    """Write a tiny model of a family: with noise on the weights of another, or with other sizes."""
    import transformers

    def write(name: str, family: str, noise: float = 0.0, **other: Any) -> Path:
        kind, options, _ = FAMILIES[family]
        torch.manual_seed(len(other))
        model = getattr(transformers, kind)(getattr(transformers, kind).config_class(**{**options, **other}))
        torch.manual_seed(3)
        for parameter in model.parameters():
            parameter.data += noise * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fine_tune_comes_back_and_goes_to_other_widths(
    family: str, make: Make, texts: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    old, own = make("old", family), make("own", family, 0.02)
    wide = make("wide", family, **FAMILIES[family][2])
    options = library.RebaseOptions("theseus", threads=1)
    for data in (None, texts):
        out = tmp_path / f"out-{data is None}"
        library.rebase(own, out, old=old, new=old, data=data, options=options)
        assert far(read(out), read(own)) < 2e-3
        made = tmp_path / f"wide-{data is None}"
        library.rebase(own, made, old=old, new=wide, data=data, options=options)
        before, after = read(wide), read(made)
        still = [name for name in before if torch.equal(before[name], after[name])]
        assert not still, still
        AutoModelForCausalLM.from_pretrained(made)


def test_a_head_behind_a_pooler_is_not_carried_through_the_residual_stream(tmp_path: Path) -> None:
    """Without texts nothing is known of what a pooler writes: a change of the head is added as it is."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    for seed, name in enumerate(("old", "new")):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
        model.save_pretrained(tmp_path / name)
        if name == "old":
            with torch.no_grad():
                model.classifier.weight.add_(torch.randn(2, 32) * 0.1)
            model.save_pretrained(tmp_path / "own")
    options = library.RebaseOptions("theseus", threads=1)
    library.rebase(tmp_path / "own", tmp_path / "out", old=tmp_path / "old", new=tmp_path / "new", options=options)
    old, own, new, out = (read(tmp_path / name)["classifier.weight"] for name in ("old", "own", "new", "out"))
    torch.testing.assert_close(out - new, own - old, atol=1e-6, rtol=0)
