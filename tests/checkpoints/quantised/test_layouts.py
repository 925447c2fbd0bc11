"""Layouts of powers of two, of stacks of experts, of AWQ and torchao: as their writers give them, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints.quantised.storing import NAME, compress, opened, ranges, weight, whole


@pytest.mark.parametrize("kind", ["mxfp8-quantized", "mxfp6-pack-quantized", "mxfp4-pack-quantized"])
@pytest.mark.filterwarnings("ignore")
def test_floats_with_powers_of_two(kind: str, tmp_path: Path) -> None:
    quantization = pytest.importorskip("compressed_tensors", reason="it is the reference").quantization
    from compressed_tensors.quantization.utils import calculate_qparams

    size = {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8, "zp_dtype": torch.uint8}
    args = quantization.QuantizationArgs(num_bits=int(kind[4]), type="float", symmetric=True, **size)
    tensor = weight()
    parts = tensor.reshape(96, 8, 32)
    scales, _ = calculate_qparams(parts.amin(-1), parts.amax(-1), args)
    stored, expected = compress(args, kind, tensor, weight_scale=scales)
    assert stored[f"{NAME}.weight_scale"].dtype == torch.uint8
    with opened(tmp_path, stored, {"quant_method": "compressed-tensors", "format": kind}) as checkpoint:
        assert torch.equal(whole(checkpoint).bfloat16(), expected)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_stacks_of_packed_experts(bits: int, symmetric: bool, tmp_path: Path) -> None:
    quantization = pytest.importorskip("compressed_tensors", reason="it is the reference").quantization
    args = quantization.QuantizationArgs(
        num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=32
    )
    scheme = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": bits}}}}
    made = [weight(64, 128, seed=seed) for seed in range(3)]
    each = [compress(args, "pack-quantized", one, **ranges(one, 4, bits, symmetric)) for one in made]
    stored = {name: torch.stack([parts[name] for parts, _ in each]) for name in each[0][0]}
    stored[f"{NAME}.weight_shape"] = torch.tensor([3, 64, 128])
    with opened(tmp_path, stored, scheme) as checkpoint:
        assert torch.equal(whole(checkpoint).bfloat16(), torch.stack([again for _, again in each]))


@pytest.mark.parametrize("grid", [(3, 1, 1), (3, 128, 1), (3, 1, 2)])
def test_stacks_of_experts_in_eight_bits(grid: tuple[int, ...], tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(1)
    codes = weight(3 * 128, 256, dtype=torch.float32).reshape(3, 128, 256).to(torch.float8_e4m3fn)
    scales = torch.rand(grid, generator=random) + 0.5
    each = scales.repeat_interleave(128 // grid[1], 1).repeat_interleave(256 // grid[2], 2)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    stored = {name: codes, f"{name}_scale_inv": scales}
    with opened(tmp_path, stored, {"quant_method": "fp8", "weight_block_size": [128, 128]}) as checkpoint:
        assert torch.equal(whole(checkpoint, name), codes.float() * each)


def awq(codes: torch.Tensor, zeros: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [in, out] and zero points [groups, out] in words of eight, as AutoAWQ packs them."""

    def pack(values: torch.Tensor) -> torch.Tensor:
        words = torch.zeros(len(values), values.shape[1] // 8, dtype=torch.int64)
        for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            words |= values[:, column::8].long() << 4 * place
        return torch.where(words >= 1 << 31, words - (1 << 32), words).int()

    return pack(codes), pack(zeros)


def test_awq(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (256, 96), generator=random)
    zeros = torch.randint(0, 16, (8, 96), generator=random)
    scales = torch.rand(8, 96, generator=random).half()
    qweight, qzeros = awq(codes, zeros)
    stored = {f"{NAME}.qweight": qweight, f"{NAME}.qzeros": qzeros, f"{NAME}.scales": scales}
    scheme = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    group = torch.arange(256) // 32
    expected = ((codes - zeros[group]).float() * scales.float()[group]).T
    with opened(tmp_path, stored, scheme) as checkpoint:
        assert checkpoint.decoded == "AWQ"
        assert torch.equal(whole(checkpoint), expected)


@pytest.mark.parametrize("kind", ["int8", "groups", "intx", "float8"])
def test_torchao(kind: str, tmp_path: Path) -> None:
    """The layout as transformers saves it; the numbers are what torchao 0.18 says of them: (q - z) s, in bfloat16."""
    random = torch.Generator().manual_seed(0)
    groups = 1 if kind in ("int8", "float8") else 8
    scales = (torch.rand(96, groups, generator=random) / 100).to(torch.bfloat16 if kind == "intx" else torch.float32)
    zeros = torch.randint(-3, 3, (96, groups), generator=random).to(torch.int8)
    stem = f"{NAME}._weight"
    if kind == "float8":
        codes, zeros = weight(dtype=torch.float32).to(torch.float8_e4m3fn), torch.zeros(96, 1)
        stored = {f"{stem}_qdata": codes, f"{stem}_scale": scales}
    else:
        codes = torch.randint(-8, 8, (96, 256), generator=random).to(torch.int8)
        stored = {f"{stem}_qdata": codes, f"{stem}_scale": scales, f"{stem}_zero_point": zeros}
    spread = [each.float().repeat_interleave(256 // groups, 1) for each in (zeros, scales)]
    with opened(tmp_path, stored, {"quant_method": "torchao"}) as checkpoint:
        assert torch.equal(whole(checkpoint), (codes.float() - spread[0]) * spread[1])


@pytest.mark.parametrize("change", [{"scale_and_zero": (8, 96, 2)}, {"zero_point": (96, 8)}])
def test_what_torchao_packs_for_a_processor_is_refused(change: dict, mergery: Any, tmp_path: Path) -> None:
    stem = f"{NAME}._weight"
    stored = {f"{stem}_qdata": torch.zeros(96, 128, dtype=torch.int8), f"{stem}_scale": torch.ones(96, 8)}
    stored |= {f"{stem}_{part}": torch.ones(shape) for part, shape in change.items()}
    for name in "ab":
        (tmp_path / name).mkdir()
        opened(tmp_path / name, stored, {"quant_method": "torchao"}).close()
    (tmp_path / "r.yaml").write_text("models: {a: a, b: b}\nmerge: {method: linear}\n")
    outcome = mergery("merge", tmp_path / "r.yaml", tmp_path / "out")
    assert outcome.code == 2
    assert "is quantised (torchao)" in outcome.err
