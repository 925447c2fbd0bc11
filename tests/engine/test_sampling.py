"""Samples that guess where a threshold lies: as large as they must be, and no larger."""

from __future__ import annotations

from mergery.engine.reader import RUN, SAMPLED_MOST, SAMPLED_RUNS, sampled_runs


def test_a_sample_grows_with_the_tensor_up_to_an_end():
    assert sampled_runs(1 << 18) == SAMPLED_RUNS
    assert sampled_runs(1 << 25) == (1 << 25) // (64 * RUN) == 128
    assert sampled_runs(1 << 26) == sampled_runs(1 << 40) == SAMPLED_MOST
