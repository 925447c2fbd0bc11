"""Adapters on one base are merged as their factors: what comes of it is what comes of differences, at the cost of the rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from mergery.dtypes import F32
from mergery.engine import Factoring, Merging, Shared, Workspace, evaluator
from mergery.errors import DataError
from mergery.graph.gathering import from_ranges, from_rows
from mergery.graph.nodes import Computed, LowRank, Merged, Node, OfExperts, Read, read_matrices
from mergery.graph.products import products, route_of
from mergery.method import find, methods
from mergery.testing.examples import coins_of
from mergery.testing.reference import REFERENCES
from tests.engine.test_gathering import leaf, made

FACTORED = sorted(name for name, method in methods().items() if method.takes_factors)
OUT, INTO, RANKS = 36, 44, (3, 1, 2)
SETTINGS = {"tsv_compress": {"task": 1}, "dc_merge": {"density": 0.3}, "wudi": {"steps": 20}, "optmerge": {"steps": 20}}


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def never(reads: Sequence[Read]) -> Read:
    raise AssertionError("a product was multiplied out on its base")


def on_base(base: Node, *pairs: tuple[torch.Tensor, torch.Tensor], scale: float = 1.0, **more: Any) -> Computed:
    """A base with products on it, which cannot be read but as its factors."""
    factors = tuple(LowRank(leaf(left), leaf(right), scale, **more) for left, right in pairs)
    sources = (base, *(node for each in factors for node in (each.left, each.right)))
    return Computed("x", base.shape, sources, never, "LoRA", base=base, low_rank=factors)


def pairs(out: int, into: int, ranks: Sequence[int] = RANKS, seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (normal(out, rank, seed=seed + 2 * number) * 0.1, normal(rank, into, seed=seed + 2 * number + 1))
        for number, rank in enumerate(ranks)
    ]


def merge_of(method: str, base: Node, inputs: Sequence[Node], *, transposed: bool = False, **given: Any) -> Merged:
    found = find(method)
    chosen = found.resolve(len(inputs), {**SETTINGS.get(method, {}), **given})
    names = tuple(str(number) for number in range(len(inputs)))
    matrices = read_matrices(base.shape, transposed=transposed)
    return Merged(found, "tensor", names, tuple(inputs), base, chosen, F32, 0, matrices)


def expected(node: Merged, base: torch.Tensor, deltas: Sequence[torch.Tensor]) -> np.ndarray:
    """The method's own float64 reference over whole matrices."""
    wide = base.double()
    models = [(wide + delta.double()).numpy() for delta in deltas]
    return REFERENCES[node.method.name](models, wide.numpy(), coins_of([base] * len(deltas), 0), **node.settings)


def close(node: Node, wanted: np.ndarray, base: torch.Tensor) -> bool:
    """Whether what is added to the base is right to a few millionths of its size."""
    change = wanted - base.double().numpy()
    away = made(node).reshape(wanted.shape).astype(np.float64) - wanted
    return bool(np.abs(away).max() <= 4e-6 * np.abs(change).max() + 2.0**-24 * np.abs(wanted).max())


@pytest.mark.parametrize("name", FACTORED)
@pytest.mark.parametrize("shape", [(OUT, INTO), (INTO, OUT)])
def test_what_is_made_of_factors_is_that_of_differences(name: str, shape: tuple[int, int]) -> None:
    base, own = normal(*shape, seed=0), pairs(*shape)[: find(name).models[1] or 3]
    stored = leaf(base)
    node = merge_of(name, stored, [on_base(stored, each) for each in own])
    assert isinstance(evaluator(node, Shared(), Workspace()), Factoring)
    deltas = [left.double() @ right.double() for left, right in own]
    assert close(node, expected(node, base, deltas), base)


@pytest.mark.parametrize("name", ["dc_merge", "tsv_merge", "iso_c", "swudi_a"])
def test_a_base_in_sixteen_bits_has_no_part_in_the_directions(name: str) -> None:
    """Differences of float32 sums hold the base's rounding in every direction, and these are small adapters."""
    base = (normal(OUT, INTO, seed=0) * 100).bfloat16()
    own = [(left * 1e-3, right * 1e-3) for left, right in pairs(OUT, INTO)]
    stored = leaf(base)
    node = merge_of(name, stored, [on_base(stored, each) for each in own], scale=1.0)
    change = made(node).reshape(OUT, INTO).astype(np.float64) - base.double().numpy()
    wanted = expected(node, torch.zeros(OUT, INTO), [left.double() @ right.double() for left, right in own])
    rounding = 2.0**-24 * float(base.abs().max())
    assert np.abs(change - wanted).max() <= rounding


def nearly_apart(out: int, into: int, rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two adapters that share little of their directions, so that each M_i of DC-Merge stands out by its diagonal."""
    sizes = torch.linspace(2.0, 1.0, rank)
    lefts, rights = (
        (torch.linalg.qr(normal(side, 2 * rank, seed=seed)).Q + 0.002 * normal(side, 2 * rank, seed=seed + 1)).split(
            rank, 1
        )
        for seed, side in ((1, out), (3, into))
    )
    return [(left * sizes, right.mT) for left, right in zip(lefts, rights, strict=True)]


@pytest.mark.parametrize("name", ["dc_merge", "tsv_merge", "iso_cts"])
def test_large_cores_have_their_last_products_in_float32(name: str) -> None:
    rank, width = 260, 520
    own = nearly_apart(640, 600, rank)
    stored = leaf(torch.zeros(640, 600))
    inputs = [on_base(stored, each) for each in own]
    given = (
        {"density": (rank + 0.5) / width**2} if name == "dc_merge" else {}
    )  # no two entries near the cut, none to vote on
    fast, exact = (merge_of(name, stored, inputs, precision=precision, **given) for precision in ("fast", "exact"))
    assert products(fast) is not None
    away = np.abs(made(fast) - made(exact)).max()
    assert 0.0 < away <= 1e-5 * np.abs(made(exact)).max()


def test_several_adapters_on_one_model_and_a_model_that_is_the_base() -> None:
    base, (first, second, third) = normal(OUT, INTO, seed=0), pairs(OUT, INTO)
    stored = leaf(base)
    node = merge_of("iso_c", stored, [on_base(stored, first, second, scale=0.5), stored, on_base(stored, third)])
    sums = [0.5 * (first[0] @ first[1] + second[0] @ second[1]), torch.zeros(OUT, INTO), third[0] @ third[1]]
    assert close(node, expected(node, base, sums), base)


def test_where_no_model_changes_a_matrix_it_is_the_base_to_the_bit() -> None:
    stored = leaf(normal(OUT, INTO, seed=0))
    node = merge_of("dc_merge", stored, [stored, stored])
    assert isinstance(evaluator(node, Shared(), Workspace()), Factoring)
    np.testing.assert_array_equal(made(node), normal(OUT, INTO, seed=0).reshape(-1).numpy())


def test_a_scalar_alpha_is_part_of_the_scale() -> None:
    base, (pair, *_) = normal(OUT, INTO, seed=0), pairs(OUT, INTO)
    stored, alpha = leaf(base), leaf(torch.tensor([6.0]))
    factors = LowRank(leaf(pair[0]), leaf(pair[1]), 0.5, alpha)
    sources = (stored, factors.left, factors.right, alpha)
    adapted = Computed("x", base.shape, sources, never, "LoRA", base=stored, low_rank=(factors,))
    node = merge_of("star", stored, [adapted], energy=1.0)
    np.testing.assert_allclose(made(node).reshape(base.shape), base + 3.0 * pair[0] @ pair[1], atol=1e-5)


@pytest.mark.parametrize("window", [None, 7, INTO, 5 * INTO + 3])
@pytest.mark.parametrize("name", ["dc_merge", "knots"])
def test_no_element_depends_on_a_window(name: str, window: int | None) -> None:
    stored = leaf(normal(OUT, INTO, seed=0))
    node = merge_of(name, stored, [on_base(stored, each) for each in pairs(OUT, INTO)])
    np.testing.assert_array_equal(made(node, window), made(node))


# --- as they are stored ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
def test_matrices_and_adapters_stored_either_way(read: bool, adapter: bool) -> None:
    """GPT-2 stores [in, out]; a table of embeddings is read as it is stored, and its adapter the other way."""
    base = normal(INTO, OUT, seed=0)
    stored, sides = leaf(base), (OUT, INTO) if adapter else (INTO, OUT)
    own = pairs(*sides)
    node = merge_of("swudi_a", stored, [on_base(stored, each, transposed=adapter) for each in own], transposed=read)
    deltas = [(left.double() @ right.double()).T if adapter else left.double() @ right.double() for left, right in own]
    turned, seen = (base.T, [delta.T for delta in deltas]) if read else (base, deltas)
    wanted = expected(node, turned, seen)
    assert close(node, wanted.T if read else wanted, base)


def test_the_experts_of_a_stack_have_factors_of_their_own() -> None:
    experts, out, into = 3, 20, 26
    base = normal(experts, out, into, seed=0)
    stored, own, deltas = leaf(base), [], []
    for number, rank in enumerate((2, 3)):
        left, right = normal(out, rank * experts, seed=number + 5), normal(experts * rank, into, seed=number + 9)
        own.append(on_base(stored, (left, right), experts=OfExperts(experts)))
        deltas.append(
            [left[:, e::experts].double() @ right[e * rank : (e + 1) * rank].double() for e in range(experts)]
        )
    node = merge_of("tsv_merge", stored, own)
    found = made(node).reshape(base.shape)
    for e in range(experts):
        wanted = expected(node, base[e], [each[e] for each in deltas])
        np.testing.assert_allclose(found[e], wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("parted", ["rows", "interleaved", "columns"])
def test_a_part_of_a_fused_tensor_has_a_part_of_the_factors(parted: str) -> None:
    whole = normal(3 * OUT, INTO, seed=0) if parted != "columns" else normal(INTO, 3 * OUT, seed=0)
    stored, flip = leaf(whole), parted == "columns"
    own = [on_base(stored, each, transposed=flip) for each in pairs(3 * OUT, INTO)]
    rows = np.arange(OUT, 2 * OUT) if parted != "interleaved" else np.arange(OUT) * 3 + 1

    def part(node: Node) -> Node:
        if flip:
            ranges = [(node, row * 3 * OUT + OUT, OUT) for row in range(INTO)]
            return from_ranges("q", (INTO, OUT), ranges)
        return from_rows("q", (OUT, INTO), [node], np.zeros(OUT, dtype=np.int64), rows, INTO)

    node = merge_of("dc_merge", part(stored), [part(each) for each in own], transposed=flip)
    assert products(node) is not None
    base = whole[:, OUT : 2 * OUT].T if flip else whole[rows]
    wanted = expected(node, base, [left[rows].double() @ right.double() for left, right in pairs(3 * OUT, INTO)])
    assert close(node, wanted.T if flip else wanted, base.T if flip else base)


# --- what is not made of factors ---------------------------------------------------------------------------------------


def dense(node: Merged) -> bool:
    return isinstance(evaluator(node, Shared(), Workspace()), Merging) and products(node) is None


def test_one_model_that_is_more_than_a_product_makes_all_of_them_matrices() -> None:
    base = normal(OUT, INTO, seed=0)
    stored, tuned = leaf(base), leaf(base + normal(OUT, INTO, seed=3), "b")
    (first, second, _), given = pairs(OUT, INTO), on_base(leaf(base), pairs(OUT, INTO)[0])
    assert dense(merge_of("iso_c", stored, [on_base(stored, first), tuned]))
    assert dense(merge_of("iso_c", stored, [given, on_base(stored, second)]))  # the same numbers, of another model


WHOLE = {
    "cart": {},
    "orthomerge": {},
    "coram": {},
    "doge": {},
    "dop": {"solver": "adam"},
    "tsv_merge": {"polarise": True},
}


@pytest.mark.parametrize(("name", "given"), WHOLE.items())
def test_methods_that_want_whole_matrices_get_them(name: str, given: dict[str, Any]) -> None:
    stored = leaf(normal(OUT, INTO, seed=0))
    assert dense(merge_of(name, stored, [on_base(stored, each) for each in pairs(OUT, INTO)[:2]], **given))


def test_ranks_that_fill_the_matrix_are_multiplied_out() -> None:
    stored = leaf(normal(OUT, INTO, seed=0))
    for last, full in ((OUT - 8, False), (OUT - 6, True)):
        inputs = [on_base(stored, each) for each in pairs(OUT, INTO, (3, 3, last))]
        assert dense(merge_of("iso_c", stored, inputs)) == full


def test_a_plan_says_the_rank_and_what_little_it_takes() -> None:
    stored = leaf(normal(512, 512, seed=0))
    inputs = [on_base(stored, each) for each in pairs(512, 512, (8, 8, 8))]
    node = merge_of("dc_merge", stored, inputs)
    route, whole = route_of(node), find("dc_merge").routing
    assert route is not None
    assert route.words.startswith("cores of rank 24: 3 thin SVDs")
    assert whole is not None
    assert route.operations < whole(3, 512, 512, node.settings).operations / 50
    assert route.workspace < whole(3, 512, 512, node.settings).workspace / 10


def test_a_plan_counts_what_a_method_does_at_full_size() -> None:
    """Steps of a descent move whole matrices, and every entry has a number drawn for it."""
    stored = leaf(normal(512, 512, seed=0))
    inputs = [on_base(stored, each) for each in pairs(512, 512, (8, 8, 8))]
    settings: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "wudi": ({"solver": "closed"}, {"solver": "adam", "steps": 300}),
        "knots": ({"host": "ties"}, {"host": "dare_ties"}),
    }
    for name, (less, more) in settings.items():
        few, many = (route_of(merge_of(name, stored, inputs, **given)) for given in (less, more))
        assert few is not None and many is not None
        assert many.operations > 5 * few.operations
        assert many.workspace > few.workspace + 8 * 512 * 512


# --- what is wrong -----------------------------------------------------------------------------------------------------


def test_what_is_not_finite_is_said_with_its_name() -> None:
    good, bad = normal(OUT, INTO, seed=0), normal(OUT, INTO, seed=0)
    bad[3, 4] = torch.inf
    pair, broken = pairs(OUT, INTO)[0], pairs(OUT, INTO)[0]
    broken[1][0, 0] = torch.nan
    for base, own, said in (
        (bad, pair, "tensor 'x' of model 'a' holds NaN or infinity"),
        (good, broken, "tensor 'x' of model 'a' holds NaN or infinity"),
        (good, (pair[0] * 1e30, pair[1] * 1e30), "gives NaN or infinity in float32"),
    ):
        stored = leaf(base)
        with pytest.raises(DataError) as error:
            made(merge_of("iso_c", stored, [on_base(stored, own)], scale=1.0))
        assert said in str(error.value)
