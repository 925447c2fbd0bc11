"""Tensors that are one in a `.bin` file: a head that is tied to its embeddings, under whatever name its family gives it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery import api
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.errors import MergeryError

FAMILIES = {
    "opt": ("model.decoder.embed_tokens.weight", "lm_head.weight"),
    "whisper": ("model.decoder.embed_tokens.weight", "proj_out.weight"),
    "distilbert": ("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
    "modernbert": ("model.embeddings.tok_embeddings.weight", "decoder.weight"),
    "electra": ("electra.embeddings.word_embeddings.weight", "generator_lm_head.weight"),
    "nobody's": ("words.weight", "words_again.weight"),
}


def state(family: str, seed: int) -> dict[str, torch.Tensor]:
    """Embeddings and a tied head, which share their storage, and a norm."""
    random = torch.Generator().manual_seed(seed)
    words, head = FAMILIES[family]
    table = torch.randn(6, 4, generator=random)
    return {words: table, "norm.weight": torch.randn(4, generator=random), head: table}


def write(folder: Path, family: str, seed: int, form: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "num_hidden_layers": 0}))
    tensors = state(family, seed)
    if form == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(
            {name: value for name, value in tensors.items() if name != FAMILIES[family][1]},
            folder / "model.safetensors",
        )
    return folder


def merge(a: Path, b: Path, out: Path) -> dict[str, torch.Tensor]:
    api.merge({"models": {"a": str(a), "b": str(b)}, "merge": {"method": "linear"}}, out)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stored_alias_is_left_out_where_the_donor_has_none(family: str, tmp_path: Path) -> None:
    words, head = FAMILIES[family]
    a, b = write(tmp_path / "a", family, 1, "safetensors"), write(tmp_path / "b", family, 2, "bin")
    plan = api.plan({"models": {"a": str(a), "b": str(b)}, "merge": {"method": "linear"}})
    assert plan.dropped == {head: f"b stores it and {words!r} as one tensor, and a under that name alone"}
    plan.close()
    merged = merge(a, b, tmp_path / "out")
    assert head not in merged
    assert torch.equal(merged[words], (state(family, 1)[words] + state(family, 2)[words]) / 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_donors_names_are_kept_where_the_other_stores_it_once(family: str, tmp_path: Path) -> None:
    words, head = FAMILIES[family]
    a, b = write(tmp_path / "a", family, 1, "bin"), write(tmp_path / "b", family, 2, "safetensors")
    merged = merge(a, b, tmp_path / "out")
    assert torch.equal(merged[words], (state(family, 1)[words] + state(family, 2)[words]) / 2)
    assert torch.equal(merged[head], merged[words])


def test_a_head_of_its_own_is_never_left_out(tmp_path: Path) -> None:
    _, head = FAMILIES["whisper"]
    a = write(tmp_path / "a", "whisper", 1, "safetensors")
    b = tmp_path / "b"
    b.mkdir()
    own = state("whisper", 2)
    own[head] = own[head] + 1
    torch.save(own, b / "pytorch_model.bin")
    (b / "config.json").write_text((a / "config.json").read_text())
    with pytest.raises(MergeryError, match=f"'b' has '{head}', which 'a' lacks"):
        api.plan({"models": {"a": str(a), "b": str(b)}, "merge": {"method": "linear"}})


def test_tensors_in_memory_show_it_too() -> None:
    table = torch.ones(3, 2)
    parts = {"a": table, "b": table, "c": table.clone(), "d": table[:1], "e": table.T, "f": torch.tensor(1.0)}
    assert dict(MemoryCheckpoint(parts).aliases) == {"b": "a"}
    assert api.inspect(parts)["tied"]["aliases"] == {"b": "a"}
