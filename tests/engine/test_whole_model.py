"""Statistics over a whole model: what the tensors give together, as if they were one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from mergery import api, merge_tensors
from mergery.errors import PlanError
from mergery.method import methods
from mergery.methods import ties
from mergery.run.events import Event, Progress, Statistics
from mergery.run.workers import Options
from tests.conftest import weights_of

SHAPES = {"a.weight": (40, 70), "b.weight": (9,), "c.weight": (130, 257), "d.weight": (1,), "e.bias": (300,)}
STREAMED = (200, 1000)  # more than is sorted


def models(count: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)

    def draw() -> dict[str, torch.Tensor]:
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    base = draw()
    tuned = {f"m{index}": {k: base[k] + 0.01 * (index + 1) * v for k, v in draw().items()} for index in range(count)}
    return {"base": base, **tuned}


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in state.values()])


CASES = [
    ("pcb", {"density": 0.2, "clip": 0.01}),
    ("pcb", {"density": 0.0}),
    ("emr", {"task": 1}),
    ("consensus", {"vector": "ties"}),
    ("tall_mask", {"vector": "ties", "task": 0}),
    ("trust_region", {"drop": 0.1}),
    ("ties", {"zero": "majority", "keep": "one_more", "function": "max"}),
    ("metagpt", {}),
    ("balanced", {"by": "cosine"}),
    ("negation", {"scope": "model"}),
    ("geometric_median", {"scope": "model"}),
]


def named(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a recipe has them."""
    return {name: f"m{value}" if name == "task" else value for name, value in settings.items()}


@pytest.mark.parametrize(("method", "settings"), CASES, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("large", [False, True], ids=["small", "streamed"])
def test_tensors_are_merged_as_one_vector_would_be(method, settings, large):
    shapes = {**SHAPES, "f.weight": STREAMED} if large else SHAPES
    given = models(3, shapes)
    recipe = {"models": given, "merge": {"method": method, "base": "base", **named(settings)}}
    out = api.merge(recipe)
    assert isinstance(out, dict)
    base, *tuned = (flat(state) for state in given.values())
    expected = methods()[method](tuned, base, **settings)
    gap = (flat(out) - base) - (expected - base)
    assert float(gap.abs().max()) <= 1e-6 + 1e-5 * float((expected - base).abs().max())


@pytest.mark.parametrize("method", ["pcb", "emr", "neuromerging", "metagpt"])
def test_threads_and_chunks_change_no_byte(method):
    task = {"task": "m0"} if method == "emr" else {}
    recipe = {
        "models": models(3, {**SHAPES, "f.weight": STREAMED}),
        "merge": {"method": method, "base": "base", **task},
    }
    plain = api.merge(recipe, options=Options(threads=1))
    for options in (Options(threads=3), Options(threads=2, chunk=65536)):
        other = api.merge(recipe, options=options)
        assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_neurons_are_masked_over_the_whole_model():
    """The tensor that changed more keeps more, and what is lost is counted over both."""
    base = {"a.weight": torch.zeros(1, 4), "b.weight": torch.zeros(1, 4)}
    tuned = {"a.weight": torch.tensor([[10.0, 9, 8, 7]]), "b.weight": torch.tensor([[0.5, 0.25, 0.125, 0.125]])}
    out = api.merge(
        {"models": {"base": base, "m": tuned}, "merge": {"method": "neuromerging", "base": "base", "density": 0.5}}
    )
    assert torch.allclose(out["a.weight"], tuned["a.weight"] * (35 / 34) ** 0.5)
    assert not out["b.weight"].any()


def test_a_model_wide_rank_may_leave_tensors_out():
    """Tensors whose own scope is the tensor take no part in the statistics of the model."""
    given = models(2)
    scope = [{"where": {"name": "c.*"}, "value": "tensor"}, {"value": "model"}]
    recipe = {"models": given, "merge": {"method": "ties", "base": "base", "scope": scope}}
    out = api.merge(recipe)
    rest = {name: {k: v for k, v in state.items() if k != "c.weight"} for name, state in given.items()}
    without = api.merge({"models": rest, "merge": {"method": "ties", "base": "base"}})
    alone = merge_tensors(ties, [given["m0"]["c.weight"], given["m1"]["c.weight"]], given["base"]["c.weight"])
    assert all(torch.equal(out[name], without[name]) for name in without)
    assert torch.equal(out["c.weight"], alone)


@pytest.mark.parametrize(("method", "setting"), [("ties", "density"), ("trust_region", "drop"), ("pcb", "clip")])
def test_a_rank_that_changes_from_tensor_to_tensor_is_refused(method, setting):
    changing = [{"where": {"name": "a.*"}, "value": 0.3}, {"value": 0.1}]
    recipe = {"models": models(2), "merge": {"method": method, "base": "base", setting: changing}}
    with pytest.raises(
        PlanError, match=rf"{setting} changes from tensor to tensor, but \w+ ranks over the whole model"
    ):
        api.plan(recipe)


def test_a_stage_has_statistics_of_its_own():
    given = models(2)
    first = api.merge({"models": given, "merge": {"method": "emr", "base": "base", "task": "m0"}})
    staged = {
        "models": {**given, "served": {"method": "emr", "base": "base", "models": ["m0", "m1"], "task": "m0"}},
        "merge": {"method": "pcb", "base": "base", "models": ["served", "m1"]},
    }
    apart = {
        "models": {"base": given["base"], "served": first, "m1": given["m1"]},
        "merge": {"method": "pcb", "base": "base", "models": ["served", "m1"]},
    }
    one, other = api.merge(staged), api.merge(apart)
    assert all(torch.equal(one[name], other[name]) for name in one)


TEXT = """\
models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b}
merge: {method: pcb, base: base}
output: {shard_size: 30kB}
"""


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_resumed_run_remembers_them(recipe, tmp_path, monkeypatch):
    path = recipe(TEXT)
    api.merge(path, tmp_path / "calm")

    def stop(event):
        if isinstance(event, Progress):
            raise Killed

    monkeypatch.setattr("mergery.run.workers.BATCH_TENSORS", 1)
    with pytest.raises(Killed):
        api.merge(path, tmp_path / "out", on_event=stop)
    lines = [json.loads(line) for line in (tmp_path / "out.partial/journal.jsonl").read_text().splitlines()]
    facts = {name for line in lines for name in line.get("facts", {})}
    assert {f"pcb.{ask} of merge 0" for ask in ("most", "least", "top", "cut")} <= facts
    seen: list[Event] = []
    api.merge(path, tmp_path / "out", on_event=seen.append)
    assert not any(isinstance(event, Statistics) for event in seen)
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "calm")


def test_one_killed_between_two_statistics_goes_on(recipe, tmp_path):
    path = recipe(TEXT)
    api.merge(path, tmp_path / "calm")

    def stop(event):
        if isinstance(event, Statistics) and "pcb.top" in event.names:
            raise Killed

    with pytest.raises(Killed):
        api.merge(path, tmp_path / "out", on_event=stop)
    seen: list[Event] = []
    api.merge(path, tmp_path / "out", on_event=seen.append)
    assert [event.names for event in seen if isinstance(event, Statistics)] == [["pcb.top", "pcb.cut"]]
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "calm")
