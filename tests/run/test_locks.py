"""A lock that a hand or a disk has damaged is refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mergery import api
from mergery.errors import CheckpointError
from mergery.run.lock import NAME, read_lock


@pytest.fixture(scope="module")
def merged(llamas, tmp_path_factory) -> Path:
    """A merged folder."""
    out = tmp_path_factory.mktemp("merged") / "out"
    api.merge({"models": {name: str(llamas / name) for name in "ab"}, "merge": {"method": "linear"}}, out)
    return out


def test_a_lock_that_was_written_is_sound(merged):
    assert read_lock(merged)["seed"] == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"files": None}, "'files' is of another kind"),
        ({"weights": {}}, "'weights' is of another kind"),
        ({"weights": [{"file": "model.safetensors"}]}, "an entry of 'weights' is no file with its bytes"),
        ({"tensors": {"x": 3}}, "'x' of 'tensors' is of another kind"),
        ({"inputs": {"a": "llama"}}, "'a' of 'inputs' is of another kind"),
        ({"refined": ["x"]}, "'refined' is of another kind"),
    ],
)
def test_a_damaged_lock_is_refused(change: dict[str, Any], why, merged, tmp_path, mergery):
    lock = json.loads((merged / NAME).read_text()) | change
    (tmp_path / NAME).write_text(json.dumps(lock))
    with pytest.raises(CheckpointError, match=why):
        read_lock(tmp_path)
    done = mergery("verify", tmp_path, "--sample", 1)
    assert (done.code, why in done.err) == (2, True)


@pytest.mark.parametrize("key", ["plan", "recipe", "folder", "inputs", "weights", "tensors", "files"])
def test_a_lock_that_lacks_something_is_refused(key, merged, tmp_path):
    lock = json.loads((merged / NAME).read_text())
    del lock[key]
    (tmp_path / NAME).write_text(json.dumps(lock))
    with pytest.raises(CheckpointError, match=f"'{key}' is missing"):
        read_lock(tmp_path)
