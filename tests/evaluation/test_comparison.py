"""Comparing: what is more than noise, what is gained and lost, and what luck would show."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mergery as library
from mergery.errors import MergeryError, TaskError
from mergery.evaluation import Evaluation, EvaluationOptions, Metric, Outcome, TaskResult
from mergery.evaluation.findings import decimals
from mergery.evaluation.picture import draw
from mergery.evaluation.results import read_results
from tests.evaluation.conftest import choices, texts


def scored(name: str, values: list[float], categories: str = "", metric: Metric = Metric("accuracy")) -> Evaluation:
    """An evaluation with these values for items 1, 2, ..."""
    items = tuple(
        Outcome(str(number), categories[number - 1 : number], {metric.name: float(value)})
        for number, value in enumerate(values, 1)
    )
    return Evaluation(name, name, (TaskResult(name, name, "quiz", "hash", "choice", (metric,), items),))


def test_gains_losses_and_retention_worked_by_hand():
    """Both parents solve items 1 and 2, one of them 3; the merge solves 1, 3 and, alone, 4; nobody solves 5."""
    a, b = scored("a", [1, 1, 1, 0, 0]), scored("b", [1, 1, 0, 0, 0])
    found = library.compare([a, b, scored("merge", [1, 0, 1, 1, 0])], parents=["a", "b"])
    (overlap,) = found.overlaps
    assert (overlap.gained, overlap.lost) == (("4",), ("2",))
    assert overlap.retention == 1 / 2
    assert (overlap.shared, overlap.reachable, overlap.reached) == (2, 3, 2)
    assert found.candidates == ("merge",)
    assert found.optimisms == ()
    assert library.compare([scored("a", [0]), scored("b", [1])], parents=["a"]).overlaps[0].retention is None


def test_a_real_difference_is_told_and_noise_is_called_noise():
    rng = np.random.default_rng(0)
    base = (rng.random(200) < 0.5).astype(float)
    better = np.maximum(base, rng.random(200) < 0.3).tolist()
    alike = np.where(rng.random(200) < 0.1, rng.integers(0, 2, 200), base).tolist()
    found = library.compare([scored("base", base.tolist()), scored("better", better), scored("alike", alike)])
    verdicts = {pair.candidate: pair for pair in found.pairs}
    assert verdicts["better"].verdict == "better"
    assert "better is better than base on quiz: accuracy" in verdicts["better"].words
    assert "corrected for 2)" in verdicts["better"].words
    assert verdicts["alike"].verdict == "noise"
    assert "alike and base cannot be told apart on quiz" in verdicts["alike"].words
    assert "is noise (p = " in verdicts["alike"].words
    assert verdicts["better"].low > 0 > verdicts["alike"].low
    assert verdicts["better"].test == "McNemar"
    same = library.compare([scored("x", [1, 0]), scored("y", [1, 0])])
    assert same.pairs[0].words == "y and x score the same on all 2 items of quiz"


def test_less_may_be_better():
    metric = Metric("log_loss", higher=False)
    low, high = np.linspace(0.1, 1, 40), np.linspace(0.3, 1.2, 40)
    found = library.compare([scored("high", high.tolist(), metric=metric), scored("low", low.tolist(), metric=metric)])
    assert found.pairs[0].verdict == "better"
    assert found.pairs[0].difference == pytest.approx(-0.2)
    assert found.pairs[0].test == "permutation"
    assert found.overlaps == ()
    assert found.optimisms[0].best == "low"
    assert found.optimisms[0].score == pytest.approx(0.55)


def test_a_false_alarm_is_rare_among_many_equal_candidates():
    """Twenty candidates that only guess: without correction about one would be called better or worse."""
    rng = np.random.default_rng(8)
    models = [scored(f"m{index}", rng.integers(0, 2, 100).tolist()) for index in range(21)]
    found = library.compare(models, resamples=200)
    assert any(pair.p < 0.05 for pair in found.pairs)
    assert all(pair.verdict == "noise" for pair in found.pairs)


def test_the_best_of_several_is_told_with_its_luck():
    rng = np.random.default_rng(2)
    parent = scored("parent", rng.integers(0, 2, 50).tolist())
    models = [scored(f"m{index}", rng.integers(0, 2, 50).tolist()) for index in range(8)]
    (optimism,) = library.compare([parent, *models], parents=["parent"], resamples=2000).optimisms
    assert optimism.candidates == 8
    assert optimism.score == max(model.scores["quiz.accuracy"] for model in models)
    assert 0.05 < optimism.equal < 0.15  # 1.42 standard errors of 0.07
    assert 0.0 < optimism.bootstrap < 0.15
    assert f"the best of 8 equal models would look {optimism.equal:.3f} better than it is on 50 items" in optimism.words


def test_categories_have_their_own_intervals():
    found = library.compare([scored("x", [1, 1, 0, 0], "aabb"), scored("y", [1, 0, 1, 0], "aabb")])
    values = {(score.model, score.category): (score.value, score.items) for score in found.scores}
    assert values == {
        ("x", ""): (0.5, 4), ("y", ""): (0.5, 4), ("x", "a"): (1.0, 2), ("y", "a"): (0.5, 2), ("x", "b"): (0.0, 2),
        ("y", "b"): (0.5, 2),
    }  # fmt: skip


def test_items_are_paired_by_name_in_whatever_order_they_come():
    x, y = scored("x", [1, 0, 1, 1]), scored("y", [0, 0, 1, 1])
    task = y.tasks[0]
    turned = Evaluation("y", "y", (TaskResult(**{**vars(task), "items": task.items[::-1]}),))
    assert library.compare([x, turned]).plain() == library.compare([x, y]).plain()


def test_perplexities_are_compared_as_perplexities(zoo, write, tmp_path):
    path = write([{"task": {"metric": "perplexity"}}, *texts(12)])
    models = [library.evaluate(zoo / name, path, results=tmp_path / "r") for name in ("base", "a")]
    found = library.compare(models)
    for score, model in zip(found.scores, models, strict=True):
        assert score.value == pytest.approx(model.scores["task.perplexity"], rel=1e-12)
        assert score.low < score.value < score.high
    pair = found.pairs[0]
    assert pair.low < pair.difference < pair.high
    assert 0 < pair.visible < 100
    read = [read_results(next((tmp_path / "r").glob(f"{name}-*"))) for name in ("base", "a")]
    assert library.compare(read).plain() == found.plain()


def test_what_cannot_be_compared(zoo, write, tmp_path):
    x, y = scored("x", [1, 0]), scored("y", [0, 1])
    other = TaskResult(**{**vars(y.tasks[0]), "task_hash": "other"})
    chat = TaskResult(**{**vars(y.tasks[0]), "settings": {"chat": True}})
    more = TaskResult(**{**vars(y.tasks[0]), "task": "more"})
    cases = [
        ([x], {}, "there is nothing to compare with"),
        ([x, x], {}, "is given twice"),
        ([x, y], {"parents": ["z"]}, "the parent 'z' is none of the models"),
        ([x, y], {"parents": ["x", "y"]}, "all models are parents"),
        ([x, Evaluation("y", "y", (other,))], {}, "different items on 'quiz'"),
        ([x, Evaluation("y", "y", (chat,))], {}, "different settings on 'quiz'"),
        ([x, Evaluation("y", "y", (more,))], {}, "y has no results of 'quiz'"),
        ([x, Evaluation("y", "y", (*y.tasks, more))], {}, "x has no results of 'more'"),
        ([x, y], {"resamples": 10}, "resamples is 10"),
        ([x, tmp_path / "none"], {}, "there are no results"),
        ([x, tmp_path], {}, "there are no results in"),
    ]
    for models, settings, says in cases:
        with pytest.raises(MergeryError, match=says):
            library.compare(models, **settings)
    path = write(choices(2))
    for longest in (None, 32):
        library.evaluate(zoo / "a", path, results=tmp_path / "r", options=EvaluationOptions(longest=longest))
    with pytest.raises(TaskError, match="there are two results of 'task'"):
        read_results(next((tmp_path / "r").iterdir()))


def test_models_of_one_name_are_told_apart():
    x, y = scored("model", [1, 0]), scored("model", [0, 1])
    other = Evaluation("model", "abcdef99", y.tasks)
    assert library.compare([x, other]).models == ("model model", "model abcdef")


def test_numbers_are_shown_as_finely_as_their_interval():
    assert [decimals(width) for width in (0.0, 0.3, 0.02, 0.004, 1e-12)] == [3, 3, 3, 4, 9]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_picture_is_drawn(tmp_path, kind):
    found = library.compare([scored("x", [1, 1, 0, 0], "aabb"), scored("y", [1, 0, 1, 0], "aabb")], parents=["x"])
    draw(found, tmp_path / f"p.{kind}")
    assert (tmp_path / f"p.{kind}").stat().st_size > 3000


def test_the_command_line_evaluates_compares_and_draws(mergery, zoo, write, tmp_path):
    path = write(
        choices(30, category="x") + [{**item, "id": f"n{n}", "category": "y"} for n, item in enumerate(choices(9, 1))]
    )
    recipe = tmp_path / "half.yaml"
    recipe.write_text(f"models: {{a: {zoo}/a, b: {zoo}/b}}\nmerge: {{method: linear}}\n")
    common = ["--results", tmp_path / "r", "--resamples", 200]
    arguments = ["compare", recipe, "--parents", zoo / "a", zoo / "b", "--tasks", path, *common]
    outcome = mergery(*arguments, "--plot", tmp_path / "p.png")
    assert outcome.code == 0, outcome.err
    assert "task: accuracy, 95% intervals" in outcome.out
    assert "a (parent)" in outcome.out
    assert "all (39)" in outcome.out
    assert "of what all parents solve" in outcome.out
    assert (tmp_path / "p.png").exists()
    done = json.loads(mergery(*arguments, "--json").out.splitlines()[-1])
    assert done["parents"] == ["a", "b"]
    assert [pair["reference"] for pair in done["pairs"]] == ["a", "b"]
    folders = sorted((tmp_path / "r").iterdir())
    again = mergery("compare", *folders, "--resamples", 200)
    assert again.code == 0
    assert "is the best of 3 on task" in again.out.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{zoo}/a", "{zoo}/b"], "holds no results"),
        (["{zoo}/a", "--plot", "p.gif"], "the plot 'p.gif' is of no known kind"),
        (["{zoo}/a", "--plot", "no/p.png"], "there is no folder 'no' for the plot"),
    ],
)
def test_mistakes_on_the_command_line(mergery, zoo, arguments, says):
    outcome = mergery("compare", *(argument.replace("{zoo}", str(zoo)) for argument in arguments))
    assert outcome.code == 2
    assert says in outcome.err
