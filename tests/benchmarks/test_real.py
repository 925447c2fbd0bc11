"""The skills of the real language model: what is asked, and how the page tells it."""

from __future__ import annotations

import random

import pytest
from benchmarks.scores import Notes
from benchmarks.zoo.skills import ITEMS, SKILLS, held_out


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
