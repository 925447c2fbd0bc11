"""Each decoder gives what the library that wrote the layout gives, to the bit, and a slice is the slice of the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.quantised.numbers import integers, table
from mergery.dtypes import DTYPES
from tests.checkpoints.quantised.storing import NAME, compress, opened, ranges, weight, whole


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("shape", [(96, 256), (300, 1030)])
@pytest.mark.filterwarnings("ignore")
def test_bitsandbytes_in_four_bits(kind: str, nested: bool, shape: tuple[int, int], tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes", reason="it is the reference").functional
    data, state = functional.quantize_4bit(weight(*shape), quant_type=kind, compress_statistics=nested)
    parts = {f"{NAME}.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    scheme = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with opened(tmp_path, {f"{NAME}.weight": data, **parts}, scheme) as checkpoint:
        assert checkpoint.tensors.keys() == {f"{NAME}.weight", "model.norm.weight"}
        assert checkpoint.decoded == "bitsandbytes, 4 bits"
        assert torch.equal(whole(checkpoint).bfloat16(), functional.dequantize_4bit(data, state))


@pytest.mark.filterwarnings("ignore")
def test_bitsandbytes_int8(tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes", reason="it is the reference").functional
    codes, scales, _ = functional.int8_vectorwise_quant(weight(dtype=torch.float16))
    tensors = {
        f"{NAME}.weight": codes,
        f"{NAME}.SCB": scales,
        f"{NAME}.weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    with opened(tmp_path, tensors) as checkpoint:  # whatever the config says
        assert torch.equal(whole(checkpoint), functional.int8_vectorwise_dequant(codes, scales))


@pytest.mark.parametrize("bits", [4, 8, 2])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_packed_integers(bits: int, groups: int, symmetric: bool, tmp_path: Path) -> None:
    quantization = pytest.importorskip("compressed_tensors", reason="it is the reference").quantization
    size = {"group_size": 256 // groups, "strategy": "group"} if groups > 1 else {"strategy": "channel"}
    args = quantization.QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, **size)
    tensor = weight(rows=100)
    stored, expected = compress(args, "pack-quantized", tensor, **ranges(tensor, groups, bits, symmetric))
    scheme = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": bits}}}}
    with opened(tmp_path, stored, scheme) as checkpoint:
        assert torch.equal(whole(checkpoint).bfloat16(), expected)


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_integers_of_eight_bits(groups: int, symmetric: bool, tmp_path: Path) -> None:
    quantization = pytest.importorskip("compressed_tensors", reason="it is the reference").quantization
    size = {"group_size": 256 // groups, "strategy": "group"} if groups > 1 else {"strategy": "channel"}
    args = quantization.QuantizationArgs(num_bits=8, type="int", symmetric=symmetric, **size)
    tensor = weight()
    stored, expected = compress(args, "int-quantized", tensor, **ranges(tensor, groups, 8, symmetric))
    with opened(tmp_path, stored, {"quant_method": "compressed-tensors"}) as checkpoint:
        assert torch.equal(whole(checkpoint).bfloat16(), expected)


@pytest.mark.parametrize("scale", [(1,), (96, 1)])
@pytest.mark.filterwarnings("ignore")
def test_floats_of_eight_bits(scale: tuple[int, ...], tmp_path: Path) -> None:
    quantization = pytest.importorskip("compressed_tensors", reason="it is the reference").quantization
    strategy = "tensor" if scale == (1,) else "channel"
    args = quantization.QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy=strategy)
    tensor = weight()
    limits = tensor.float().abs().amax() if scale == (1,) else tensor.float().abs().amax(-1, keepdim=True)
    scales = (limits / 448).reshape(scale).bfloat16()
    stored, expected = compress(args, "float-quantized", tensor, weight_scale=scales)
    stored[f"{NAME}.input_scale"] = torch.ones(1)
    with opened(tmp_path, stored, {"quant_method": "compressed-tensors"}) as checkpoint:
        assert torch.equal(whole(checkpoint).bfloat16(), expected)


@pytest.mark.parametrize("kind", ["nvfp4-pack-quantized", "mxfp4-pack-quantized"])
@pytest.mark.filterwarnings("ignore")
def test_floats_of_four_bits(kind: str, tmp_path: Path) -> None:
    quantization = pytest.importorskip("compressed_tensors", reason="it is the reference").quantization
    tensor = weight()
    if kind.startswith("nv"):
        args = quantization.QuantizationArgs(
            num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True
        )
        overall = (448 * 6 / tensor.float().abs().amax()).reshape(1)
        scales = (tensor.float().reshape(96, 16, 16).abs().amax(-1) / 6 * overall).to(torch.float8_e4m3fn)
        state = {"weight_scale": scales.float(), "weight_global_scale": overall}
    else:
        args = quantization.QuantizationArgs(num_bits=4, type="float", strategy="group", group_size=32, symmetric=True)
        exponents = torch.floor(torch.log2(tensor.float().reshape(96, 8, 32).abs().amax(-1))) - 2
        state = {"weight_scale": (2.0**exponents).bfloat16()}
    try:
        stored, expected = compress(args, kind, tensor, **state)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        pytest.skip(f"the reference does not run here: {error}")
    with opened(tmp_path, stored, {"quant_method": "compressed-tensors"}) as checkpoint:
        assert torch.allclose(
            whole(checkpoint), expected.float(), rtol=2**-7, atol=0
        )  # the reference rounds on its way
        assert torch.equal(whole(checkpoint)[expected == 0], expected[expected == 0].float())


@pytest.mark.parametrize("shape", [(256, 384), (320, 256)])
def test_blocks_of_deepseek(shape: tuple[int, int], tmp_path: Path) -> None:
    codes = weight(*shape, dtype=torch.float32).to(torch.float8_e4m3fn)
    grid = (-(-shape[0] // 128), -(-shape[1] // 128))
    scales = torch.rand(grid, generator=torch.Generator().manual_seed(1)) + 0.5
    each = scales.repeat_interleave(128, 0)[: shape[0]].repeat_interleave(128, 1)[:, : shape[1]]
    stored = {f"{NAME}.weight": codes, f"{NAME}.weight_scale_inv": scales}
    for folder, scheme in (("a", {"quant_method": "fp8", "weight_block_size": [128, 128]}), ("b", None)):
        (tmp_path / folder).mkdir()
        with opened(tmp_path / folder, stored, scheme) as checkpoint:
            assert torch.equal(whole(checkpoint), codes.float() * each)
    if shape[0] % 128 == 0:
        fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
        reference = fp8.Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
        assert torch.equal(codes.float() * each, reference)


def test_experts_of_gpt_oss(tmp_path: Path) -> None:
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4", reason="it is the reference")
    random = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 64, 5, 16), generator=random, dtype=torch.uint8)
    scales = torch.randint(120, 130, (3, 64, 5), generator=random, dtype=torch.uint8)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    with opened(
        tmp_path, {f"{name}_blocks": blocks, f"{name}_scales": scales}, {"quant_method": "mxfp4"}
    ) as checkpoint:
        expected = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        assert torch.equal(whole(checkpoint, name), expected)


def gptq(codes: torch.Tensor, zeros: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [out, in] and zero points [groups, out] in words, as GPTQ's first writers pack them: bit by bit."""

    def pack(values: torch.Tensor) -> torch.Tensor:  # along the last axis
        every = (values.numpy().astype(np.uint8)[..., None] >> np.arange(bits, dtype=np.uint8) & 1).reshape(
            len(values), -1
        )
        return torch.from_numpy(np.packbits(every, axis=-1, bitorder="little").view(np.int32))

    return pack(codes).T.contiguous(), pack(zeros)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("ordered", [True, False])
def test_gptq(bits: int, version: str, ordered: bool, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(bits)
    rows, columns, groups = 96, 256, 8
    codes = torch.randint(0, 1 << bits, (rows, columns), generator=random)
    zeros = torch.randint(0, (1 << bits) - 1, (groups, rows), generator=random)
    scales = torch.rand(groups, rows, generator=random).half()
    group = (
        torch.arange(columns) // 32
        if ordered
        else torch.arange(columns)[torch.randperm(columns, generator=random)] // 32
    )
    qweight, qzeros = gptq(codes, zeros, bits)
    stored = {"qweight": qweight, "qzeros": qzeros, "scales": scales, "g_idx": group.int()}
    if ordered:
        del stored["g_idx"]
    scheme = {"quant_method": "gptq", "bits": bits, "group_size": 32, "checkpoint_format": version}
    one = 1 if version == "gptq" else 0
    expected = (codes.float() - zeros.T[:, group].float() - one) * scales.float().T[:, group]
    with opened(tmp_path, {f"{NAME}.{key}": value for key, value in stored.items()}, scheme) as checkpoint:
        assert torch.equal(whole(checkpoint), expected)


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
)
def test_eight_bit_floats_by_table(name: str) -> None:
    words = next(each.name for each in DTYPES.values() if each.torch == name)
    expected = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name)).float().numpy()
    assert np.array_equal(table(words), expected, equal_nan=True)


def test_floats_of_eight_bits_alone(tmp_path: Path) -> None:
    codes = weight(dtype=torch.float32).to(torch.float8_e4m3fn)
    with opened(tmp_path, {f"{NAME}.weight": codes}) as checkpoint:
        assert torch.equal(whole(checkpoint), codes.float())
        assert checkpoint.kept[f"{NAME}.weight"].dtype.torch == "bfloat16"


def test_three_bits_cross_words() -> None:
    every = np.arange(32) % 8
    words = np.packbits((every[:, None] >> np.arange(3) & 1).astype(np.uint8).reshape(-1), bitorder="little").view(
        "<u4"
    )
    assert integers(words[None], 3).tolist() == [every.tolist()]


def test_a_merge_of_decoded_models_keeps_their_dtype(mergery: Any, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        codes = weight(dtype=torch.float32, seed=seed).to(torch.float8_e4m3fn)
        scales = torch.rand(96, 1)
        opened(
            tmp_path / name, {f"{NAME}.weight": codes, f"{NAME}.weight_scale": scales}, {"quant_method": "fp8"}
        ).close()
    (tmp_path / "r.yaml").write_text("models: {a: a, b: b}\nmerge: {method: linear}\n")
    text = " ".join(mergery("plan", tmp_path / "r.yaml").out.split())
    assert "a, b: their weights are codes (eight bits with scales), decoded as they are read" in text
    assert mergery("merge", tmp_path / "r.yaml", tmp_path / "out").code == 0
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "out" / "model.safetensors")
    a, b = (whole(open_checkpoint(tmp_path / name)) for name in "ab")
    assert tensors.keys() == {f"{NAME}.weight", "model.norm.weight"}
    assert torch.equal(tensors[f"{NAME}.weight"], ((a + b) / 2).bfloat16())
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize("lost", ["scales", "qzeros"])
def test_what_is_incomplete_is_refused(lost: str, mergery: Any, tmp_path: Path) -> None:
    stored = {"qweight": torch.zeros(32, 96, dtype=torch.int32), "qzeros": torch.zeros(8, 12, dtype=torch.int32),
              "scales": torch.ones(8, 96).half()}  # fmt: skip
    del stored[lost]
    for name in "ab":
        (tmp_path / name).mkdir()
        opened(
            tmp_path / name, {f"{NAME}.{key}": value for key, value in stored.items()}, {"quant_method": "gptq"}
        ).close()
    (tmp_path / "r.yaml").write_text("models: {a: a, b: b}\nmerge: {method: linear}\n")
    outcome = mergery("merge", tmp_path / "r.yaml", tmp_path / "out")
    assert outcome.code == 2
    assert "the model 'a' is quantised (gptq)" in outcome.err
