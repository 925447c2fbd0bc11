"""What a search keeps of its models between candidates: nothing is read or counted twice, and no byte differs for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mergery
from mergery.checkpoints.base import Checkpoint
from mergery.engine import reductions
from mergery.evaluation.loading import pretrained
from mergery.exploration.live import LiveModel
from mergery.kernels import spectral
from mergery.recipe import Recipe
from mergery.recipe.reading import load_recipe
from tests.conftest import make_llama


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Path:
    """A base and four fine-tunes as they are mostly published: in bfloat16."""
    folder = tmp_path_factory.mktemp("stored")
    for seed, name in enumerate(("base", "a", "b", "c", "d")):
        make_llama(folder / name, seed, folder / "base" if seed else None, "bfloat16", num_hidden_layers=1)
        for file in zoo.joinpath("base").glob("*token*"):
            (folder / name / file.name).write_bytes(file.read_bytes())
    return folder


def recipe(folder: Path, names: str = "ab", **merge: Any) -> Recipe:
    models = {name: str(folder / name) for name in ("base", *names)}
    said = {key: value for key, value in {"base": "base", **merge}.items() if value is not None}
    return load_recipe({"models": models, "merge": said})


def opened(wanted: Recipe, room: int | None = None) -> LiveModel:
    """A model of which later candidates are written over an earlier one."""
    live = LiveModel(wanted, "language", room=room)
    live.follow(live.plan(wanted))
    return live


def same_as_folder(live: LiveModel, wanted: Recipe, folder: Path) -> None:
    followed = live.follow(live.plan(wanted)).module.state_dict()
    mergery.merge(wanted, folder)
    loaded = pretrained(str(folder), "language", "float32").state_dict()
    for name, tensor in loaded.items():
        assert torch.equal(followed[name], tensor), name


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd"])
@pytest.mark.parametrize(("method", "base"), [("task_arithmetic", "base"), ("linear", None)])
def test_bfloat16_is_written_as_float32_to_the_bit(
    stored: Path, tmp_path: Path, names: str, method: str, base: str | None
) -> None:
    """Sums of two to four are made in one loop, others step by step; a parameter gets the rounded value either way."""
    live = opened(recipe(stored, names, method=method, base=base, weight=0.5))
    try:
        weight = dict(zip(names, (0.3, 0.7, -0.2, 1.1), strict=False))
        same_as_folder(live, recipe(stored, names, method=method, base=base, weight=weight), tmp_path / "out")
    finally:
        live.close()


@pytest.mark.parametrize(
    "merge", [{"method": "ties", "scope": "tensor"}, {"method": "dare_ties"}, {"method": "tsv_merge"}]
)
def test_other_methods_write_the_same_bytes_as_well(stored: Path, tmp_path: Path, merge: dict[str, Any]) -> None:
    live = opened(recipe(stored, **merge))
    try:
        same_as_folder(live, recipe(stored, **merge, scale=0.4), tmp_path / "out")
    finally:
        live.close()


@pytest.mark.parametrize(("room", "spared"), [(None, 1.0), (60_000, 0.1), (0, 0.0)])
def test_what_has_been_read_is_not_read_again(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int | None, spared: float
) -> None:
    live = opened(recipe(stored, method="task_arithmetic", weight=0.5), room)
    read: list[int] = []
    for kind in {type(checkpoint) for checkpoint in live.checkpoints.values()}:

        def counted(self: Checkpoint, name: str, start: int, stop: int, out: np.ndarray, own: Any = kind.read) -> None:
            read.append(stop - start)
            own(self, name, start, stop, out)

        monkeypatch.setattr(kind, "read", counted)
    try:
        live.follow(live.plan(recipe(stored, method="task_arithmetic", weight=0.6)))
        again = sum(read)
        monkeypatch.undo()
        whole = sum(np.prod(info.shape) for each in live.checkpoints.values() for info in each.tensors.values())
        assert again <= (1 - spared) * whole
        assert (again == 0) == (room is None)
        assert room is None or live.inputs.used <= room
        same_as_folder(live, recipe(stored, method="task_arithmetic", weight=0.7), tmp_path / "out")
    finally:
        live.close()


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_thresholds_are_counted_once_for_each_density(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    """Other weights trim the same entries."""
    live = opened(recipe(stored, method="ties", weight=0.5, scope=scope))
    passes: list[int] = []
    sort, count = reductions._sorted_out, reductions.count_low
    monkeypatch.setattr(reductions, "_sorted_out", lambda *given: passes.append(1) or sort(*given))
    monkeypatch.setattr(reductions, "count_low", lambda *given: passes.append(1) or count(*given))
    try:
        live.follow(live.plan(recipe(stored, method="ties", weight=0.9, scope=scope)))
        assert not passes
        same_as_folder(live, recipe(stored, method="ties", weight=0.9, density=0.3, scope=scope), tmp_path / "out")
        assert passes
    finally:
        live.close()


def test_what_a_stage_makes_is_kept_while_its_settings_stay(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decomposition of a task vector is found twice, and not for every candidate; another one is found anew."""
    found: list[int] = []

    def staged(share: float, weight: float) -> Recipe:
        models = {name: str(stored / name) for name in ("base", "a", "b")}
        top = {"method": "truncate", "base": "base", "models": ["a"], "share": share}
        merge = {"method": "task_arithmetic", "base": "base", "models": ["a", "top", "b"], "weight": weight}
        return load_recipe({"models": {**models, "top": top}, "merge": merge})

    decompose = spectral.svd
    monkeypatch.setattr(spectral, "svd", lambda *given, **more: found.append(1) or decompose(*given, **more))
    live = opened(staged(0.5, 0.4))
    try:
        counts = []
        for share, weight in ((0.5, 0.5), (0.5, 0.6), (0.25, 0.6)):
            before = len(found)
            live.follow(live.plan(staged(share, weight)))
            counts.append(len(found) - before)
        once = counts[0]
        assert counts == [once, 0, once] and once
        same_as_folder(live, staged(0.25, 0.8), tmp_path / "out")
    finally:
        live.close()
