import pytest

from mergery.methods.nuslerp import nuslerp
from mergery.methods.slerp import slerp

from .merging import equals, merge, normal, suite


@suite(nuslerp, fixed_point={})
def test_conformance(check):
    check()


@pytest.mark.parametrize("scope", ["row", "column"])
def test_conformance_by_vector(scope):
    for check in suite(nuslerp, settings={"scope": scope}, fixed_point={}).args[1]:
        check()


def test_by_hand():
    # task vectors (4, 0) and (0, 2) of the base (1, 1); weights 2 and 1 are t = 1/3; see slerp
    assert equals(merge(nuslerp, [[5, 1], [1, 3]], [1, 1], weight=[2, 1]), [4.4641016, 2])


def test_without_a_base_it_is_slerp():
    models = [normal(4, 6, seed=1), normal(4, 6, seed=2)]
    for scope in ("tensor", "row", "column"):
        out = merge(nuslerp, models, weight=[0.7, 0.3], scope=scope)
        assert equals(out, merge(slerp, models, t=0.3, scope=scope))


def test_orthogonal_task_vectors_keep_their_length():
    out = merge(nuslerp, [[3.0, 0.0], [0.0, 3.0]], [0.0, 0.0])
    assert abs(float(out.norm()) - 3.0) < 1e-6


def test_weights_that_cancel_mean_halfway():
    models = [[4.0, 0.0], [0.0, 2.0]]
    assert equals(merge(nuslerp, models, weight=[0.3, -0.3]), merge(nuslerp, models))
    assert equals(merge(nuslerp, models, weight=[0, 0]), merge(nuslerp, models))
