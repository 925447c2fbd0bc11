from mergery.methods.passthrough import passthrough

from .merging import equals, merge, suite


@suite(passthrough, fixed_point={})
def test_conformance(check):
    check()


def test_by_hand():
    assert equals(merge(passthrough, [[1, -2]]), [1, -2])
    assert equals(merge(passthrough, [[1, -2]], scale=-0.5), [-0.5, 1])
