import pytest
import torch

from mergery.methods.sce import sce

from .merging import equals, merge, normal, suite


@suite(sce)
def test_conformance(check):
    check()


@suite(sce, settings={"select_topk": 1.0}, fixed_point={})
def test_conformance_without_selection(check):
    check()


@suite(sce, settings={"select_topk": 0.4, "select_applies_to": "weights", "scale": 0.5})
def test_conformance_of_weights(check):
    check()


def test_by_hand():
    # energies 1 and 9 of all: weights 0.1 and 0.9, 0.1 * 1 + 0.9 * 3 = 2.8
    assert equals(merge(sce, [torch.ones(4), torch.full((4,), 3.0)], torch.zeros(4), select_topk=1.0), [2.8] * 4)
    # a minority sign is erased, in the sum as in the weights: 3, -1 elect +, 3
    assert equals(merge(sce, [[3.0], [-1.0]], [0.0], select_topk=1.0), [3.0])


def test_selection():
    # the models differ by 0, 2, 4, 8 and 6: half of the four that vary are the last two, where energies are
    # 0 + 36 and 64 + 0; the first model wins neither of them
    first, second = torch.tensor([5.0, 1, 1, 0, 6]), torch.tensor([5.0, 3, 5, 8, 0])
    base = torch.zeros(5)
    assert equals(merge(sce, [first, second], base, select_topk=0.5), [0, 0, 0, 8, 6])
    out = merge(sce, [first, second], base, select_topk=0.5, select_applies_to="weights")
    assert equals(out, [5, 0.36 * 1 + 0.64 * 3, 0.36 * 1 + 0.64 * 5, 8, 6])


def test_one_model_and_identical_models_come_back():
    base, model = normal(9, seed=1), normal(9, seed=2)
    assert equals(merge(sce, [model], base, select_topk=1.0), model)
    assert equals(merge(sce, [model, model, model], base, select_topk=1.0), model)


def test_nothing_selected_gives_the_base():
    base, models = normal(9, seed=1), [normal(9, seed=2), normal(9, seed=3)]
    assert torch.equal(merge(sce, models, base, select_topk=0.0), base)
    assert torch.equal(merge(sce, [models[0], models[0]], base, select_topk=0.5), base)


@pytest.mark.parametrize("size", [1.0, 2e-4, 1e-12])
def test_weights_do_not_depend_on_the_size_of_the_task_vectors(size):
    # energies 1 and 4, however small: 0.2 * 1 + 0.8 * 2
    models = [torch.full((6,), size), torch.full((6,), 2 * size)]
    assert equals(merge(sce, models, torch.zeros(6), select_topk=1.0), torch.full((6,), 1.8).double() * size)
