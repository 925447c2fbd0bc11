"""Times, sizes and progress in the units that a person would use."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mergery import api
from mergery.errors import size
from mergery.report import progress
from mergery.report.progress import PlainReporter, progress_line
from mergery.report.telling import Share
from mergery.report.words import about, duration
from mergery.run import estimate
from mergery.run.events import Progress
from mergery.run.workers import Options

TIES = "models: {base: {llamas}/base, a: {llamas}/a}\nmerge: {method: ties, base: base}\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"), (0.8, "0.8 s"), (9.94, "9.9 s"), (9.96, "10 s"), (40, "40 s"), (89.4, "89 s"),
        (90, "2 min"), (600, "10 min"), (7199, "2 h"), (3600 * 3.33, "3 h 20 min"), (58_483, "16 h"), (1_149_896, "13 days"),
    ],
)  # fmt: skip
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "about a second"), (1.6, "about 2 s"), (300, "about 5 min")])
def test_estimates(seconds, words):
    assert about(seconds) == words


@pytest.mark.parametrize(
    ("nbytes", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (67_108_864, "67.1 MB"), (28.5e9, "28.5 GB"), (1.2e13, "12.00 TB")],
)
def test_sizes(nbytes, words):
    assert size(nbytes) == words


def test_a_line_of_progress_has_a_share_a_rate_and_the_time_left():
    share = Share("merging", 734_000_000, 861_000_000, True)
    assert progress_line(share, 8.0, 734_000_000) == "merging: 734.0 MB of 861.0 MB (85 %), 91.8 MB/s, 1.4 s left"
    assert progress_line(share, 0.0, 0) == "merging: 734.0 MB of 861.0 MB (85 %)"
    assert progress_line(Share("arc", 30, 90, False), 60.0, 20) == "arc: 30 of 90 (33 %), 0.33/s, 3 min left"


def test_a_resumed_run_is_timed_from_where_it_went_on(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    reporter = PlainReporter()
    reporter.event(Progress("merging", 500_000_000, 1_000_000_000))
    reporter.event(Progress("merging", 600_000_000, 1_000_000_000))
    assert capsys.readouterr().err == "merging: 600.0 MB of 1.0 GB (60 %), 10.0 MB/s, 40 s left\n"


def test_what_begins_anew_is_timed_anew(capsys, monkeypatch):
    """Steps of the same name follow bytes, or another sweep the first: less than before is no negative rate."""
    clock = iter([0.0, 0.0, 10.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    reporter = PlainReporter()
    for done in (500_000_000, 1_000, 100_001_000):
        reporter.event(Progress("merging", done, 1_000_000_000))
    assert capsys.readouterr().err.splitlines()[-1] == "merging: 100.0 MB of 1.0 GB (10 %), 10.0 MB/s, 90 s left"


# --- what does not suit the machine -------------------------------------------------------------------------------------


def test_memory_beyond_the_machines_is_a_warning_of_plan_and_merge(mergery, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "machine_memory", lambda: 50 << 20)
    path = recipe(TIES)
    for outcome in (mergery("plan", path), mergery("merge", path, tmp_path / "out")):
        assert "of memory, and this machine has 52.4 MB" in " ".join((outcome.out + outcome.err).split())


def test_fewer_threads_are_named_where_they_help(recipe, monkeypatch):
    plan = api.plan(recipe(TIES))
    one, many = (estimate.peak_memory(plan, Options(threads)) for threads in (1, 16))
    monkeypatch.setattr(estimate, "machine_memory", lambda: (one + many) // 2)
    (warning,) = estimate.machine_warnings(plan, Options(16))
    assert f"with --threads 1 it is {size(one)}" in warning
    assert not estimate.machine_warnings(plan, Options(1))
    plan.close()


def test_slow_kernels_are_told_and_timed(recipe, monkeypatch):
    plan = api.plan(recipe(TIES))
    fast = estimate.seconds(plan)
    monkeypatch.setattr(estimate, "choice", lambda: "readable")
    assert any("eight times as long" in warning for warning in estimate.machine_warnings(plan))
    assert estimate.seconds(plan) > fast
    plan.close()


def test_the_machines_memory_is_what_the_system_says():
    told = Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]
    assert 0 < estimate.machine_memory() <= int(told) * 1024


# --- logging ------------------------------------------------------------------------------------------------------------


def test_logging_hears_of_merges(recipe, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger="mergery")
    api.merge(recipe(TIES), tmp_path / "out")
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "mergery"]
    assert ("DEBUG", "making 39 tensors") in said
    assert any(level == "INFO" and text.startswith("ties of a on base: 39 tensors") for level, text in said)
    assert any(level == "INFO" and text.startswith("wrote") for level, text in said)
    assert any(level == "WARNING" and "chat templates" in text for level, text in said)
