"""Task vectors that are no larger than rounding: what formats lose is what is said of them, and a merge of rounding is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mergery import api
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.quantised.numbers import LOST, lost_by, table
from mergery.kernels.rounding import Grid, nearest, scales_of, spread
from mergery.testing.families import FAMILIES, make
from mergery.testing.families.making import perturb

LLAMA = next(family for family in FAMILIES if family.name == "Llama")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 128])
def test_what_integers_lose(bits: int, group: int) -> None:
    values = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0))
    grid = Grid(bits, group=group)
    scales = scales_of(values, grid, torch.float32)
    share = (nearest(values, scales, grid) * spread(scales, 1024) - values).norm() / values.norm()
    assert 0.75 * lost_by(bits) < float(share) < 1.35 * lost_by(bits)


@pytest.mark.parametrize(("name", "values"), [
    ("e4m3", table("F8_E4M3")), ("e2m1", (0, 0.5, 1, 1.5, 2, 3, 4, 6)),
    ("e2m3", [p / 8 for p in range(8)] + [(1 + p / 8) * 2**e for e in range(3) for p in range(8)]),
])  # fmt: skip
def test_what_floats_lose(name: str, values: Any) -> None:
    codes = torch.tensor([float(each) for each in values if float(each) == float(each)])
    codes = torch.unique(torch.cat([codes, -codes]))
    numbers = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    scales = numbers.abs().amax(1, keepdim=True) / codes.max()
    if name != "e4m3":
        scales = 2.0 ** torch.ceil(torch.log2(scales))
    found = codes[(numbers / scales).unsqueeze(-1).sub(codes).abs().argmin(-1)] * scales
    share = float((found - numbers).norm() / numbers.norm())
    assert 0.7 * LOST[name] < share < 1.4 * LOST[name]


def test_a_merge_of_rounding_is_told(mergery: Any, tmp_path: Path) -> None:
    make(LLAMA, tmp_path / "base")
    perturb(tmp_path / "base", tmp_path / "near", 1, 0.002)  # of weights of about 0.05
    perturb(tmp_path / "base", tmp_path / "far", 1, 0.02)
    api.export_quantised(tmp_path / "base", tmp_path / "base-w4", scheme="w4a16", group=32)
    with open_checkpoint(tmp_path / "base-w4") as checkpoint:
        assert checkpoint.lost == lost_by(4)

    def merged(out: str, base: str, model: str) -> str:
        recipe = tmp_path / f"{out}.yaml"
        recipe.write_text(
            f"models: {{base: {base}, m: {model}}}\nmerge: {{method: task_arithmetic, base: base, scale: 1.0}}\n"
        )
        outcome = mergery("merge", recipe, tmp_path / out)
        assert outcome.code == 0
        return " ".join(outcome.err.split())

    said = merged("noise", "base", "base-w4")
    assert (
        "m: its weights are codes (compressed-tensors, packed integers), decoded as they are read; rounding has moved"
        in said
    )
    assert "about 9.0% of their length" in said
    assert "the task vector of m is" in said
    assert "what is merged is mostly rounding" in said
    assert "mostly rounding" in (tmp_path / "noise" / "README.md").read_text()
    assert "mostly rounding" not in merged("plain-out", "base", "near")
    assert "mostly rounding" in merged("coded-out", "base-w4", "near")
    assert "mostly rounding" not in merged("far-out", "base-w4", "far")
