"""The conformance suite finds what is wrong with a method."""

from typing import Annotated, Any

import numpy as np
import pytest
import torch

from mergery.errors import RecipeError
from mergery.method import (
    Coefficients,
    Count,
    Deltas,
    Gram,
    Largest,
    Method,
    Models,
    PerModel,
    Random,
    Sum,
    Tensor,
    each,
    method,
)
from mergery.testing.conformance import Check, conformance
from mergery.testing.pieces import InPieces
from mergery.testing.reference.arrays import by_matrix


def failures(mine, **claims) -> set[str]:
    found = set()
    for check in conformance(mine, evaluate=Method.__call__, **claims):
        try:
            check()
        except Exception:
            found.add(check.name)
    return found


def test_checks_have_names_for_pytest():
    check = conformance(mean, evaluate=Method.__call__)[0]
    assert isinstance(check, Check)
    assert check.__name__ == check.name == "documents_its_settings"


@method()
def mean(models: Models) -> Tensor:
    """The mean."""
    return sum(models) / len(models)


def test_a_sound_method_passes():
    assert failures(mean, fixed_point={}, reference=lambda models, base, coins: sum(models) / len(models)) == set()


def test_a_wrong_reference():
    assert failures(mean, reference=lambda models, base, coins: models[0]) == {"agrees_with_its_reference"}


@method()
def undocumented(models: Models, *, factor: float = 1.0) -> Tensor:
    """The mean, times something"""
    return sum(models) / len(models) * factor


def test_missing_documentation():
    assert failures(undocumented) == {"documents_its_settings"}


@method()
def writes(models: Models) -> Tensor:
    """The sum, in place."""
    for model in models[1:]:
        models[0].add_(model)
    return models[0]


def test_written_inputs():
    assert "leaves_its_inputs_alone" in failures(writes)


@method()
def centred(models: Models) -> Tensor:
    """The mean without its own mean."""
    total = sum(models) / len(models)
    return total - total.mean() if total.numel() else total


def test_a_wrong_unit():
    assert failures(centred) == {"may_be_called_in_pieces"}


@method(unit="tensor")
def centred_whole(models: Models) -> Tensor:
    """The mean without its own mean."""
    total = sum(models) / len(models)
    return total - total.mean() if total.numel() else total


def test_the_right_unit():
    assert failures(centred_whole) == set()


@method()
def first(models: Models) -> Tensor:
    """The first model."""
    return models[0]


def test_a_wrong_claim_of_symmetry():
    assert failures(first) == {"does_not_mind_the_order"}


@method()
def damped(deltas: Deltas) -> Tensor:
    """Deltas over their magnitude, with an absolute epsilon."""
    return sum(delta * (delta.abs() / (delta.abs() + 1e-6)) for delta in deltas)


def test_an_absolute_epsilon():
    assert failures(damped) == {"scales_with_its_inputs"}


@method()
def fragile(deltas: Deltas) -> Tensor:
    """Deltas over their sum."""
    total = sum(deltas)
    return sum(delta * delta for delta in deltas) / total


def test_a_division_by_zero():
    found = failures(fragile)
    assert {"is_finite_for_zeros", "gives_the_base_where_nothing_changed"} <= found


@method(span="deltas")
def doubled(count: Count, *, weight: PerModel[float] = each(1.0)) -> Coefficients:
    """Twice the sum.

    Settings:
        weight: factor.
    """
    return 2 * weight


def test_a_wrong_fixed_point():
    assert failures(doubled, fixed_point={}) == {"returns_identical_models"}


@method()
def unbatched(gram: Gram) -> Coefficients:
    """Shares by length, of one Gram matrix at a time."""
    return np.full(3, 1 / 3) if gram.ndim == 2 else np.full((1, 3), 1 / 3)


def test_a_gram_method_that_does_not_batch():
    assert "mixes_each_gram_matrix_by_itself" in failures(unbatched)


@method()
def noisy(deltas: Deltas, random: Annotated[Any, Random()]) -> Tensor:
    """A coin for each entry."""
    return sum(delta * (random.uniform(i) < 0.5) for i, delta in enumerate(deltas))


def test_keyed_randomness_is_sound():
    assert failures(noisy) == set()


@method()
def unkeyed(deltas: Deltas) -> Tensor:
    """Noise of its own."""
    return sum(delta * torch.rand_like(delta) for delta in deltas)


def test_other_randomness_is_not():
    assert "gives_the_same_bytes_again" in failures(unkeyed)


def squares(deltas: Deltas) -> list[Tensor]:
    return [delta.square() for delta in deltas]


def spread(deltas: Deltas, power: list[float]) -> Tensor:
    return sum(delta.abs() * mass for delta, mass in zip(deltas, power, strict=True))


@method()
def asks(
    deltas: Deltas,
    power: Annotated[list[float], Sum(squares)],
    cut: Annotated[list[float], Largest(lambda n, settings: settings["rank"])],
    joint: Annotated[float, Largest(lambda n, settings: 2, spread)],
    never: Annotated[float | None, Sum(squares, when=lambda settings: settings["rank"] < 0)],
    *,
    rank: int = 2,
) -> Tensor:
    """Hands back what was asked for.

    Settings:
        rank: of the threshold.
    """
    assert never is None
    return deltas[0] * 0 + deltas[0].new_tensor([power[0], power[1], cut[0], cut[1], joint, 0.0]).clamp(max=99.0)


def test_asks_are_answered_in_order():
    a, b = torch.tensor([1.0, -2, 3, 0, 0, 0]), torch.tensor([0.0, 0, 1, -1, 2, 0])
    out = asks([a, b], torch.zeros(6))
    # sums of squares 14 and 6; second largest magnitudes 2 and 1; 14 |a| + 6 |b| = 14, 28, 48, 6, 12, 0
    assert out.tolist() == [14, 6, 2, 1, 28, 0]
    assert asks([a, b], torch.zeros(6), rank=0)[2] == 99
    assert asks([a, b], torch.zeros(6), rank=7)[2] == 0


@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
def test_pieces_share_one_stream_of_randomness(pieces):
    delta, zero = torch.ones(3, 5), torch.zeros(3, 5)
    out = InPieces(pieces)(noisy, [delta], zero, seed=3)
    assert torch.equal(out, noisy([delta], zero, seed=3))


@method(unit="matrix")
def leading(deltas: Deltas) -> Tensor:
    """The leading singular triplet of the mean."""
    u, s, vh = torch.linalg.svd((sum(deltas) / len(deltas)).double(), full_matrices=False)
    return u[..., :1] * s[..., None, :1] @ vh[..., :1, :]


def leading_in_float64(models, base, coins):
    def merge(matrices):
        u, s, vh = np.linalg.svd(sum(matrices) / len(matrices))
        return s[0] * np.outer(u[:, 0], vh[0])

    return base + by_matrix(merge, [model - base for model in models])


def test_a_sound_method_on_matrices_passes():
    assert failures(leading, reference=leading_in_float64, mirrored=True) == set()


@method(unit="matrix")
def joint(deltas: Deltas) -> Tensor:
    """The mean, of the size of the largest entry."""
    mean = sum(deltas) / len(deltas)
    return mean.sign() * mean.abs().amax()


def test_matrices_of_a_stack_that_know_of_each_other():
    assert failures(joint) == {"takes_each_matrix_by_itself"}


@method(unit="matrix")
def lopsided(deltas: Deltas) -> Tensor:
    """The mean, of the size of the largest entry of each row."""
    mean = sum(deltas) / len(deltas)
    return mean.sign() * mean.abs().amax(-1, keepdim=True)


def test_a_wrong_claim_of_two_like_sides():
    assert failures(lopsided) == set()
    assert failures(lopsided, mirrored=True) == {"gives_the_transpose_of_the_transpose"}


def test_vectors_are_no_matrices():
    with pytest.raises(RecipeError, match=r"lopsided merges matrices \[out, in\], not a tensor of shape \[3\]"):
        lopsided([torch.ones(3)], torch.ones(3))
