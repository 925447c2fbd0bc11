"""What a user is told of a mergekit file is told in its own keys, and can be done as it is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery.recipe.mergekit.wording import in_mergekits_words
from tests.conftest import Outcome
from tests.views.vocabulary.models import EMBED, words, write_model

Mergery = Callable[..., Outcome]
LINEAR = "merge_method: linear\nmodels:\n  - {model: ./a, parameters: {weight: 1}}\n  - {model: ./b, parameters: {weight: 1}}\n"
A = [[1.0, 0], [2, 0], [3, 0]]
IMPORT = "; `mergery import FILE` prints this file as a recipe, which has these keys"
B = [[1.0, 2], [2, 2], [3, 2], [4, 2]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two models of one architecture, of which `b` has a token more."""
    write_model(tmp_path / "a", words("u", "v", "w"), A)
    write_model(tmp_path / "b", words("u", "v", "w", "x"), B)
    return tmp_path


def write(home: Path, text: str) -> Path:
    path = home / "config.yml"
    path.write_text(text)
    return path


def tries(outcome: Outcome) -> list[str]:
    assert outcome.code == 2, outcome
    return [line.removeprefix("  try: ") for line in outcome.err.splitlines() if line.startswith("  try: ")]


@pytest.mark.parametrize("said", ["tokenizer: {}", "tokenizer: {source: union}", "tokenizer_source: union"])
def test_an_empty_tokenizer_is_the_union(home: Path, mergery: Mergery, said: str) -> None:
    assert mergery("merge", write(home, LINEAR + said + "\n"), home / "out", "--quiet").code == 0
    rows = load_file(home / "out" / "model.safetensors")[EMBED]
    torch.testing.assert_close(rows, torch.tensor([[1.0, 1], [2, 1], [3, 1], [4, 2]]))


def test_vocabularies_that_differ(home: Path, mergery: Mergery) -> None:
    (hint, *_) = tries(mergery("plan", write(home, LINEAR)))
    offered = re.findall(r"tokenizer_source: \w+", hint)
    assert offered == ["tokenizer_source: base", "tokenizer_source: union"]
    for each in offered:
        assert mergery("plan", write(home, LINEAR + each + "\n")).code == 0


def test_configs_that_differ(home: Path, mergery: Mergery) -> None:
    for name, theta in (("a", 10000.0), ("b", 500000.0)):
        write_model(home / name, words("u", "v", "w"), A, rope_theta=theta)
    path = write(home, LINEAR)
    (hint,) = tries(mergery("plan", path))
    flags = re.findall(r"--allow \w+", hint)
    assert flags == ["--allow rope_theta"]
    assert "allow:" not in hint
    assert mergery("plan", path, *flags[0].split()).code == 0


def test_a_tensor_that_one_model_lacks(home: Path, mergery: Mergery) -> None:
    tensors = load_file(home / "a" / "model.safetensors") | {"model.extra.weight": torch.ones(2)}
    write_model(home / "b", words("u", "v", "w"), A)
    save_file(tensors, home / "b" / "model.safetensors", {"format": "pt"})
    path = write(home, LINEAR)
    assert tries(mergery("plan", path)) == ["leave it out with --drop 'model.extra.weight'"]
    assert mergery("plan", path, "--drop", "model.extra.weight").code == 0


@pytest.mark.parametrize(
    "key", ["allow: [rope_theta]", "output: {tokenizer: union}", "drop: [x]", "seed: 1", "vocabulary: {}"]
)
def test_keys_of_recipes_are_answered_with_mergekits(home: Path, mergery: Mergery, key: str) -> None:
    (hint,) = tries(mergery("plan", write(home, LINEAR + key + "\n")))
    assert any(word in hint for word in ("--", "tokenizer_source", "random_seed")), hint


@pytest.mark.parametrize(
    ("native", "said"),
    [
        ("say allow: [rope_theta, norm]", "say --allow rope_theta --allow norm"),
        ("output: {tokenizer: base} keeps it", "tokenizer_source: base keeps it"),
        ("give ranges in a 'stack'", "give ranges in 'slices'"),
        ('take {like: "...", of: b}', 'take {source: {kind: model_token, model: b, token: "..."}}'),
        ("convert: {kv_heads: 8}", "convert: {kv_heads: 8}" + IMPORT),
        ("end the list with {value: ...}", "end the list with {value: ...}"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_words(native: str, said: str) -> None:
    assert in_mergekits_words(native) == said


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (
            "base_model: ./a\ngate_mode: hidden\nexperts:\n  - {source_model: ./a, positive_prompts: [x]}\n",
            "mergekit-moe",
        ),
        ("experts:\n  - source_model: ./a\n", "mergekit-moe"),
        ("genome:\n  models: [./a, ./b]\n  merge_method: ties\ntasks: [{name: x}]\n", "mergekit-evolve"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "import"])
def test_files_of_other_programs_get_one_message(
    home: Path, mergery: Mergery, text: str, program: str, command: str
) -> None:
    outcome = mergery(command, write(home, text))
    assert outcome.code == 2
    assert outcome.err.count("config.yml:") == 1
    assert f"config.yml:1:1: this is a file of {program}\n" in outcome.err
    if program == "mergekit-evolve":
        assert "say `mergery search RECIPE OUT --tasks FILE`" in outcome.err


ANCHORS = """\
common: &common
  weight: 0.25
  density: 0.5
x-base: &base ./a
merge_method: ties
base_model: *base
models:
  - {model: ./b, parameters: {<<: *common, weight: 1}}
  - {model: ./c, parameters: *common}
"""


def test_anchors_and_merge_keys(home: Path, mergery: Mergery) -> None:
    write_model(home / "b", words("u", "v", "w"), A)
    write_model(home / "c", words("u", "v", "w"), A)
    outcome = mergery("import", write(home, ANCHORS))
    assert outcome.code == 0, outcome.err
    assert "  weight:\n    b: 1.0\n    c: 0.25\n  density: 0.5\n" in outcome.out
    assert mergery("plan", write(home, ANCHORS.replace("base_model: *base", "base_modle: *base"))).code == 2
