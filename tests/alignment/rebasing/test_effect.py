"""What is left of a fine-tune's effect, by hand."""

from __future__ import annotations

import pytest

from mergery.alignment.rebasing.effect import effects
from mergery.errors import TaskError
from mergery.evaluation.results import Evaluation, Outcome, TaskResult
from mergery.evaluation.task import Metric


def scored(name: str, *values: float) -> Evaluation:
    items = tuple(Outcome(str(place), "", {"accuracy": value}) for place, value in enumerate(values))
    return Evaluation(name, name, (TaskResult(name, name, "quiz", "", "choice", (Metric("accuracy"),), items),))


def test_half_of_what_was_learned_is_kept() -> None:
    old, finetune = scored("old", *[0.0] * 8), scored("finetune", *[1.0] * 8)
    new, rebased = scored("new", *[0.25] * 8), scored("rebased", *[0.75] * 8)
    (found,) = effects(old, finetune, new, rebased)
    assert (found.learned, found.kept, found.share) == (1.0, 0.5, 0.5)
    assert found.share_limits == (0.5, 0.5)
    assert "50% of it [50%, 50%]" in found.words


def test_of_an_effect_within_the_noise_no_share_is_sure() -> None:
    old, finetune = scored("old", 0.0, 1.0, 0.0, 1.0), scored("finetune", 1.0, 0.0, 1.0, 1.0)
    new, rebased = scored("new", 0.0, 0.0, 0.0, 0.0), scored("rebased", 1.0, 0.0, 0.0, 0.0)
    (found,) = effects(old, finetune, new, rebased)
    assert found.share_limits is None
    assert "within the noise of 4 items" in found.words
    (found,) = effects(old, old, new, rebased)
    assert found.share is None


def test_of_other_items_nothing_is_said() -> None:
    with pytest.raises(TaskError, match="different items of quiz"):
        effects(scored("old", 0.0), scored("finetune", 1.0), scored("new", 0.0), scored("rebased", 0.0, 1.0))
