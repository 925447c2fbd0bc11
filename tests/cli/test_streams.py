"""Whatever becomes of what is printed, and however files are called: no traceback, and the work is done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from mergery import api
from tests.conftest import mergery_process

MERGERY = f"{sys.executable} -m mergery"
RECIPE = "models: {base: {llamas}/base, a: {llamas}/a}\nmerge: {method: linear}\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_fault(closed, recipe, tmp_path):
    path = recipe(RECIPE)
    shell = f"{MERGERY} plan {path} {closed} && {MERGERY} merge {path} {tmp_path}/out {closed}"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out/model.safetensors").exists()


def test_a_name_that_is_no_text_is_told_and_its_model_merged(recipe, tmp_path, llamas):
    folder = os.fsdecode(b"caf\xe9")
    shutil.copytree(llamas / "a", tmp_path / folder)
    out = f"{folder}-baked"
    done = mergery_process("merge", recipe(RECIPE), out, cwd=tmp_path, errors="replace")
    assert done.returncode == 0, done.stderr
    inspected = mergery_process("inspect", folder, cwd=tmp_path, errors="replace")
    assert inspected.returncode == 0, inspected.stderr
    assert "caf" in inspected.stdout.splitlines()[0]


def test_a_card_names_a_folder_whose_name_is_no_text(mergery, tmp_path, llamas, monkeypatch):
    folder = os.fsdecode(b"caf\xe9")
    shutil.copytree(llamas / "a", tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    api.merge(models=[folder, str(llamas / "base")], method="linear", out=tmp_path / "out")
    assert "caf\N{REPLACEMENT CHARACTER}" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_text_that_the_terminal_cannot_show_is_escaped(recipe, tmp_path):
    ascii_alone = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = mergery_process("merge", recipe(RECIPE), tmp_path / "합", env=ascii_alone)
    assert done.returncode == 0, done.stderr
    assert "wrote" in done.stderr
    assert r"\ud569" in done.stderr + done.stdout
