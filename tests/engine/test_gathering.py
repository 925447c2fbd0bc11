"""A tensor gathered from ranges of others is read, and merged, as if it were stored whole."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery import merge_tensors
from mergery.checkpoints import open_checkpoint
from mergery.dtypes import BF16, F32
from mergery.engine import Shared, Workspace, evaluator
from mergery.graph.gathering import from_ranges
from mergery.graph.nodes import Gathered, Merged, Node, Stored
from mergery.graph.walking import is_computed, leaves, merges_below
from mergery.method import find


def leaf(values: torch.Tensor, model: str = "a") -> Stored:
    checkpoint = open_checkpoint({"x": values}, label=model)
    return Stored(model, checkpoint, checkpoint.tensors["x"])


def merged(name: str, *inputs: Node, base: Node | None = None, **given: object) -> Merged:
    method = find(name)
    models = tuple(str(index) for index in range(len(inputs)))
    chosen = method.resolve(len(inputs), given)
    return Merged(method, "x", models, inputs, base if method.base != "unused" else None, chosen, F32, 0)


def made(node: Node, window: int | None = None) -> np.ndarray:
    """All elements of a node, made in windows of one size."""
    assert not isinstance(node, Stored)
    out = np.empty(node.elements * 4, dtype=np.uint8)
    maker = evaluator(node, Shared(), Workspace())
    maker.prepare()
    cuts = [(low, min(node.elements, low + window)) for low in range(0, node.elements, window)] if window else None
    for start, stop in cuts or maker.outputs():
        maker.compute(start, stop, out[4 * start : 4 * stop], F32)
    return out.view(np.float32)


@settings(max_examples=60)
@given(st.data())
def test_any_ranges_of_any_dtypes(data):
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    dtypes = [data.draw(st.sampled_from([torch.float32, torch.bfloat16])) for _ in sizes]
    tensors = [torch.arange(n).to(dtype) + 100 * i for i, (n, dtype) in enumerate(zip(sizes, dtypes, strict=True))]
    stored = [leaf(tensor) for tensor in tensors]
    ranges, expected = [], []
    for _ in range(data.draw(st.integers(1, 6))):
        source = data.draw(st.integers(-1, len(sizes) - 1))
        start = data.draw(st.integers(0, (sizes[source] if source >= 0 else 5) - 1))
        length = data.draw(st.integers(1, (sizes[source] if source >= 0 else 10) - start))
        ranges.append((stored[source] if source >= 0 else None, start, length))
        expected += tensors[source][start : start + length].tolist() if source >= 0 else [0.0] * length
    node = from_ranges("y", (len(expected),), ranges)
    if isinstance(node, Gathered):
        assert made(node, data.draw(st.integers(1, 9))).tolist() == expected
    else:
        assert node in stored


def test_a_whole_source_is_not_gathered():
    stored = leaf(torch.ones(4, 3))
    assert from_ranges("y", (4, 3), [(stored, 0, 6), (stored, 6, 6)]) is stored
    assert isinstance(from_ranges("y", (12,), [(stored, 0, 12)]), Gathered)


def test_a_fused_tensor_is_split_merged_and_put_together_again():
    torch.manual_seed(0)
    a, b = (torch.randn(12, 5) for _ in range(2))
    parts = []
    for first, rows in ((0, 4), (4, 8)):  # two matrices in one, each a vector of its own on the sphere
        split = [from_ranges("part", (rows, 5), [(leaf(t), first * 5, rows * 5)]) for t in (a, b)]
        parts.append(merged("slerp", *split, t=0.3))
    node = from_ranges("y", (12, 5), [(parts[1], 20, 20), (parts[0], 0, 20), (parts[1], 0, 20)])
    slerp = find("slerp")
    upper, lower = (merge_tensors(slerp, [a[rows], b[rows]], t=0.3) for rows in (slice(0, 4), slice(4, 12)))
    assert made(node).reshape(12, 5).tolist() == torch.cat((lower[4:], upper, lower[:4])).tolist()
    assert is_computed(node)
    assert len(merges_below([node])[0]) == 2
    assert len(leaves(node)) == 4


def test_a_gathered_tensor_is_merged_like_a_stored_tensor():
    torch.manual_seed(1)
    base, a, b = (torch.randn(300, 40) for _ in range(3))
    gathered = [from_ranges("x", (300, 40), [(leaf(t[:100]), 0, 4000), (leaf(t[100:]), 0, 8000)]) for t in (base, a, b)]
    for method in ("ties", "dare_ties", "linear", "breadcrumbs", "karcher"):
        chosen = {"scope": "tensor"} if method == "ties" else {}
        plain = made(merged(method, leaf(a), leaf(b), base=leaf(base), **chosen))
        assert made(merged(method, *gathered[1:], base=gathered[0], **chosen)).tolist() == plain.tolist()


def test_a_window_that_is_kept_is_not_taken_for_one_of_another_dtype():
    torch.manual_seed(2)
    inner = merged("slerp", *(leaf(torch.randn(3, 4)) for _ in range(2)), t=0.3)
    maker = evaluator(from_ranges("y", (6,), [(inner, 0, 3), (inner, 6, 3)]), Shared(), Workspace())
    maker.prepare()
    whole, half = np.empty(24, np.uint8), np.empty(12, np.uint8)
    maker.compute(0, 6, whole, F32)
    maker.compute(0, 6, half, BF16)
    values = torch.from_numpy(whole).view(torch.float32)
    assert torch.from_numpy(half).view(torch.bfloat16).equal(values.bfloat16())
