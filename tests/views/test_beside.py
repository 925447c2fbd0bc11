"""A part that two models have must match in full; one that only one of them has is copied, or left out and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery import api
from mergery.errors import MergeryError
from mergery.testing.families import FAMILIES, make
from tests.conftest import tensors_of

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SEEN = {**SIZES, "image_size": 16, "patch_size": 8}
BY_NAME = {family.name: family for family in FAMILIES}


def changed(source: Path, folder: Path, rename=str, **config: Any) -> Path:
    """A model with other names for its tensors; None leaves one out."""
    folder.mkdir()
    tensors = {rename(name): value for name, value in load_file(source / "model.safetensors").items()}
    tensors.pop(None, None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | config))
    return folder


def average(a: Path, b: Path, out: Path) -> tuple[dict[str, Any], str]:
    plan = api.merge({"models": {"a": a, "b": b}, "merge": {"method": "linear"}}, out).plan
    return tensors_of(out), "\n".join(plan.warnings)


def refused(a: Path, b: Path) -> str:
    with pytest.raises(MergeryError) as caught:
        api.plan({"models": {"a": a, "b": b}, "merge": {"method": "linear"}})
    return str(caught.value)


def vit(folder: Path, seed: int, kind: str = "ViTForImageClassification", **config: Any) -> Path:
    import transformers

    torch.manual_seed(seed)
    getattr(transformers, kind)(transformers.ViTConfig(**{**SEEN, **config})).save_pretrained(folder)
    return folder


def as_module(name: str) -> str:
    """The names that transformers 5 gives a ViT's modules; files have those of older versions."""
    for old, new in (
        ("encoder.layer.", "layers."), ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"), ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"), ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
    ):  # fmt: skip
        name = name.replace(old, new)
    return name


def test_two_spellings_of_a_vit_are_one_model(tmp_path):
    from transformers import ViTForImageClassification

    a, b = vit(tmp_path / "a", 1), vit(tmp_path / "b", 2)
    module = changed(b, tmp_path / "module", as_module)
    assert tensors_of(module).keys() == ViTForImageClassification.from_pretrained(b).state_dict().keys()
    out, said = average(a, module, tmp_path / "out")
    first, second = tensors_of(a), tensors_of(b)
    assert all(torch.equal(out[name], (first[name] + second[name]) / 2) for name in first)
    assert out.keys() == first.keys()
    assert "b is respelled with the names of a: 32 tensors" in said
    assert "alone" not in said


def test_a_vision_model_of_another_depth_or_without_a_layer_is_refused(tmp_path):
    a = vit(tmp_path / "a", 1)
    assert "'b' has 3 layers and 'a' has 2" in refused(a, vit(tmp_path / "deep", 2, num_hidden_layers=3))
    broken = changed(a, tmp_path / "broken", lambda name: None if "layer.1." in name else name)
    assert "'b' lacks 'vit.encoder.layer.1.attention.attention.key.bias'" in refused(a, broken)
    assert "'b' has 'vit.encoder.layer.1.attention.attention.key.bias'" in refused(broken, a)


def test_a_classifier_is_no_part_by_itself(tmp_path):
    a, bare = vit(tmp_path / "a", 1), vit(tmp_path / "bare", 2, "ViTModel")
    tensors = {name: value for name, value in tensors_of(bare).items() if "pooler" not in name}
    save_file(tensors, bare / "model.safetensors")
    assert "'b' lacks 'classifier.bias', 'classifier.weight'" in refused(a, bare)
    assert "'b' has 'classifier.bias', 'classifier.weight', which 'a' lacks" in refused(bare, a)


@pytest.mark.parametrize(
    ("family", "layer", "prefix"),
    [
        ("Qwen 2 VL", "visual.blocks.1.", ("visual.", "model.visual.")),
        ("Gemma 3", "vision_tower.encoder.layers.1.", ("vision_tower.", "vision_tower.vision_model.")),
        ("LLaVA", "vision_tower.encoder.layers.1.", ("vision_tower.", "model.vision_tower.")),
    ],
)
def test_the_tower_of_a_multimodal_model_must_match_in_full(family, layer, prefix, tmp_path):
    a = make(BY_NAME[family], tmp_path / "a")
    first = tensors_of(a)
    assert any(layer in name for name in first)
    broken = changed(a, tmp_path / "broken", lambda name: None if layer in name else name)
    assert "'b' lacks" in refused(a, broken)
    assert "'b' has" in refused(broken, a)
    other = changed(a, tmp_path / "other", lambda name: name.replace(*prefix) if name.startswith(prefix[0]) else name)
    out, said = average(a, other, tmp_path / "out")
    assert all(torch.equal(out[name], first[name]) for name in first)
    assert "b is respelled with the names of a" in said
    assert "alone" not in said


def clip(folder: Path, kind: str, seed: int = 0) -> Path:
    import transformers

    vision = {**SEEN, "projection_dim": 8}
    text = {**SIZES, "vocab_size": 40, "max_position_embeddings": 16, "projection_dim": 8, "eos_token_id": 2}
    whole = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    config = {"CLIPModel": whole, "CLIPVisionModel": whole.vision_config, "CLIPTextModel": whole.text_config}[kind]
    torch.manual_seed(seed)
    getattr(transformers, kind)(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prefixed", [False, True], ids=["transformers 5", "transformers 4"])
@pytest.mark.parametrize(("kind", "prefix"), [("CLIPVisionModel", "vision_model."), ("CLIPTextModel", "text_model.")])
def test_a_part_of_clip_merges_with_the_whole(kind, prefix, prefixed, tmp_path):
    """Task arithmetic on CLIP: the base is whole, the fine-tunes are its vision model. Widths and depths of both towers are
    equal, so that only names tell them apart."""
    base = clip(tmp_path / "base", "CLIPModel")
    models = {"base": base}
    for seed, name in enumerate("ab", start=1):
        models[name] = clip(tmp_path / f"{name}-bare", kind, seed)
        if prefixed:
            models[name] = changed(models[name], tmp_path / name, lambda each: prefix + each)
    bare = "" if not prefixed else prefix
    whole, a, b = (tensors_of(folder) for folder in models.values())
    by = {"method": "task_arithmetic", "base": "base", "weight": 0.5}
    plan = api.merge({"models": models, "merge": by}, tmp_path / "out").plan
    out = tensors_of(tmp_path / "out")
    assert out.keys() == whole.keys()
    for name, value in whole.items():
        own = bare + name.removeprefix(prefix)
        if name.startswith(prefix) and value.is_floating_point():
            assert torch.allclose(out[name], value + 0.5 * (a[own] - value) + 0.5 * (b[own] - value), atol=1e-6)
            assert not torch.equal(out[name], value) or "norm" in name or name.endswith("bias")
        else:
            assert torch.equal(out[name], value)
    assert any(" model alone: " in warning for warning in plan.warnings)

    plan = api.merge({"models": models, "merge": by, "output": {"config": "a"}}, tmp_path / "part").plan
    part = tensors_of(tmp_path / "part")
    assert part.keys() == a.keys()
    assert all(
        torch.equal(part[bare + name.removeprefix(prefix)], out[name]) for name in out if name.startswith(prefix)
    )
    assert {name for name in whole if not name.startswith(prefix)} == set(plan.dropped)
    import transformers

    getattr(transformers, kind).from_pretrained(tmp_path / "part")


def test_a_part_of_another_kind_is_refused(tmp_path):
    base, a = clip(tmp_path / "base", "CLIPModel"), clip(tmp_path / "a", "CLIPVisionModel")
    other = changed(a, tmp_path / "other", model_type="siglip_vision_model")
    said = refused(base, other)
    assert 'vision.model_type differs: a has "clip_vision_model", b has "siglip_vision_model"' in said


@pytest.mark.parametrize("order", ["wv", "vw"])
def test_two_vision_models_of_which_one_has_a_projection(order, tmp_path):
    """Their names have nothing in common, and neither tower may pass for a part that the other lacks."""
    import transformers

    vision = transformers.CLIPVisionConfig(**SEEN, projection_dim=8)
    folders = {}
    for seed, (name, kind) in enumerate({"v": "CLIPVisionModel", "w": "CLIPVisionModelWithProjection"}.items()):
        torch.manual_seed(seed)
        getattr(transformers, kind)(vision).save_pretrained(tmp_path / name)
        folders[name] = tmp_path / name
    out, _ = average(*(folders[name] for name in order), tmp_path / "out")
    v, w = (tensors_of(folder) for folder in folders.values())
    prefix = "vision_model." if order == "wv" else ""
    for name, value in v.items():
        assert torch.equal(out[prefix + name], (value + w[f"vision_model.{name}"]) / 2)
    assert ("visual_projection.weight" in out) == (order == "wv")


def test_models_that_have_no_part_in_common_are_refused(tmp_path):
    a = vit(tmp_path / "a", 1, "ViTModel")
    other = changed(a, tmp_path / "other", lambda name: f"vision_tower.{name}")
    tensors = {f"eyes.{name}": value for name, value in tensors_of(a).items()}
    strange = tmp_path / "strange"
    strange.mkdir()
    save_file(tensors | {"extra": torch.ones(2)}, strange / "model.safetensors")
    (strange / "config.json").write_text((a / "config.json").read_text())
    assert "'b' lacks" in refused(other, strange)
    assert "rename" not in refused(a, strange) or "eyes" in refused(a, strange)


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Dinov2", "Beit", "Swin"])
def test_modules_and_files_of_vision_models_are_one(kind, tmp_path):
    """A module's names are those of its class; its file has those of older versions of transformers."""
    import transformers

    small = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
    config = getattr(transformers, f"{kind}Config")(**(small if kind == "Swin" else SEEN))
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(getattr(transformers, f"{kind}ForImageClassification")(config).eval())
    models[0].save_pretrained(tmp_path / "file")
    plan = api.merge(
        {"models": {"a": tmp_path / "file", "b": models[1]}, "merge": {"method": "linear"}}, tmp_path / "out"
    ).plan
    assert any("b is respelled with the names of a" in warning for warning in plan.warnings)
    merged = type(models[0]).from_pretrained(tmp_path / "out").state_dict()
    for name, mine in models[0].state_dict().items():
        theirs = models[1].state_dict()[name]
        assert torch.equal(merged[name], (mine + theirs) / 2 if mine.is_floating_point() else mine), name


def test_a_prefix_of_nobody_is_no_obstacle(tmp_path):
    """Where all names differ by what stands before them, and by nothing else."""
    a, b = vit(tmp_path / "a", 1), vit(tmp_path / "b", 2)
    other = changed(b, tmp_path / "other", lambda name: f"net.eyes.{name}")
    for pair in ((a, other), (other, a)):
        out, said = average(*pair, tmp_path / f"out-{pair[0].name}")
        assert out.keys() == tensors_of(pair[0]).keys()
        assert "respelled" in said
        first, second = (tensors_of(each) for each in pair)
        assert all(
            torch.equal(out[m], (first[m] + second[n]) / 2) for m, n in zip(sorted(first), sorted(second), strict=True)
        )
