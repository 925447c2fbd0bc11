"""A model that is one file keeps its name, in shards as well, and what was written is read, verified and found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.mark.parametrize(("size", "names"), [("5GB", ["photo-v2.safetensors"]), ("300B", None)])
def test_the_name_of_a_single_file_is_kept(mergery: Any, tmp_path: Path, size: str, names: list[str] | None) -> None:
    torch.manual_seed(0)
    for name in ("photo-v2", "other"):
        tensors = {f"block.{layer}.weight": torch.randn(8, 8) for layer in range(3)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    (tmp_path / "recipe.yaml").write_text(
        "models: {a: ./photo-v2.safetensors, b: ./other.safetensors}\nmerge: {method: linear}\n"
        f"output: {{shard_size: {size}}}\n"
    )
    assert mergery("merge", tmp_path / "recipe.yaml", tmp_path / "out").code == 0
    written = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert written == (names or [f"photo-v2-0000{number}-of-00003.safetensors" for number in (1, 2, 3)])
    merged = {key: value for name in written for key, value in load_file(tmp_path / "out" / name).items()}
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("photo-v2", "other"))
    for key, value in merged.items():
        assert torch.allclose(value, (first[key] + second[key]) / 2)
    assert mergery("verify", tmp_path / "out").code == 0
    again = f"models: {{a: {tmp_path / 'out'}}}\nmerge: {{method: passthrough}}\n"
    (tmp_path / "again.yaml").write_text(again)
    assert mergery("merge", tmp_path / "again.yaml", tmp_path / "copy").code == 0
