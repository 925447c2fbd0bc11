import pytest
import torch

import mergery
from mergery.errors import RecipeError
from mergery.methods.led import led
from mergery.methods.task_arithmetic import task_arithmetic

from .merging import equals, normal, suite


@suite(led, fixed_point=None)
def test_conformance(check):
    check()


def merge(models, known, before, base, **settings):
    models, known, before = ([torch.as_tensor(x) for x in each] for each in (models, known, before))
    statistics = {"fisher": known, "fisher_of_base": before}
    return mergery.merge_tensors(led, models, torch.as_tensor(base), statistics=statistics, **settings)


def test_by_hand():
    base = [1.0, 1.0, 1.0, 1.0]
    models = [[2.0, 2.0, 2.0, 2.0], [-3.0, -3.0, -3.0, -3.0]]
    # located after: the first's 0 1 2, the second's 1 2 3; before: 0 1 3 and 0 2 3; elected: 0 1, and 2 3
    known = [[9.0, 4.0, 1.0, 0.0], [0.0, 1.0, 4.0, 9.0]]
    before = [[4.0, 9.0, 0.0, 1.0], [1.0, 0.0, 9.0, 4.0]]
    out = merge(models, known, before, base, share=0.75, scale=0.5)
    assert equals(out, [1.5, 1.5, -1.0, -1.0])
    # with 0 left out of what the first has after, it is the base's; all of everything is claimed twice
    known[0][0] = 0.5
    assert equals(merge(models, known, before, base, share=0.5, scale=1.0), [1.0, 2.0, -3.0, -3.0])
    assert equals(merge(models, known, before, base, share=1.0), base)
    # each model's own share
    assert equals(merge(models, known, before, base, share=[1.0, 0.0], scale=1.0), models[0])


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_no_number_is_two_models(share):
    base = normal(20, 50, seed=1)
    models = [base + 1.0 + normal(20, 50, seed=seed).abs() for seed in (2, 3, 4)]
    known, before = ([normal(20, 50, seed=9 * first + seed) ** 2 for seed in range(3)] for first in (1, 2))
    out = merge(models, known, before, base, share=share, scale=1.0)
    owners = torch.stack([(out - model).abs() < 1e-5 for model in models]).sum(0)
    assert bool(((owners == 1) | (out == base)).all()) and 0 < int(owners.sum()) <= 3 * int(share * 1000)


def test_one_model_and_all_numbers_are_task_arithmetic():
    base, model, some = normal(9, 9, seed=1), normal(9, 9, seed=2), normal(9, 9, seed=3) ** 2
    plain = mergery.merge_tensors(task_arithmetic, [model], base, scale=0.9)
    assert equals(merge([model], [some], [some], base, share=1.0), plain)


def test_refused():
    with pytest.raises(RecipeError, match="scale is -1"):
        merge([[1.0]], [[1.0]], [[1.0]], [1.0], scale=-1.0)
    with pytest.raises(RecipeError, match="led needs statistics: fisher_of_base"):
        mergery.merge_tensors(led, [torch.ones(1)], torch.ones(1), statistics={"fisher": [torch.ones(1)]})
