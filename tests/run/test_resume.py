"""A killed merge goes on where it stopped, and ends byte for byte as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mergery import api
from mergery.errors import DataError, PlanError
from mergery.run.events import Started, Statistics
from mergery.run.merging import Result
from mergery.run.sinks import MemorySink
from mergery.run.workers import Options, Run
from tests.conftest import Killed, held_merge, journalled, merge_killed, weights_of

TEXT = """\
models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b}
merge: {method: dare_ties, base: base, density: 0.5}
output: {shard_size: 30kB}
seed: 11
"""

SLOW = """
import os, sys, time
import mergery.run.sinks as sinks
real = sinks.FolderSink.finished
def slow(self, *arguments):
    time.sleep(0.05)
    return real(self, *arguments)
sinks.FolderSink.finished = slow
import mergery.run.workers as run
run.BATCH_TENSORS = 1
from mergery.cli import main
main(sys.argv[1:])
"""


def test_an_interrupted_run_goes_on(recipe, tmp_path):
    path = recipe(TEXT)
    api.merge(path, tmp_path / "calm")

    merge_killed(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").is_dir()
    result = api.merge(path, tmp_path / "out")
    assert isinstance(result, Result)
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "calm")
    assert not (tmp_path / "out.partial").exists()


def test_kills_at_random_points_change_nothing(recipe, tmp_path, mergery):
    path = recipe(TEXT)
    assert mergery("merge", path, tmp_path / "calm").code == 0
    chance = random.Random(5)
    out = tmp_path / "out"
    kills = 0
    while not out.exists():  # a folder that has its name must be whole, however often its makers were killed
        process = subprocess.Popen([sys.executable, "-c", SLOW, "merge", str(path), str(out), "--quiet"])
        while kills < 6 and process.poll() is None and not any(tmp_path.glob("out.partial/*.safetensors")):
            time.sleep(0.005)  # however long a busy machine takes to start it
        try:
            process.wait(timeout=chance.random() * 0.3 if kills < 6 else 600)
            assert process.returncode == 0
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills > 0
    assert weights_of(out) == weights_of(tmp_path / "calm")
    assert (out / "mergery.lock.json").exists()


def test_a_finished_merge_is_not_made_again(recipe, tmp_path, mergery):
    path = recipe(TEXT)
    assert mergery("merge", path, tmp_path / "out").code == 0
    before = (tmp_path / "out/model-00001-of-00007.safetensors").stat().st_mtime_ns
    outcome = mergery("merge", path, tmp_path / "out")
    assert outcome.code == 0
    assert "already there" in outcome.err
    assert (tmp_path / "out/model-00001-of-00007.safetensors").stat().st_mtime_ns == before


def test_another_plan_is_refused(recipe, tmp_path, mergery):
    out = tmp_path / "out"
    assert mergery("merge", recipe(TEXT), out).code == 0
    other = recipe(TEXT.replace("0.5", "0.6"), "other.yaml")
    outcome = mergery("merge", other, out)
    assert outcome.code == 2
    assert "another plan" in outcome.err


def test_another_plans_journal_is_refused(recipe, tmp_path):
    merge_killed(recipe(TEXT), tmp_path / "out")
    with pytest.raises(PlanError, match="unfinished run of another plan"):
        api.merge(recipe(TEXT.replace("seed: 11", "seed: 12"), "other.yaml"), tmp_path / "out")


def test_a_torn_journal_line_never_happened(recipe, tmp_path):
    path = recipe(TEXT)
    api.merge(path, tmp_path / "calm")

    merge_killed(path, tmp_path / "out")
    with open(tmp_path / "out.partial/journal.jsonl", "ab") as journal:
        journal.write(b'{"done": {"model.norm.wei')
    api.merge(path, tmp_path / "out")
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "calm")


def test_events_are_json_lines(recipe, tmp_path, mergery):
    outcome = mergery("merge", recipe(TEXT), tmp_path / "out", "--json")
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert events[0]["event"] == "planned"
    assert events[0]["what"] == "dare_ties of a, b on base"
    assert events[-1]["event"] == "finished"
    last = [event for event in events if event["event"] == "progress"][-1]
    assert last["bytes"] == last["total"]


def test_time_is_kept(recipe, tmp_path):
    started = time.perf_counter()
    result = api.merge(recipe(TEXT), Path(tmp_path / "out"))
    assert isinstance(result, Result)
    assert 0 < result.seconds <= time.perf_counter() - started


@pytest.mark.parametrize(("number", "word"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_a_signal_stops_cleanly_and_says_how_to_go_on(recipe, tmp_path, number, word):
    path, out = recipe(TEXT), tmp_path / "out"
    process = held_merge(tmp_path / "gate", path, out, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    while not journalled(tmp_path / "out.partial"):
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 128 + number
    assert f"mergery: {word}; run the same command again to go on" in errors
    assert "Traceback" not in errors
    assert not out.exists()
    kept = journalled(tmp_path / "out.partial")
    result = api.merge(path, out)
    assert isinstance(result, Result)
    assert 0 < kept <= result.resumed < len(result.plan.steps)
    api.merge(path, tmp_path / "calm")
    assert weights_of(out) == weights_of(tmp_path / "calm")


def test_an_input_that_changes_during_the_run_is_noticed(recipe, tmp_path, llamas):
    shutil.copytree(llamas / "a", tmp_path / "a")
    path = recipe("models: {base: {llamas}/base, a: ./a}\nmerge: {method: ties, base: base}\n")

    def write(event):
        if isinstance(event, Started):
            os.utime(tmp_path / "a/model.safetensors")

    with pytest.raises(DataError, match="the files of a were written to during the merge"):
        api.merge(path, tmp_path / "out", on_event=write)
    assert not (tmp_path / "out").exists()
    assert isinstance(api.merge(path, tmp_path / "out"), Result)


def test_an_unfinished_run_does_not_go_on_with_other_files(recipe, tmp_path, llamas):
    shutil.copytree(llamas / "a", tmp_path / "a")
    path = recipe("models: {base: {llamas}/base, a: ./a}\nmerge: {method: ties, base: base}\n")

    merge_killed(path, tmp_path / "out")
    os.utime(tmp_path / "a/model.safetensors")
    with pytest.raises(PlanError, match="a changed since the unfinished run"):
        api.merge(path, tmp_path / "out")


def test_what_a_batch_has_made_is_kept_when_the_rest_of_it_fails(recipe, tmp_path):
    path = recipe(TEXT)
    merge_killed(path, tmp_path / "out", after=5)
    result = api.merge(path, tmp_path / "out")
    assert isinstance(result, Result)
    assert result.resumed == 5


def test_a_stop_during_statistics_stops_the_workers(recipe):
    path = recipe(TEXT.replace("dare_ties", "ties").replace("density: 0.5", "density: 0.5, scope: model"))
    plan = api.plan(path)

    def stop(event):
        if isinstance(event, Statistics):
            raise Killed

    run = Run(plan, MemorySink(plan), Options(), stop)
    with pytest.raises(Killed):
        run.execute()
    assert run.stop.is_set()
    plan.close()
