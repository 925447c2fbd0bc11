"""Output files are laid out byte for byte as safetensors writes them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some
from safetensors.numpy import load

from mergery.checkpoints import TensorInfo
from mergery.dtypes import BF16, F16, F32
from mergery.errors import PlanError
from mergery.planning.layout import lay_out

NAMES = some.text(some.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: name != "__metadata__")
SHAPES = some.lists(some.integers(0, 5), max_size=3).map(tuple)
INFOS = some.lists(
    some.builds(TensorInfo, NAMES, SHAPES, some.sampled_from([F32, F16])), unique_by=lambda info: info.name
)


@given(INFOS, some.integers(1, 200))
def test_files_are_read_back_by_safetensors(infos: list[TensorInfo], shard_size: int) -> None:
    layout = lay_out(infos, shard_size, {"format": "pt"})
    found = {}
    for shard in layout.shards:
        found |= load(shard.header + bytes(shard.size - len(shard.header)))
    assert {name: array.shape for name, array in found.items()} == {info.name: info.shape for info in infos}
    assert all(slot.offset % slot.info.dtype.itemsize == 0 for slot in layout.slots)  # every tensor is aligned


@given(INFOS)
def test_headers_are_compact_json(infos: list[TensorInfo]) -> None:
    (shard,) = lay_out(infos, 1 << 30, {"format": "pt", "ä": '"'}).shards
    text = shard.header[8:].decode().rstrip(" ")
    assert text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
    assert len(shard.header) % 8 == 0


@pytest.mark.parametrize("names", [["__metadata__"], ["a", "b", "a"]])
def test_names_that_stand_twice_are_refused(names: list[str]) -> None:
    with pytest.raises(PlanError, match="cannot be written"):
        lay_out([TensorInfo(name, (2,), BF16) for name in names], 4, {})
