import pytest
import torch

import mergery
from mergery.methods.reasonany import reasonany

from .merging import equals, suite


@suite(reasonany, fixed_point={"domain": 0.0, "reasoning": 1.0}, scale_free=False)
def test_conformance(check):
    check()


def merge(models, known, base, **settings):
    models, known = ([torch.tensor(x) for x in each] for each in (models, known))
    return mergery.merge_tensors(reasonany, models, torch.tensor(base), statistics={"fisher": known}, **settings)


def test_by_hand():
    base = [1.0, 1.0, 1.0, 1.0]
    models = [[2.0, 3.0, 4.0, 5.0], [-2.0, -3.0, -4.0, -5.0]]
    known = [[9.0, 8.0, 1.0, 2.0], [7.0, 1.0, 2.0, 6.0]]
    # the domain's two largest are 0 and 1, the reasoner's two smallest are 1 and 2: 1 is in both, and in neither
    assert equals(merge(models, known, base, domain=0.5, reasoning=0.5), [2.0, 1.0, -4.0, 1.0])
    assert equals(merge(models, known, base, domain=0.25, reasoning=0.0), [2.0, 1.0, 1.0, 1.0])
    assert equals(merge(models, known, base, domain=0.0, reasoning=1.0), models[1])
    assert equals(merge(models, known, base, domain=0.0, reasoning=0.0), base)


@pytest.mark.parametrize("domain", [0.05, 0.3])
def test_as_many_as_the_shares_say(domain):
    generator = torch.Generator().manual_seed(1)
    models = [torch.randn(20, 50, generator=generator) for _ in range(2)]
    known = [torch.rand(20, 50, generator=generator) for _ in range(2)]
    out = mergery.merge_tensors(
        reasonany, models, torch.zeros(20, 50), statistics={"fisher": known}, domain=domain, reasoning=0.1
    )
    order = [each.reshape(-1).argsort(descending=True) for each in known]
    most, least = set(order[0][: int(1000 * domain)].tolist()), set(order[1][-100:].tolist())
    wanted = torch.zeros(1000, dtype=torch.float64)
    for index in most - least:
        wanted[index] = models[0].double().reshape(-1)[index]
    for index in least - most:
        wanted[index] = models[1].double().reshape(-1)[index]
    assert torch.equal(out.double().reshape(-1), wanted)


def test_no_tensor_is_held_as_a_whole():
    assert reasonany.unit == "element"
    names = [name for name, _ in reasonany.streamed({"domain": 0.05, "reasoning": 0.05})]
    assert names == ["most", "least"]
