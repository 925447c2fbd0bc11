"""What scores and comparisons look like at a prompt and in a notebook."""

from __future__ import annotations

import mergery
from mergery.evaluation.results import Evaluation, Outcome, TaskResult
from mergery.evaluation.task import Metric


def evaluation(name: str, right: int, items: int = 40) -> Evaluation:
    """A model that solves the first `right` of so many items."""
    outcomes = tuple(Outcome(str(each), "", {"accuracy": float(each < right)}) for each in range(items))
    task = TaskResult(name, f"print of {name}", "arc <easy>", "0" * 64, "choice", (Metric("accuracy"),), outcomes)
    return Evaluation(name, f"print of {name}", (task,))


def test_scores_are_a_line_and_a_table():
    merged = evaluation("merged", 30)
    assert repr(merged) == "<Evaluation of merged: arc <easy>.accuracy 0.7500>"
    assert repr(merged.tasks[0]) == "<TaskResult: merged on arc <easy>, 40 items, accuracy 0.7500>"
    shown = merged._repr_html_()
    assert shown.startswith("<table>")
    assert "<td>arc &lt;easy&gt;</td><td>40</td><td>accuracy</td><td>0.7500</td>" in shown


def test_comparisons_are_a_line_sentences_and_a_table():
    found = mergery.compare([evaluation("merged", 38), evaluation("base", 10)], parents=["base"], resamples=200)
    assert repr(found) == "<Comparison of merged, base on 1 task>"
    assert str(found).splitlines() == found.words
    assert found.words
    shown = found._repr_html_()
    assert "<th>arc &lt;easy&gt;</th>" in shown
    assert "<td>merged</td><td>0.950 [" in shown
    assert shown.count("<li>") == len(found.words)
