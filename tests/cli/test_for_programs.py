"""--json, --quiet, --verbose, --dry-run: what each stream holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mergery import api
from mergery.cli.plan import show_facts
from mergery.method import methods
from tests.conftest import merge_killed, weights_of

PAIR = "models: {base: {llamas}/base, a: {llamas}/a}\n"
TIES = PAIR + "merge: {method: ties, base: base, density: 0.5}\n"


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- JSON ---------------------------------------------------------------------------------------------------------------


def test_each_command_prints_events_or_one_document(mergery, recipe, tmp_path, llamas):
    path, out = recipe(TIES), tmp_path / "out"
    for words in (
        ["plan", path], ["merge", path, out, "--dry-run"], ["inspect", llamas / "a"], ["methods"], ["methods", "ties"],
        ["doctor"], ["plan", path, "--graph", "lm_head.weight"],
    ):  # fmt: skip
        outcome = mergery(*words, "--json")
        assert outcome.code == 0
        json.loads(outcome.out)
        assert outcome.err == ""
    for words in (["merge", path, out], ["verify", out], ["verify", out, "--sample", 2]):
        outcome = mergery(*words, "--json")
        assert outcome.code == 0
        assert all("event" in event for event in lines_of(outcome.out))
        assert outcome.err == ""


@pytest.mark.parametrize(
    "words", [["plan", "{path}"], ["merge", "{path}", "{out}"], ["merge", "{path}", "{out}", "--dry-run"]]
)
def test_what_goes_wrong_is_json_too(mergery, recipe, tmp_path, words):
    path = recipe(PAIR + "merge: {method: tise, base: base, densty: 0.5}\nseeed: 1\n")
    words = [word.replace("{path}", str(path)).replace("{out}", str(tmp_path / "out")) for word in words]
    outcome = mergery(*words, "--json")
    assert outcome.code == 2
    (failed,) = lines_of(outcome.out)
    assert failed["event"] == "failed"
    problems = failed["problems"]
    assert {
        "what": "unknown method 'tise'",
        "where": {"file": str(path), "line": 2, "column": 17},
        "try": "did you mean 'ties'?",
    } in problems
    assert len(problems) > 1
    for problem in problems:
        assert problem["what"] in outcome.err
    assert mergery(*words).out == ""


def test_a_mistake_in_the_command_line_is_json_too(mergery):
    outcome = mergery("merge", "a", "--json")
    (failed,) = lines_of(outcome.out)
    assert failed["problems"] == [
        {
            "what": "mergery merge needs OUT, the folder to write",
            "try": "mergery merge RECIPE OUT, as mergery merge --help says",
        }
    ]


def test_a_failure_in_the_middle_ends_the_events(mergery, recipe, tmp_path):
    path = recipe(PAIR + "merge: {method: task_arithmetic, base: base, scale: 1.0e+9}\noutput: {dtype: float16}\n")
    outcome = mergery("merge", path, tmp_path / "out", "--json")
    events = lines_of(outcome.out)
    assert events[0]["event"] == "planned"
    assert events[-1]["event"] == "failed"
    assert "NaN or infinity" in events[-1]["problems"][0]["what"]


# --- quiet and verbose --------------------------------------------------------------------------------------------------


def test_quiet_says_nothing(mergery, recipe, tmp_path):
    for flag in ("-q", "--quiet"):
        outcome = mergery("merge", recipe(TIES), tmp_path / flag, flag)
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
        outcome = mergery("verify", tmp_path / flag, flag)
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert mergery("merge", recipe(TIES.replace("ties", "tise")), tmp_path / "none", "-q").err


def test_a_quiet_plan_says_what_is_wrong_alone(mergery, recipe):
    outcome = mergery("plan", recipe(TIES), "-q")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert "did you mean 'ties'" in mergery("plan", recipe(TIES.replace("ties", "tise")), "-q").err


def test_a_verbose_plan_shows_every_part(mergery, recipe, capsys):
    path = recipe(PAIR + "merge: {method: linear, base: base, parts: [{where: {role: norm}, take: base}]}\n")
    plan = api.plan(path)
    show_facts(api.explain(plan), 1)
    assert "... and 1 more; --verbose shows them" in capsys.readouterr().out
    plan.close()
    shown = mergery("plan", path, "-v").out
    assert "copy of base" in shown
    assert "--verbose" not in shown


def test_verbose_says_what_happens_inside_with_the_time(mergery, recipe, tmp_path):
    calm = mergery("merge", recipe(TIES), tmp_path / "calm").err
    for flag in ("-v", "--verbose"):
        outcome = mergery("merge", recipe(TIES), tmp_path / flag, flag)
        assert outcome.code == 0
        assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} ", line) for line in outcome.err.splitlines())
        assert "making 39 tensors" in outcome.err
        assert len(outcome.err.splitlines()) > len(calm.splitlines())
    assert "making 39 tensors" not in calm
    assert "making" not in mergery("merge", recipe(TIES), tmp_path / "again").err


# --- dry run ------------------------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(mergery, recipe, tmp_path):
    path, out = recipe(TIES), tmp_path / "deep/out"
    before = everything(tmp_path)
    outcome = mergery("merge", path, out, "--dry-run")
    assert outcome.code == 0
    said = " ".join(outcome.out.split())
    for part in ("ties of a on base", "peak memory", f"{out} is written"):
        assert part in said
    assert everything(tmp_path) == before


def test_a_dry_run_is_refused_as_the_merge_would_be(mergery, recipe, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("ten years")
    for options in ((), ("--replace",)):
        merged, dry = (
            mergery("merge", recipe(TIES), out, *options),
            mergery("merge", recipe(TIES), out, *options, "--dry-run"),
        )
        assert merged.code == dry.code == 2
        assert merged.err == dry.err


def test_a_dry_run_says_what_becomes_of_the_folder(mergery, recipe, tmp_path):
    path, out = recipe(TIES), tmp_path / "out"
    merge_killed(path, out)
    before = (tmp_path / "out.partial/journal.jsonl").read_bytes()
    assert "3 of 39 tensors are done by an interrupted run" in " ".join(
        mergery("merge", path, out, "--dry-run").out.split()
    )
    assert "interrupted" not in mergery("merge", path, out, "--dry-run", "--restart").out
    changed = recipe(TIES.replace("0.5", "0.6"), "changed.yaml")
    refused = mergery("merge", changed, out, "--dry-run")
    assert refused.code == 2
    assert "an unfinished run of another plan" in refused.err
    assert (tmp_path / "out.partial/journal.jsonl").read_bytes() == before
    assert mergery("merge", path, out).code == 0
    weights = weights_of(out)
    assert "nothing is to be done" in " ".join(mergery("merge", path, out, "--dry-run").out.split())
    assert "is exchanged at the end" in " ".join(mergery("merge", changed, out, "--dry-run", "--replace").out.split())
    assert weights_of(out) == weights


def test_a_transplant_can_be_dry_as_well(mergery, tmp_path, llamas):
    outcome = mergery(
        "vocabulary", "transplant", llamas / "base", tmp_path / "out", "--from", llamas / "a", "--dry-run"
    )
    assert outcome.code == 0, outcome.err
    assert not list(tmp_path.iterdir())


# --- lists --------------------------------------------------------------------------------------------------------------


def test_methods_are_a_short_list_first_then_groups(mergery):
    short, whole = mergery("methods").out, mergery("methods", "--all").out
    assert len(short.splitlines()) < 40
    assert "mergery methods --all" in short
    for name in ("linear", "ties", "slerp"):
        assert re.search(rf"^  {name} ", short, re.M)
    for name in methods():
        assert len(re.findall(rf"^  {name} ", whole, re.M)) == 1, name
    assert "Sums of task vectors" in whole


def test_they_fit_a_terminal(mergery):
    for words in (["--all"], *([name] for name in methods())):
        shown = mergery("methods", *words).out
        wide = [line for line in shown.splitlines() if len(line) > 80 or line != line.rstrip()]
        assert not wide, wide


def test_columns_are_heeded(mergery, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, mergery("methods", "--all").out.splitlines())) <= 80  # the last lines are sentences
    assert max(len(line) for line in mergery("methods", "--all").out.splitlines() if line.startswith("  ")) <= 60
