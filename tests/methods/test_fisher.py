import pytest
import torch

import mergery
from mergery.errors import RecipeError
from mergery.methods.fisher import fisher

from .merging import equals, suite


@suite(fisher, fixed_point={}, scale_free=False)
def test_conformance(check):
    check()


def merge(models, known, **settings):
    models, known = ([torch.tensor(x) for x in each] for each in (models, known))
    return mergery.merge_tensors(fisher, models, statistics={"fisher": known}, **settings)


def test_by_hand():
    # (3 * 1 + 1 * 5) / 4, and what only one knows is its own; with weights 1 and 3: (3 * 1 + 3 * 5) / 6
    assert equals(merge([[1.0, 2.0], [5.0, 8.0]], [[3.0, 0.0], [1.0, 2.0]], floor=0.0), [2.0, 8.0])
    assert equals(merge([[1.0, 2.0], [5.0, 8.0]], [[3.0, 0.0], [1.0, 2.0]], floor=0.0, weight=[1, 3]), [3.0, 8.0])
    # the floor: (1 + 1) * 1 and (0 + 1) * 4
    assert equals(merge([[1.0], [4.0]], [[1.0], [0.0]], floor=1.0), [2.0])


def test_where_nothing_is_known_it_averages():
    assert equals(merge([[1.0], [4.0]], [[0.0], [0.0]], floor=0.0, weight=[2, 1]), [2.0])


def test_settings_are_checked():
    with pytest.raises(RecipeError, match="floor is -1"):
        merge([[1.0], [4.0]], [[1.0], [0.0]], floor=-1.0)
