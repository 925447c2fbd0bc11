"""Functions that stop in the middle and wait."""

from __future__ import annotations

import pytest

from mergery.calibration.turns import Turn


def test_a_function_asks_and_is_answered():
    told = []

    def function():
        told.append(turn.ask("one"))
        told.append(turn.ask("two"))

    turn: Turn[str] = Turn(function)
    turn.start()
    assert turn.asked == "one"
    turn.resume(1)
    assert (turn.asked, told) == ("two", [1])
    turn.resume(2)
    assert (turn.asked, told) == (None, [1, 2])


def test_what_it_raises_is_raised_where_it_is_resumed():
    def function():
        turn.ask("anything")
        raise ValueError("no")

    turn: Turn[str] = Turn(function)
    turn.start()
    with pytest.raises(ValueError, match="no"):
        turn.resume(None)
    assert turn.asked is None


def test_one_that_waits_can_be_ended():
    ended = []

    def function():
        try:
            turn.ask("anything")
        finally:
            ended.append(True)

    turn: Turn[str] = Turn(function)
    turn.start()
    turn.stop()
    assert ended == [True]
