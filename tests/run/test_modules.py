"""Outputs whose weights lie in folders of their own, or have names of their own: sentence-transformers and diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mergery import api


def sentence_model(folder: Path, seed: int) -> Path:
    """Embeddings, pooling, and a dense layer behind."""
    random = torch.Generator().manual_seed(seed)
    modules = [{"path": path, "type": f"x.{kind}"} for path, kind in (("", "T"), ("1_Pooling", "P"), ("2_Dense", "D"))]
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "2_Dense").mkdir()
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: "}}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "2_Dense" / "config.json").write_text('{"in_features": 8, "out_features": 4}')
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 0}')
    words = {name: torch.randn(6, 8, generator=random) for name in ("embeddings.word_embeddings.weight",)}
    save_file(words, folder / "model.safetensors")
    dense = {"linear.weight": torch.randn(4, 8, generator=random), "linear.bias": torch.randn(4, generator=random)}
    save_file(dense, folder / "2_Dense" / "model.safetensors")
    return folder


SENTENCE = (
    "1_Pooling/config.json 2_Dense/config.json modules.json config_sentence_transformers.json sentence_bert_config.json"
)


def test_modules_are_merged_into_files_of_their_own(tmp_path: Path) -> None:
    a, b = (sentence_model(tmp_path / name, seed) for seed, name in enumerate("ab"))
    recipe = {"models": {"a": str(a), "b": str(b)}, "merge": {"method": "linear"}, "output": {"shard_size": 128}}
    out = tmp_path / "out"
    plan = api.plan(recipe)
    assert plan.warnings == ()
    api.merge(plan, out)
    for name in SENTENCE.split():
        assert (out / name).read_bytes() == (a / name).read_bytes()
    mine, theirs, merged = (load_file(each / "2_Dense" / "model.safetensors") for each in (a, b, out))
    assert {name: torch.equal(merged[name], (mine[name] + theirs[name]) / 2) for name in merged} == dict.fromkeys(
        mine, True
    )
    assert list(load_file(out / "model.safetensors")) == ["embeddings.word_embeddings.weight"]
    assert not (out / "model.safetensors.index.json").exists()
    assert api.verify(out, sample=3) == []
    (out / "2_Dense" / "model.safetensors").unlink()
    save_file(mine, out / "2_Dense" / "model.safetensors")
    assert any("2_Dense.linear.weight" in line for line in api.verify(out))


def test_modules_are_what_a_recipe_may_speak_of(tmp_path: Path) -> None:
    a, b = (sentence_model(tmp_path / name, seed) for seed, name in enumerate("ab"))
    models = {"a": str(a), "b": str(b)}
    parts = [{"where": {"name": "2_Dense.*"}, "take": "b"}]
    api.merge({"models": models, "merge": {"method": "linear", "parts": parts}}, tmp_path / "out")
    taken, theirs = (load_file(folder / "2_Dense" / "model.safetensors") for folder in (tmp_path / "out", b))
    assert all(torch.equal(taken[name], theirs[name]) for name in theirs)


def test_a_part_of_a_pipeline_keeps_the_names_of_diffusers(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30.0"}')
        random = torch.Generator().manual_seed(seed)
        tensors = {f"conv_{i}.weight": torch.randn(4, 4, 3, 3, generator=random) for i in range(2)}
        save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    models = {name: str(tmp_path / name) for name in "ab"}
    api.merge({"models": models, "merge": {"method": "linear"}}, tmp_path / "out")
    assert (tmp_path / "out" / "diffusion_pytorch_model.safetensors").exists()
    assert "dtype" not in json.loads((tmp_path / "out" / "config.json").read_text())
    sharded = {"models": models, "merge": {"method": "linear"}, "output": {"shard_size": 600}}
    api.merge(sharded, tmp_path / "shards")
    names = sorted(path.name for path in (tmp_path / "shards").glob("diffusion*"))
    assert names == [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
    ]
    assert api.verify(tmp_path / "shards", sample=2) == []
