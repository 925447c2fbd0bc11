"""Values that are put into a recipe as it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mergery.errors import MergeryError
from mergery.recipe.changes import Changes
from mergery.recipe.reading import load_recipe

NATIVE = """\
models: {base: ./base, math: ./math, Llama-3.1: ./llama}
merge:
  method: ties
  base: base
  density: 0.2
  weight: {math: 0.6, Llama-3.1: 0.5}
  parts: [{where: {role: norm}, method: linear}]
"""
MERGEKIT = """\
name: blend
merge_method: slerp
base_model: a
models: [{model: a}, {model: b}]
parameters: {t: 0.5}
---
merge_method: linear
models: [{model: blend, parameters: {weight: 1}}, {model: c, parameters: {weight: 1}}]
"""


def changed(text: str, *values: str, **more: Any) -> Any:
    return load_recipe(text, changes=Changes(values, **more)).plain()


@pytest.mark.parametrize(
    ("said", "path", "value"),
    [
        ("merge.density=0.5", "merge density", 0.5),
        ("merge.density={math: 0.1, Llama-3.1: 0.3}", "merge density", {"math": 0.1, "Llama-3.1": 0.3}),
        ("merge.weight.math=1", "merge weight math", 1),
        ("merge.weight.Llama-3.1=1", "merge weight Llama-3.1", 1),  # a key with a dot that is there
        ("merge.density.Llama-3.1=1", None, None),  # a number has no keys
        ('models."x.y"=./xy', "models x.y", "./xy"),  # a key with a dot that is not
        ("output.dtype=float16", "output dtype", "float16"),  # a section that is not there yet
        ("merge.parts.0.take=base", None, None),  # it names a method already
        ("merge.parts.0={where: {role: norm}, take: base}", "merge parts 0 take", "base"),
        ("models.math=./other", "models math", "./other"),
        ("seed=7", "seed", 7),
    ],
)
def test_values_of_a_recipe(said, path, value):
    if path is None:
        with pytest.raises(MergeryError):
            changed(NATIVE, said)
        return
    found = changed(NATIVE, said)
    for key in path.split():
        found = found[int(key) if isinstance(found, list) else key]
    assert found == value


def test_later_changes_see_earlier_ones():
    found = changed(NATIVE, "merge.weight={}", "merge.weight.math=1", "merge.weight.Llama-3.1=2")
    assert found["merge"]["weight"] == {"math": 1, "Llama-3.1": 2}


def test_values_of_a_mergekit_file_are_those_of_its_last_merge_unless_they_name_another():
    found = changed(MERGEKIT, "models.1.parameters.weight=3", "blend.parameters.t=0.1", "dtype=float16")
    assert found["merge"]["weight"] == {"blend": 1, "c": 3}
    assert found["models"]["blend"]["t"] == 0.1
    assert found["output"]["dtype"] == "float16"


def test_what_is_allowed_and_dropped_besides():
    for text in (NATIVE + "allow: [rope_theta]\n", MERGEKIT):
        found = changed(text, allow=["norm", "rope_theta"], drop=["*.inv_freq"])
        assert sorted(found["allow"]) == ["norm", "rope_theta"]
        assert found["drop"] == ["*.inv_freq"]


def test_a_key_is_put_beside_a_word_that_stands_alone():
    data = {"models": {"a": "./a", "b": "./b"}, "merge": {"method": "linear"}, "align": "a"}
    made = load_recipe(data, changes=Changes(["align.spaces=[mlp]", "models.b.revision=main"]))
    assert made.align is not None and (made.align.to, tuple(made.align.spaces)) == ("a", ("mlp",))
    assert made.plain()["models"]["b"] == {"path": "./b", "revision": "main"}


def test_a_mapping_that_is_given_is_not_changed():
    data = {"models": {"a": "./a", "b": "./b"}, "merge": {"method": "slerp", "t": 0.5}}
    assert load_recipe(data, changes=Changes(["merge.t=0.1"])).plain()["merge"]["t"] == 0.1
    assert data["merge"] == {"method": "slerp", "t": 0.5}


@pytest.mark.parametrize(
    ("text", "said", "message"),
    [
        (NATIVE, "density=0.5", "--set density=0.5: unknown key 'density'\n  try: --set merge.density=0.5"),
        (NATIVE, "mergee.density=0.5", "--set mergee.density=0.5: unknown key 'mergee'\n  try: did you mean 'merge'?"),
        (NATIVE, "merge.density", "--set merge.density: a change is KEY=VALUE\n  try: --set merge.t=0.3"),
        (NATIVE, "=1", "--set =1: a change is KEY=VALUE\n  try: --set merge.t=0.3"),
        (NATIVE, "merge.densty=0.5", "--set merge.densty=0.5: ties has no setting 'densty'\n  try: did you mean 'density'?"),
        (NATIVE, "merge.density=50", "--set merge.density=50: density is 50\n"
         "  why: density must lie in [0, 1]\n  try: did you mean 0.5?"),
        (NATIVE, "merge.density.math=1", "--set merge.density.math=1: merge.density is 0.2, and has no key 'math'\n"
         "  try: --set 'merge.density={math: …}'"),
        (NATIVE, "merge.parts.4=x", "--set merge.parts.4=x: merge.parts is a list, and has no place 4\n"
         "  try: 0, or the whole list"),
        (NATIVE, "merge.density=[", "--set merge.density=[: not valid YAML"),
        (MERGEKIT, "t=0.3", "--set t=0.3: unknown key 't'\n  try: --set parameters.t=0.3"),
        (MERGEKIT, "blend.parameters.t=x", "--set blend.parameters.t=x: t is 'x'"),
    ],
)  # fmt: skip
def test_changes_that_cannot_be_made(text, said, message):
    with pytest.raises(MergeryError) as caught:
        changed(text, said)
    assert str(caught.value).startswith(message)


def test_what_is_allowed_must_be_a_difference():
    with pytest.raises(MergeryError) as caught:
        changed(NATIVE, allow=["rope_thta"])
    assert (
        str(caught.value) == "--allow rope_thta: no difference is called 'rope_thta'\n  try: did you mean 'rope_theta'?"
    )


def test_paths_of_a_pipe_start_from_the_working_directory(tmp_path: Path):
    import os
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(NATIVE,))
    writer.start()
    assert load_recipe(pipe).folder == Path()
    writer.join()
