"""Splits are disjoint by construction, and the part to report on cannot be used for choosing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import TaskError
from mergery.evaluation import Item, Score, Task, TaskScore, load_task, split
from tests.evaluation.conftest import choices, texts

ROWS = st.lists(st.tuples(st.integers(0, 40), st.text(max_size=2)), min_size=60, max_size=120)


def made(rows: list[tuple[int, str]], name: str = "t") -> Task:
    items = (
        Item(str(line), category, {"text": f"text {number}"}, line) for line, (number, category) in enumerate(rows)
    )
    return Task(name, "perplexity", tuple(items))


@given(rows=ROWS, seed=st.integers(0, 5))
@settings(max_examples=25)
def test_no_content_stands_in_two_parts(rows, seed):
    try:
        splits = split([made(rows), made(rows[::-1], "u")], seed=seed)
    except TaskError:
        return  # so few contents that a part is empty
    parts = [splits.search, splits.validation, splits.report("chosen")]
    contents = [{item.content for task in part for item in task.items} for part in parts]
    assert not contents[0] & contents[1]
    assert not (contents[0] | contents[1]) & contents[2]
    assert sum(splits.sizes().values()) == 2 * len(rows)


def test_an_item_stays_where_it_is_when_others_are_added():
    few, many = [(number, "") for number in range(200)], [(number, "") for number in range(400)]
    before, after = split(made(few)), split(made(many))
    assert {item.content for item in before.search[0].items} <= {item.content for item in after.search[0].items}
    assert split(made(few), seed=1).search != before.search


def test_shares_are_kept_nearly():
    sizes = split(made([(number, "") for number in range(4000)]), search=0.6, validation=0.1, report=0.3).sizes()
    assert sizes["search"] == pytest.approx(2400, abs=120)
    assert sizes["validation"] == pytest.approx(400, abs=70)
    nothing = split(made([(number, "") for number in range(50)]), search=0.5, validation=0.0, report=0.5)
    assert nothing.validation == ()


def test_the_report_is_for_one_model():
    splits = split(made([(number, "") for number in range(50)]))
    assert splits.report("first") == splits.report("first")
    with pytest.raises(
        TaskError, match=r"opened for 'first'\n  why: to score 'second' on them as well would be to choose"
    ):
        splits.report("second")
    assert "report" not in repr(splits)


def test_a_score_refuses_what_is_not_for_choosing(zoo, write):
    task = load_task(write(texts(40)))
    splits = split(task)
    with pytest.raises(TaskError, match=r"cannot be used for choosing\n  why: it is the part to report on"):
        TaskScore(splits.report("x"))
    with pytest.raises(TaskError, match=r"cannot be used for choosing\n  why: it has not been split"):
        TaskScore((task,))
    score = TaskScore.search(splits)
    assert isinstance(score, Score)
    assert score(zoo / "a") == score.measure(zoo / "a").scores
    assert set(score(zoo / "a")) == {"task.bits_per_byte", "task.byte_perplexity", "task.perplexity"}
    assert TaskScore.validation(splits).tasks == splits.validation


def test_splits_that_cannot_be():
    task = made([(number, "") for number in range(50)])
    with pytest.raises(TaskError, match="the shares of a split must add up to 1"):
        split(task, search=0.5, validation=0.5, report=0.5)
    with pytest.raises(TaskError, match="must add up to 1"):
        split(task, search=1.5, validation=-0.5, report=0.0)
    with pytest.raises(TaskError, match=r"no item of 't' falls into the \w+ part"):
        split(made([(1, "")] * 20))
    with pytest.raises(TaskError, match="is a search part already"):
        split(split(task).search)


def test_one_part_from_the_command_line(mergery, zoo, write, tmp_path):
    path = write(choices(40))
    sizes = []
    for part in ("search", "validation", "report"):
        arguments = ["evaluate", zoo / "a", "--tasks", path, "--split", part, "--results", tmp_path / "r", "--json"]
        done = json.loads(mergery(*arguments).out.splitlines()[-1])
        sizes.append(done["tasks"][0]["items"])
    assert sizes == list(split(load_task(path)).sizes().values())
    assert sum(sizes) == 40
