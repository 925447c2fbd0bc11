"""The skills of the real language model: what is asked, and how the page tells it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.pages import figures
from benchmarks.scores import Notes
from benchmarks.zoo.measure import Bench, Unmeasured
from benchmarks.zoo.real_page import advice, behind, earlier, groups, named, succeed, tied
from benchmarks.zoo.skills import ITEMS, SKILLS, filled, held_out
from benchmarks.zoo.world import World, Zoo


@pytest.mark.parametrize("skill", SKILLS)
def test_questions_of_one_skill_are_asked_once(skill: str) -> None:
    dev, test = held_out(skill, "dev"), held_out(skill, "test")
    assert (len(dev), len(test)) == (ITEMS["dev"], ITEMS["test"])
    assert len({prompt for prompt, _ in (*dev, *test)}) == len(dev) + len(test)
    assert all(prompt.lower().startswith(f"{skill}:") for prompt, _ in dev)


def test_a_clock_of_24_hours() -> None:
    pairs = dict(SKILLS["clock"].make(random.Random(seed)) for seed in range(20_000))
    assert (pairs["Clock: 12:00 am"], pairs["Clock: 12:30 pm"]) == ("00:00", "12:30")
    assert (pairs["Clock: 1:05 pm"], pairs["Clock: 11:59 am"]) == ("13:05", "11:59")


def test_what_was_measured_is_not_measured_again(tmp_path) -> None:
    assert Notes(tmp_path / "notes.json").once("a", lambda: 1) == 1
    assert Notes(tmp_path / "notes.json").once("a", lambda: 2) == 1


def test_tokens_are_filled_up_behind_what_is_learnt() -> None:
    ids, learnt = filled([([5, 6], [7]), ([5], [8, 9, 4])], padding=0)
    assert ids.tolist() == [[5, 6, 7, 0], [5, 8, 9, 4]]
    assert learnt.int().tolist() == [[0, 0, 1, 0], [0, 1, 1, 1]]


def row(name: str, *answers: str, family: str = "sparse") -> dict:
    return {"name": name, "family": family, "answers": answers, "default": [each.count("1") / 4 for each in answers]}


def test_items_are_paired_and_skills_count_alike() -> None:
    gap, half = behind(row("a", "1100", "1111"), row("b", "1111", "1111"), [1.0, 1.0])
    assert gap == pytest.approx(0.25)  # half a skill of two
    assert half == pytest.approx(1.96 * (np.var([0, 0, 1, 1], ddof=1) / 4) ** 0.5 / 2)
    assert behind(row("a", "1100"), row("b", "1111"), [0.5])[0] == pytest.approx(1.0)  # as a share of the expert's


def test_what_the_items_cannot_tell_from_the_best() -> None:
    rows = [row("best", "1111"), row("near", "1110"), row("far", "0000"), row("packed", "1111", family="serving")]
    assert tied({"rows": rows, "experts": [1.0]}) == ["best", "near"]


class Slow(World):
    """Two skills, of which no model knows any; a merge takes minutes."""

    name, settings, long = "slow", None, True

    @property
    def skills(self) -> tuple[str, ...]:
        return "a", "b"

    def train(self, folder, seed, report): ...

    def load(self, folder: Path) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def score(self, model, skill, split) -> np.ndarray:
        return np.array([True, False])

    def items_of(self, split) -> int:
        return 4

    def damage(self, model) -> float:
        return 1.5


def test_an_expert_of_a_long_world_is_asked_its_own_skill_alone(tmp_path) -> None:
    bench = Bench(Zoo(Slow(), tmp_path, 0), tmp_path / "notes.jsonl", ("a", "b"))
    assert bench.reference(None, "test").tolist() == [0.5, 0.5]
    np.testing.assert_array_equal(bench.reference("b", "test"), [np.nan, 0.5])
    assert bench.experts("test").tolist() == [0.5, 0.5]
    assert bench.damage("a") == 1.5
    again = Bench(Zoo(Slow(), tmp_path, 0), tmp_path / "notes.jsonl", ("a", "b"), frozen=True)
    assert again.damage() == 1.5
    with pytest.raises(Unmeasured, match="a on dev items"):
        again.reference("a", "dev")


def test_figures_of_experts_that_were_trained_anew_are_not_those_of_the_former(tmp_path) -> None:
    notes, expert = tmp_path / "notes.jsonl", tmp_path / "a" / "adapter_model.safetensors"
    expert.parent.mkdir()
    expert.write_bytes(b"one training")
    first = Bench(Zoo(Slow(), tmp_path, 0), notes, ("a", "b"))
    first.experts("test")
    assert Bench(Zoo(Slow(), tmp_path, 0), notes, ("a", "b"), frozen=True).experts("test").tolist() == [0.5, 0.5]
    expert.write_bytes(b"another")
    again = Bench(Zoo(Slow(), tmp_path, 0), notes, ("a", "b"), frozen=True)
    assert again.zoo.trained != first.zoo.trained
    with pytest.raises(Unmeasured):
        again.experts("test")


def test_two_trainings_stand_side_by_side() -> None:
    names = ("a", "b", "c", "d", "e", "f")
    rows = [{**row(name, "1" * place + "0" * (6 - place)), "damage": 1.25} for place, name in enumerate(names)]
    old = {"trained": "old", "items": 6, "damage": {"base": 1.0}, "rows": rows}
    new = {"trained": "new", "items": 8, "damage": {"base": 1.0}, "rows": rows}
    both = succeed(new, old)
    assert both["before"]["rows"][0] == ["f", 1.25, 1.25]
    assert "rank correlation of 1.00 [1.00, 1.00]" in earlier(both)[0]
    assert succeed(new, both)["before"] == both["before"]  # the same experts, measured again
    assert "before" not in succeed(new, None) and earlier(new) == []


def test_groups_on_which_some_methods_were_not_run_are_not_counted() -> None:
    results = figures("zoo")
    kept = results["real"]["0"]
    whole = next(case for case in kept["cases"] if len(case["skills"]) == 5)
    two = {**whole, "skills": ["record", "date"]}
    stopped = {**whole, "skills": ["reverse", "mail"], "scores": {"base": 0.0, "linear": 1.0}}
    seed = {**kept, "cases": [whole, stopped, two]}
    assert [named(case, seed) for case in groups(results, seed)] == ["all 5", "record, date"]
    assert "before 2 groups of them: all 5; record, date." in "".join(advice(results, seed))
    assert "groups of them" not in "".join(advice(results, {**kept, "cases": [whole, stopped]}))
