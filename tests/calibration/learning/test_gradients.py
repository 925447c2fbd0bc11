"""The gradient of weights, against autograd through the whole merge; Adam's steps; what is not read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mergery.calibration.data import Row
from mergery.calibration.learning import descent
from mergery.calibration.learning.additions import gather
from mergery.calibration.learning.answers import logits
from mergery.calibration.learning.data import read_sources
from mergery.calibration.learning.host import open_host
from mergery.calibration.learning.model import whole
from mergery.calibration.learning.objectives import LOSSES, Answering, Reading, Source
from mergery.calibration.learning.options import LearnOptions
from mergery.calibration.learning.weights import Weights, begin
from mergery.calibration.model import StreamedModel
from mergery.calibration.opening import open_model


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("objective", ["entropy", "labels"])
def test_the_gradient_is_that_of_the_whole_merge(family, objective, recipe, write, tmp_path):
    """In float64, against autograd through base + sum of weights times task vectors."""
    data = write(5, label=family == "bert")
    options = LearnOptions(objective, by="tensor")
    with open_host(recipe(family)) as host, open_model(host.recipe) as opened:
        model = StreamedModel(host.plan.view)
        task = "labels" if family == "bert" else "text"
        (source,) = read_sources(host, model, data, opened.folder, options, None, task)
        (tmp_path / "work").mkdir()
        additions = gather(host, tmp_path / "work", lambda done, total: None)
        merged = whole(model, torch.float64)
        tensors = merged.learnable(additions)
        own = {name: np.array([0.31, -0.2]) for name in additions.moved}
        weights = begin(2, sorted(additions.moved), host.plan.view.architecture, "tensor", "free", own)
        merged.write(additions, weights)
        numbers = range(len(source.rows))
        descent.backward(merged, source, numbers, Answering(task, objective))
        found = merged.slopes(additions, tensors)
        # The same by autograd.
        coefficients = {name: torch.tensor(value, requires_grad=True) for name, value in own.items()}
        with torch.enable_grad():
            given = {}
            for held in merged.held:
                ((tensor, *_),) = held.pieces
                rows = [torch.from_numpy(np.array(additions.of(tensor, row))).double() for row in range(3)]
                value = rows[0]
                if tensor in coefficients:
                    value = value + coefficients[tensor][0] * rows[1] + coefficients[tensor][1] * rows[2]
                given |= {place.name: value.reshape(held.parameter.shape) for place in held.places}
            with merged.with_parameters(given):
                answers = [logits(merged.module, [row], task) for row in source.rows]
                total = sum(len(each) for each in answers)
                loss: Any = sum(
                    LOSSES[objective](each, [row], task, None) for each, row in zip(answers, source.rows, strict=True)
                )
            (loss / total).backward()
        assert found.keys() <= coefficients.keys() and len(found) > 10
        largest = max(float(value.grad.abs().max()) for value in coefficients.values() if value.grad is not None)
        for name, slope in found.items():
            expected = coefficients[name].grad
            assert expected is not None
            assert np.abs(slope - expected.numpy()).max() <= 1e-8 * largest, name


def test_a_group_has_the_sum_of_its_tensors_gradients_and_shares_those_of_softmax():
    free = torch.tensor([[0.3, -0.1, 0.5]], dtype=torch.float64, requires_grad=True)
    slopes = {"a": np.array([1.0, 2.0, -1.0]), "b": np.array([0.5, 0.0, 3.0])}
    total = torch.from_numpy(slopes["a"] + slopes["b"])
    (free.softmax(dim=1)[0] * total).sum().backward()
    weights = Weights([""], {"a": 0, "b": 0}, "shares", free.detach().numpy())
    assert free.grad is not None
    np.testing.assert_allclose(weights.gathered(slopes), free.grad.numpy(), rtol=1e-12)
    weights.range = "free"
    np.testing.assert_allclose(weights.gathered(slopes), total.numpy()[None])


def test_adam_steps_as_torch_does():
    free = torch.tensor([[0.3, -0.1]], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([free], lr=0.05)
    weights = Weights([""], {"a": 0}, "free", free.detach().numpy().copy())
    for step in range(20):
        gradient = np.array([[np.sin(step), step - 7.0]])
        free.grad = torch.from_numpy(gradient)
        optimiser.step()
        weights.move(gradient, 0.05)
    np.testing.assert_allclose(weights.free, free.detach().numpy(), rtol=1e-9)


def test_what_is_not_read_by_hand():
    """One linear module whose changes read the first axis: of (3, 4) the share outside is 4/5, and of (1, 0) nothing."""
    inputs = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])

    class OneMatrix(torch.nn.Module):
        config: Any = SimpleNamespace(vocab_size=2, pad_token_id=0)

        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(2, 2, bias=False)

        def forward(self, **given):
            return self.inner(inputs)

    source = Source("a", (Row((), (0, 1)),))
    reading = Reading({"a": {"inner": torch.tensor([[1.0], [0.0]])}})
    assert float(reading.loss(OneMatrix(), [0], source)) == pytest.approx(2 * (0.8 + 0.0) / 2, abs=1e-5)
