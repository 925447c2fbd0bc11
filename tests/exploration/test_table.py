"""SoCE's choice of experts from a table alone, and its grid of weights."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from mergery.errors import TaskError
from mergery.exploration.soups.table import (
    ScoreTable,
    choose_experts,
    clusters,
    compositions,
    grid,
    read_table,
    shapley,
)


def table(scores: list[list[float]]) -> ScoreTable:
    array = np.array(scores, np.float64)
    return ScoreTable(
        tuple(f"m{number}" for number in range(len(array))), tuple(f"c{n}" for n in range(array.shape[1])), array
    )


def blocks() -> ScoreTable:
    """Two blocks of categories; whoever is good at one is bad at the other. m1 is best in the first, m3 in the second."""
    first = [0.1, 0.9, 0.2, 0.3, 0.6]
    second = [0.5, 0.1, 0.45, 0.9, 0.1]
    rows = [[a, a + 0.01 * n, b, b - 0.01 * n] for n, (a, b) in enumerate(zip(first, second, strict=True))]
    return table(rows)


def test_two_blocks_give_their_two_experts() -> None:
    scores = np.random.default_rng(0).normal(size=(400, 1))
    other = np.random.default_rng(1).normal(size=(400, 1))
    both = np.hstack([scores, scores + 0.1 * other, other, other + 0.1 * scores])
    chosen = choose_experts(table(both.tolist()), 0.3)
    assert set(chosen.experts) == {f"m{np.argmax(scores)}", f"m{np.argmax(other)}"} | {
        f"m{np.argmax(both[:, column])}" for column in (1, 3)
    }
    assert clusters(table(both.tolist()), 0.3) == (("c0", "c1"), ("c2", "c3"))


def test_the_order_of_models_and_categories_does_not_matter() -> None:
    whole = blocks()
    expected = set(choose_experts(whole, 0.7).experts)
    for rows in itertools.permutations(range(5)):
        turned = ScoreTable(
            tuple(whole.models[row] for row in rows), whole.categories[::-1], whole.scores[list(rows)][:, ::-1]
        )
        assert set(choose_experts(turned, 0.7).experts) == expected


def test_one_expert_of_two_categories_is_taken_once() -> None:
    chosen = choose_experts(table([[1, 1], [0, 0.5], [0.5, 0]]), 0.9)
    assert chosen.experts == ("m0",)


def test_where_all_categories_go_together_the_best_model_stays_alone() -> None:
    chosen = choose_experts(table([[1, 2], [2, 4], [3, 6], [4, 8]]), 0.3)
    assert chosen.experts == ("m3",)
    assert "alone" in chosen.warnings[-1]


def test_few_models_make_a_guess_and_that_is_said() -> None:
    chosen = choose_experts(table([[1, 3], [2, 1], [3, 3], [4, 2]]), 0.3)
    assert "is a guess" in chosen.warnings[0]
    low, high = chosen.correlations[0].low, chosen.correlations[0].high
    assert low < -0.9
    assert high > 0.9


@pytest.mark.parametrize(("parts", "count"), [(2, 9), (3, 36), (4, 84), (5, 126)])
def test_the_grid_has_the_papers_cardinality(parts: int, count: int) -> None:
    whole = list(compositions(parts))
    assert len(set(whole)) == len(whole) == count
    assert all(sum(each) == 10 and min(each) >= 1 for each in whole)
    uniform = (1 / parts,) * parts
    assert uniform in grid(parts)
    assert len(grid(parts)) == count + (parts in (3, 4))


def test_shapley_by_hand() -> None:
    """Two models: v() = 0, v(a) = 1, v(b) = 2, v(ab) = 5: a gets (1 + 3) / 2, b (2 + 4) / 2."""
    value = {frozenset(): 0.0, frozenset("a"): 1.0, frozenset("b"): 2.0, frozenset("ab"): 5.0}
    assert shapley("ab", value.__getitem__) == {"a": 2.0, "b": 3.0}


def test_shapley_shares_add_up_and_idle_members_get_nothing() -> None:
    def value(coalition: frozenset[str]) -> float:
        return math.sqrt(len(coalition - {"d"}))

    shares = shapley("abcd", value)
    assert sum(shares.values()) == pytest.approx(math.sqrt(3))
    assert shares["d"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,math\nx,1\n", "too small"),
        ("model,math\nx,1\ny,one\n", ":3:2"),
        ("model,math\nx,1\ny,1,2\n", "another length"),
        ("model,math\nx,1\nx,2\n", "stands twice"),
        ("model,math,math\nx,1,2\ny,2,3\n", "stands twice"),
    ],
)
def test_slips_in_a_table(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(TaskError) as error:
        read_table(tmp_path / "scores.csv")
    assert said in str(error.value)
