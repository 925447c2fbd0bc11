"""How much of a fine-tune's effect is left on its new base, on items that all four models have answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mergery.errors import TaskError
from mergery.evaluation.results import Evaluation, TaskResult, link
from mergery.evaluation.statistics import RESAMPLES, interval, resampled_means

LEAST = 1e-9  # an effect of which nothing can be a share


@dataclass(frozen=True)
class Effect:
    """One metric of one task: scores, what the fine-tune gains over its base, and the share of that which the result gains over
    the new base. The limits are those of 95 % of resamples of the items, the same for all models.
    """

    task: str
    metric: str
    items: int
    old: float
    finetune: float
    new: float
    rebased: float
    learned: float  # finetune - old
    learned_limits: tuple[float, float]
    kept: float  # rebased - new
    kept_limits: tuple[float, float]
    share: float | None  # of what was learned; None where nothing was
    share_limits: tuple[float, float] | None  # None where what was learned may be nothing

    def plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @property
    def words(self) -> str:
        """In a sentence."""
        low, high = self.kept_limits
        said = (
            f"{self.task}: {self.metric} {self.finetune:.4f} of the fine-tune, {self.learned:+.4f} over its base; "
            f"{self.rebased:.4f} of the result, {self.kept:+.4f} over the new base [{low:+.4f}, {high:+.4f}]"
        )
        if self.share is None:
            return said
        if self.share_limits is None:
            return f"{said}; what the fine-tune learned is within the noise of {self.items} items"
        low, high = self.share_limits
        return f"{said}: {self.share:.0%} of it [{low:.0%}, {high:.0%}]"


def effects(
    old: Evaluation, finetune: Evaluation, new: Evaluation, rebased: Evaluation, *, seed: int = 0
) -> list[Effect]:
    """The effects of all tasks, of each its first metric. Raises TaskError where items differ."""
    found = []
    for results in zip(old.tasks, finetune.tasks, new.tasks, rebased.tasks, strict=True):
        if len({tuple(item.item for item in each.items) for each in results}) > 1:
            what = f"the models have answered different items of {results[0].task}"
            raise TaskError(what, hint="evaluate all four on the same files")
        found.append(_effect(results, seed))
    return found


def _effect(results: Sequence[TaskResult], seed: int) -> Effect:
    metric = results[0].metrics[0]
    columns = [each.columns(metric.name) for each in results]
    means = np.stack(list(_resampled(columns, seed, results[0].task)))
    scores = [each.scores[metric.name] for each in results]
    old, finetune, new, rebased = link(means, metric)
    learned, kept = scores[1] - scores[0], scores[3] - scores[2]
    limits = interval(finetune - old)
    share = kept / learned if abs(learned) > LEAST else None
    sure = limits[0] * limits[1] > 0.0
    shares = interval((rebased - new) / (finetune - old)) if share is not None and sure else None
    sides = dict(zip(("old", "finetune", "new", "rebased"), scores, strict=True))
    return Effect(
        results[0].task, metric.name, len(results[0].items), **sides, learned=learned, learned_limits=limits, kept=kept,
        kept_limits=interval(rebased - new), share=share, share_limits=shares,
    )  # fmt: skip


def _resampled(columns: Sequence[tuple[np.ndarray, np.ndarray]], seed: int, name: str) -> Iterator[np.ndarray]:
    """Means of the same resamples for each model, whose weights may be its own."""
    for values, weights in columns:
        yield resampled_means(values[None], weights, seed=seed, name=name, resamples=RESAMPLES)[0]
