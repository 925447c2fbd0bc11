"""Adapters and quantised weights are told by the names and dtypes of their tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.adapters import read_adapter
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.checkpoints.quantised.codes import find_codes

PEFT = "base_model.model.model.layers.0.self_attn.q_proj"


def adapter_of(config: dict[str, Any] | None = None, **shapes: tuple[int, ...]) -> Any:
    names = {name.replace("__", "."): torch.ones(shape) for name, shape in shapes.items()}
    return read_adapter(MemoryCheckpoint(names, "x", config))


def test_a_folder_of_peft_says_what_it_is(tmp_path: Path) -> None:
    factors = {f"{PEFT}.lora_A.weight": torch.ones(4, 8), f"{PEFT}.lora_B.weight": torch.ones(8, 4)}
    save_file(factors, tmp_path / "adapter_model.safetensors")
    said = {"r": 4, "lora_alpha": 32, "base_model_name_or_path": "org/base", "target_modules": ["v_proj", "q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    for place in (tmp_path, tmp_path / "adapter_model.safetensors"):
        found = read_adapter(open_checkpoint(place))
        assert found is not None
        assert found.words == "LoRA of rank 4, alpha 32, on q_proj, v_proj"
        assert found.base == "org/base"
    (tmp_path / "adapter_config.json").write_text('{"target_modules": "all-linear", "lora_alpha": "x"}')
    found = read_adapter(open_checkpoint(tmp_path))
    assert found is not None
    assert found.words == "LoRA of rank 4, on q_proj"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"{PEFT}.lora_A.default.weight", "LoRA"),
        (f"{PEFT}.lora_magnitude_vector", "DoRA"),
        ("h.0.attn.c_attn.lora_A", "LoRA"),
        ("lora_unet_mid_attn1_to_q.lora_down.weight", "LoRA"),
        ("lora_te_text_model_q_proj.dora_scale", "DoRA"),
        ("unet.mid.to_q.lora.up.weight", "LoRA"),
        ("mid.processor.to_q_lora.down.weight", "LoRA"),
        ("lora_unet_mid.hada_w1_a", "LoHa"),
        ("lora_unet_mid.lokr_w2_b", "LoKr"),
        ("base_model.model.x.ia3_l", "IA3"),
        ("base_model.model.x.oft_R.weight", "OFT"),
        ("base_model.model.x.vera_lambda_b", "VeRA"),
        ("prompt_embeddings", "prompt tuning"),
        ("ip_adapter.1.to_k_ip.weight", "IP-Adapter"),
    ],
)
def test_kinds_of_adapters(name: str, kind: str) -> None:
    found = read_adapter(MemoryCheckpoint({"a.weight": torch.ones(2), name: torch.ones(4, 4), "z": torch.ones(2)}))
    assert found is not None
    assert (found.kind, found.evidence) == (kind, name)
    assert not found.beside


def test_a_model_with_an_adapter_beside_its_weights() -> None:
    found = adapter_of(m__q_proj__base_layer__weight=(8, 8), m__q_proj__lora_A__default__weight=(4, 8))
    assert found.beside
    assert found.words == "LoRA of rank 4, on q_proj"
    assert adapter_of(h__attn__weight=(8, 8), h__attn__lora_A=(4, 8)).beside


def test_models_that_are_no_adapters() -> None:
    assert adapter_of(m__self_attn__q_a_proj__weight=(4, 8), m__w_lora__lora__0__weight=(4, 4)) is None
    assert adapter_of(m__explora_A__weight=(2,), embed_tokens__weight=(2, 2), backbone_block=(2,)) is None
    native = {"model_type": "phi4mm", "vision_lora": {"r": 256, "lora_alpha": 512}}
    assert adapter_of(native, q__base_layer__weight=(8, 8), q__lora_A__vision__weight=(4, 8)) is None


# --- quantised ------------------------------------------------------------------------------------


def codes(declared: str = "", dtype: torch.dtype = torch.float32, **shapes: tuple[int, ...]) -> Any:
    tensors = {name.replace("__", "."): torch.ones(shape).to(dtype) for name, shape in shapes.items()}
    return find_codes(MemoryCheckpoint(tensors).tensors, declared=declared)


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        (("q.weight", "q.SCB"), "bitsandbytes, int8"),
        (("q.weight", "q.weight.absmax", "q.weight.quant_state.bitsandbytes__nf4"), "bitsandbytes, 4 bits"),
        (("q.qweight", "q.qzeros", "q.scales", "q.g_idx"), "GPTQ"),
        (("q.qweight", "q.qzeros", "q.scales"), "GPTQ or AWQ"),
        (("e.gate_up_proj_blocks", "e.gate_up_proj_scales"), "mxfp4"),
        (("q.weight_packed", "q.weight_scale", "q.weight_shape"), "compressed-tensors"),
        (("q.weight", "q.weight_scale_inv"), "fp8"),
        (("q.W_q", "q.meta"), "HQQ"),
    ],
)
def test_quantised_weights_are_told_by_names(names: tuple[str, ...], scheme: str) -> None:
    found = find_codes(MemoryCheckpoint({name: torch.ones(2, 2) for name in names}).tensors)
    assert found is not None
    assert found.scheme == scheme
    assert any(name in found.why for name in names)


def test_quantised_weights_are_told_by_dtypes() -> None:
    assert codes(dtype=torch.float8_e4m3fn, q__weight=(2, 2)) == ("float8_e4m3fn", "tensor 'q.weight' is float8_e4m3fn")
    assert codes(dtype=torch.int8, q__weight=(2, 2)) == ("int8", "tensor 'q.weight' is int8")
    assert codes("aqlm", dtype=torch.int8, q__codes=(2, 2)) == ("aqlm", "tensor 'q.codes' is int8")


def test_plain_weights_are_not_quantised() -> None:
    assert codes("bitsandbytes", q__weight=(2, 2), q__bias=(2,)) is None
    assert codes(attn__W_q__weight=(2, 2), transformer_blocks=(2,), relative_position_scales=(2,)) is None
    assert codes(dtype=torch.int64, position_ids=(1, 4), num_batches_tracked=(), relative_position_index=(4, 4)) is None
    assert codes("compressed-tensors", q__weight=(2, 2), q__weight_scale=(2,)) == (
        "compressed-tensors",
        "it stores 'q.weight_scale'",
    )
