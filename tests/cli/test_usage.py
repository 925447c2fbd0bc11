"""What people expect of a command line: help with examples, errors in words, what to do next, completion."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.reference.command_line import commands

from mergery.cli import app
from mergery.cli.examples import EXAMPLES
from mergery.version import __version__
from tests.conftest import mergery_process

COMMANDS = [" ".join(path[1:]) for path, _ in commands(app, ("mergery",))]


def test_every_command_has_examples():
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples_and_a_link(mergery, command):
    outcome = mergery(*command.split(), "--help")
    assert outcome.code == 0
    text = " ".join(outcome.out.split())
    for typed, meant in EXAMPLES[command]:
        assert typed in text
        assert meant in text
    assert "/docs/command-line.md\n" in outcome.out
    assert "[ARGS]" not in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert "[default: False]" not in text
    assert "[default: ()]" not in text


@pytest.mark.parametrize("typed", [typed for rows in EXAMPLES.values() for typed, _ in rows])
def test_every_example_is_a_command_line_that_is_understood(typed):
    words = re.sub(r"source <\((.*)\)|[|>].*", lambda match: match[1] or "", typed)
    command, bound, *_ = app.parse_args(shlex.split(words)[1:], exit_on_error=False, print_error=False)
    assert callable(command)
    assert bound is not None


def test_the_list_of_commands_says_what_each_does(mergery):
    for words in (["--help"], ["-h"], ["help"]):
        outcome = mergery(*words)
        assert outcome.code == 0
        for command in COMMANDS:
            row = next(line for line in outcome.out.splitlines() if line.startswith(f"│ {command.split()[0]} "))
            assert len(row.strip("│ ").split()) > 3, row


@pytest.mark.parametrize("command", ["adapter", "anchors", "export", "vocabulary"])
def test_commands_of_a_command_are_called_so(mergery, command):
    text = mergery(command, "--help").out
    assert "─ Commands ─" in text
    assert "─ Help ─" not in text
    assert "`mergery` alone" not in text


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version(mergery, flag):
    assert mergery(flag).out.strip() == f"mergery {__version__}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mrege"], ["mergery has no command 'mrege'", "did you mean 'merge'?"]),
        (["merge"], ["mergery merge needs RECIPE, a YAML file", "try: mergery merge RECIPE OUT"]),
        (["merge", "a"], ["mergery merge needs OUT, the folder to write", "try: mergery merge RECIPE OUT"]),
        (["merge", "a", "b", "--thread", "2"], ["mergery merge has no option '--thread'", "did you mean '--threads'?"]),
        (["merge", "a", "b", "--threads", "two"], ["--threads is 'two'", "must be a whole number"]),
        (["merge", "a", "b", "--threads"], ["--threads needs a value"]),
        (["merge", "a", "b", "--threads", "1", "--threads", "2"], ["--threads is given twice"]),
        (["merge", "a", "b", "c"], ["'c' is more than mergery merge takes"]),
        (["merge", "--quite", "a", "b"], ["mergery merge has no option '--quite'", "did you mean '--quiet'?"]),
        (["plan", "--jsn"], ["mergery plan has no option '--jsn'", "did you mean '--json'?"]),
        (["evaluate", "a", "--split", "serch"], ["--split is 'serch'", "did you mean 'search'?"]),
        (["fuse", "a", "b", "--teachers", "c"], ["needs --data, a task file of `mergery evaluate`\n"]),
        (["vocabulary", "transplant", "a", "b"], ["mergery vocabulary transplant needs --from, the model whose"]),
        (["vocabulary", "transplnt"], ["mergery vocabulary has no command 'transplnt'", "did you mean 'transplant'?"]),
        (["completion", "tcsh"], ["SHELL is 'tcsh'", "must be one of bash, zsh, fish"]),
        (
            ["evaluate", "--tasks", "q.jsonl", "llama"],
            ["needs MODEL", "--tasks takes all words behind it", "put MODEL before --tasks"],
        ),
        (["evaluate", "llama", "q.jsonl"], ["'q.jsonl' is more than mergery evaluate takes", "try: --tasks q.jsonl"]),
        (["merge", "a", "-o", "b"], ["no option '-o'", "OUT stands without an option: mergery merge RECIPE OUT"]),
        (["merge", "a", "--out=b"], ["OUT stands without an option: mergery merge RECIPE OUT"]),
        (["adapter", "merge", "a", "b", "-o", "c"], ["did you mean '--out'?"]),
        (["plan", "a", "--density", "0.3"], ["no option '--density'", "--set merge.density=VALUE"]),
        (["version"], ["mergery --version"]),
        (["-v", "merge"], ["mergery has no option '-v' before a command"]),
        (["verify", "zzz"], ["there is no folder 'zzz'", "name one that `mergery merge` wrote"]),
        (["methods", "tise"], ["unknown method 'tise'", "did you mean 'ties'?"]),
    ],
)
def test_mistakes_are_told_in_words(mergery, words, says):
    outcome = mergery(*words)
    assert outcome.code == 2
    assert outcome.err.startswith("mergery: ")
    for part in (*says, "  try: "):
        assert part in outcome.err, outcome.err


# --- mergery alone ------------------------------------------------------------------------------------------------------


def test_alone_it_says_what_can_be_done_with_what_is_here(mergery, recipe, tmp_path, llamas, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    outcome = mergery()
    assert outcome.code == 0
    assert "A recipe says which models, and how" in outcome.out
    assert "merge: {method: linear}" in outcome.out
    monkeypatch.chdir(llamas)
    assert "Models in this folder" in mergery().out
    recipe("models: {base: {llamas}/base, a: {llamas}/a}\nmerge: {method: linear}\n")
    (tmp_path / "config.yaml").write_text("port: 80\n")
    monkeypatch.chdir(tmp_path)
    shown = mergery().out
    assert "mergery merge recipe.yaml merged" in shown
    assert "config.yaml" not in shown


def test_the_recipe_that_it_shows_is_one(mergery, llamas, tmp_path, monkeypatch):
    monkeypatch.chdir(llamas)
    shown = mergery().out
    text = shown[shown.index("  models:") : shown.index("\n\n", shown.index("  models:"))]
    path = llamas / "shown.yaml"
    path.write_text(text)
    try:
        assert mergery("plan", path).code == 0
    finally:
        path.unlink()


# --- completion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(mergery, shell):
    outcome = mergery("completion", shell)
    assert outcome.code == 0
    for word in ("transplant", "--dry-run", "evaluate"):
        assert word.lstrip("-") in outcome.out
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=outcome.out, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("mergery me", "merge methods"),
        ("mergery merge a b --dry", "--dry-run"),
        ("mergery evaluate a --split re", "report"),
        ("mergery methods ti", "ties"),
        ("mergery adapter merge a --method task_", "task_arithmetic"),
        ("mergery export quantized a b --scheme w4", "w4a16 w4a16-gptq"),
    ],
)
def test_bash_completes(words, wanted):
    script = mergery_process("completion", "bash").stdout
    line = words.split(" ")
    asked = f"""
PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH
{script}
COMP_WORDS=({shlex.join(line)}); COMP_CWORD={len(line) - 1}; COMP_LINE={shlex.quote(words)}; COMP_POINT={len(words)}
_mergery
printf '%s\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) >= set(wanted.split())
