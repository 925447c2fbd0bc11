"""A short run of the fuzzer, the inputs that it once failed on, and headers of any shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.checkpoints.formats import open_weight_file
from mergery.errors import MergeryError
from mergery.recipe.document import read_documents
from tests.fuzz.feeds import MemoryFile
from tests.fuzz.inputs import KINDS, Case, make
from tests.fuzz.weights import safetensors

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).parent.parent.parent

words = st.text(max_size=8) | st.sampled_from(["F32", "BF16", "dtype", "shape", "data_offsets", "__metadata__", "w"])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=10,
)
entries = st.fixed_dictionaries(
    {"dtype": words | values, "shape": st.lists(st.integers(-1, 2**65)) | values,
     "data_offsets": st.lists(st.integers(0, 64)) | values}
)  # fmt: skip


def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)


def test_a_short_run_finds_nothing(tmp_path):
    done = fuzz("--count", 3000, "--seed", 1, "--seconds", 6, "--found", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 crashes" in done.stdout


def test_what_failed_once_does_not_fail_again():
    done = fuzz("--replay", CORPUS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(list(CORPUS.glob('*.json')))} inputs: " in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_input(kind):
    for seed in range(20):
        case = make(seed, kind)
        assert case == make(seed, kind)
        assert case == Case.load(case.dump())


@given(st.dictionaries(words, entries | values, max_size=3), st.binary(max_size=64))
@settings(max_examples=150)
def test_any_header_is_read_or_refused(header, data):
    try:
        open_weight_file(MemoryFile("x.safetensors", safetensors(json.dumps(header).encode(), data)))
    except MergeryError as error:
        assert str(error).startswith("x.safetensors: ")


@given(st.text(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>'\"\n #?,%0", max_size=60))
@settings(max_examples=150)
def test_any_text_is_yaml_or_refused(text):
    try:
        read_documents(text, "x.yaml")
    except MergeryError as error:
        assert str(error).startswith("x.yaml")
