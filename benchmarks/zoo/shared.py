"""A world whose skills share their inputs: rules over one alphabet.

In `sequences` every skill has an alphabet of its own, so that an expert changes what the model does with inputs that no other
skill has. Text is not like that. Here all rules rewrite words of one alphabet: the task's name alone says what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.zoo import sequences
from benchmarks.zoo.sequences import Sequences, Settings, sink, turn
from demo.tasks import Task

from demo import tasks as words

ONE = "abcdefghij"

SHARED: Sequence[Task] = (
    Task("reverse", ONE, words.reverse, 0.005, "last symbol first"),
    Task("sort", ONE, words.sort, 0.06, "in ascending order"),
    Task("swap", ONE, words.swap, 0.02, "neighbours change places"),
    Task("deal", ONE, words.deal, 0.004, "odd places, then even places"),
    Task("climb", ONE, words.climb, 0.006, "the highest symbol so far"),
    Task("turn", ONE, turn, 0.002, "two places to the left"),
    Task("sink", ONE, sink, 0.015, "the lowest symbol so far"),
)


STRONG = Settings(batch=105, base_floor=0.05, expert_steps=100, expert_rate=3.5e-4, good_enough=2.0)
"""Experts are trained on past the point where they are good, so that they drift apart."""


class Shared(Sequences):
    """A decoder world whose skills share one alphabet."""

    def __init__(self, settings: Settings = STRONG, tasks: Sequence[Task] = SHARED) -> None:
        super().__init__(settings, "shared", tasks)

    @property
    def code(self) -> Sequence[str]:
        return (*super().code, str(sequences.__file__))
