"""What is planted in a plan's graph is found, and named by its tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from mergery.api import plan
from mergery.checkpoints.base import TensorInfo
from mergery.dtypes import BY_TORCH, F32
from mergery.graph.gathering import from_ranges
from mergery.graph.nodes import Computed, Gathered, LowRank, Matrices, Merged, Node, Read, Stored
from mergery.method import find
from mergery.testing.graph import faults, plan_faults
from tests.engine.test_gathering import leaf, merged

INT64 = np.int64


def stored(*shape: int) -> Stored:
    return leaf(torch.ones(shape))


def linear(**changes: object) -> Merged:
    node = merged("linear", stored(4, 3), stored(4, 3))
    for name, value in changes.items():
        setattr(node, name, value)
    return node


def gathered(which: list[int], starts: list[int], lengths: list[int], **changes: object) -> Gathered:
    columns = (np.array(column, INT64) for column in (which, starts, lengths))
    node = Gathered("x", (sum(lengths),), F32, (stored(4, 3),), *columns)
    return replace(node, **changes) if changes else node


def nothing(reads: object) -> Read:
    return lambda start, stop: np.zeros(stop - start, np.float32)


def product(left: Node | None = None, right: Node | None = None, *, transposed: bool = False) -> Computed:
    base, left, right = stored(4, 3), left or stored(4, 2), right or stored(2, 3)
    factors = LowRank(left, right, 1.0, transposed=transposed)
    return Computed("x", (4, 3), (base, left, right), nothing, "a product", base=base, low_rank=(factors,))


def of_itself() -> Merged:
    node = linear()
    node.inputs = (node.inputs[0], from_ranges("x", (4, 3), [(node, 6, 6), (node, 0, 6)]))
    return node


PLANTED: dict[str, tuple[Callable[[], Node], str]] = {
    "header": (lambda: Stored("a", stored(4).checkpoint, TensorInfo("x", (5,), F32)), "a has no x of float32 [5]"),
    "shapes": (lambda: linear(inputs=(stored(4, 3), stored(3, 4))), "linear of [4, 3] and [3, 4]"),
    "integers": (lambda: merged("linear", leaf(torch.ones(3, dtype=torch.int64))), "linear of int64"),
    "models": (lambda: linear(models=("a",)), "linear of 2 tensors of 1 models"),
    "a base": (lambda: linear(base=stored(4, 3)), "linear takes no base"),
    "no base": (lambda: linear(method=find("ties")), "ties needs a base"),
    "a dtype": (lambda: linear(dtype=BY_TORCH["int64"]), "linear gives int64"),
    "settings": (lambda: linear(settings={"t": 0.5}), "linear with t"),
    "a setting": (lambda: linear(settings={"weight": np.ones(3), "normalize": True}), "linear with weight of"),
    "matrices": (lambda: linear(matrices=Matrices(1, 4, 3)), "linear reads [4, 3] as Matrices"),
    "no matrices": (lambda: linear(method=find("iso_c")), "iso_c reads [4, 3] as None"),
    "beyond": (lambda: gathered([0, 0], [0, 10], [5, 3]), "elements to 13 of a source of 12"),
    "before": (lambda: gathered([0], [-1], [5]), "its ranges begin or end nowhere"),
    "no source": (lambda: gathered([1], [0], [5]), "its ranges begin or end nowhere"),
    "columns": (lambda: gathered([0, 0], [0], [5]), "its ranges are no int64 of one length"),
    "another dtype": (lambda: gathered([0], [0], [5], dtype=BY_TORCH["bfloat16"]), "bfloat16 of float32"),
    "computed": (
        lambda: Computed("x", (2,), (), nothing, "zeros", dtype=BY_TORCH["float16"]),
        "zeros is computed in float16",
    ),
    "memory": (lambda: Computed("x", (2,), (), nothing, "zeros", per_element=-4), "zeros holds -4 bytes"),
    "factors": (lambda: product(stored(5, 2), stored(2, 3)), "a product has factors [5, 2] and [2, 3], and is [4, 3]"),
    "turned": (lambda: product(stored(4, 2), stored(2, 3), transposed=True), "a product has factors [4, 2] and [2, 3]"),
    "a base alone": (
        lambda: replace(product(), low_rank=()),
        "a product has factors without a base, or a base without",
    ),
    "another base": (lambda: replace(product(), base=stored(4, 3)), "a product has a base of [4, 3] that is not among"),
    "a factor": (
        lambda: replace(product(), sources=product().sources[:1]),
        "a product has a base of [4, 3] that is not",
    ),
    "later": (lambda: merged("linear", linear(merge=2)), "merge 0 of what merge 2 makes"),
    "below": (lambda: merged("linear", linear(models=())), "linear of 2 tensors of 0 models"),
    "a circle": (of_itself, "it is made of itself"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_what_is_planted_is_found(fault):
    make, words = PLANTED[fault]
    found = faults({"sound": linear(), "x": make()})
    assert any(line.startswith(f"x: {words}") for line in found), found
    assert not faults({"x": product(), "y": product(stored(3, 2), stored(2, 4), transposed=True)})
    assert not any(line.startswith("sound") for line in found)


def test_ranges_that_do_not_fill_a_tensor_are_found():
    node = gathered([0], [0], [5])
    object.__setattr__(node, "shape", (6,))
    assert faults({"x": node}) == ["x: its ranges have 5 elements, and its shape 6"]


def test_bytes_that_overlap_are_found(llamas):
    models = {name: str(llamas / name) for name in ("base", "a")}
    made = plan({"models": models, "merge": {"method": "linear"}})
    made.close()
    assert not plan_faults(made)
    first, second, *others = made.steps
    moved = second._replace(slot=second.slot._replace(offset=first.slot.offset))
    found = plan_faults(replace(made, steps=(first, moved, *others)))
    assert found[0].startswith(f"{second.name}: it begins at {first.slot.offset}, and what stands before it ends at")
    other = first.slot.info._replace(shape=(1, *first.node.shape))
    found = plan_faults(replace(made, steps=(first._replace(slot=first.slot._replace(info=other)), second, *others)))
    assert found == [f"{first.name}: {list(first.node.shape)} is written as {list(other.shape)}"]
