"""Packed models: one folder serves several tasks, each exactly as its method would."""

from __future__ import annotations

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery import api
from mergery.api import pack
from mergery.checkpoints import open_checkpoint
from mergery.errors import CheckpointError, PlanError
from mergery.method import Deltas, PackedPart, Packing, Task, Tensor, method
from mergery.run.workers import Options
from tests.conftest import tensors_of

MERGES = [
    "method: emr, base: base",
    "method: emr, base: base, scope: tensor",
    "method: tall_mask, base: base, threshold: {a: 0.2, b: 0.4, c: 0.6}",
    "method: tall_mask, base: base, vector: ties",
    "method: onebit, base: base",
    "method: onebit, base: base, scope: row, binary: [{where: {role: attention}, value: true}, {value: false}]",
]
MODELS = "models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b, c: {llamas}/c}\n"


@pytest.mark.parametrize("merge", MERGES)
def test_a_packed_task_is_what_its_method_serves(recipe, tmp_path, merge):
    result = pack(recipe(f"{MODELS}merge: {{{merge}}}\n"), tmp_path / "packed")
    assert result.tasks == ("a", "b", "c")
    for task in "ac":
        served = api.merge(recipe(f"{MODELS}merge: {{{merge}, task: {task}}}\n", "served.yaml"))
        text = f"models: {{m: {{path: ./packed, task: {task}}}}}\nmerge: {{method: passthrough}}\n"
        api.merge(recipe(text, "unpack.yaml"), tmp_path / task)
        unpacked = tensors_of(tmp_path / task)
        assert all(torch.equal(served[name], unpacked[name]) for name in served)
        assert (tmp_path / task / "tokenizer.json").exists()


def test_it_is_said_beforehand(mergery, recipe, tmp_path):
    path = recipe(f"{MODELS}merge: {{method: emr, base: base}}\n")
    outcome = mergery("pack", path, tmp_path / "packed", "--dry-run")
    assert outcome.code == 0
    assert not list(tmp_path.glob("packed*"))
    told = json.loads(mergery("pack", path, tmp_path / "packed", "--dry-run", "--json").out)
    result = pack(path, tmp_path / "packed")
    assert told["bytes_packed"] == result.bytes_packed
    assert told["bytes_apart"] == result.bytes_apart
    assert "would serve a, b, c in" in outcome.out
    outcome = mergery("pack", path, tmp_path / "packed", "--dry-run")
    assert outcome.code == 2
    assert "is already there" in outcome.err


@pytest.mark.parametrize("call", ["pwrite", "posix_fallocate", "fsync"])
def test_a_disk_that_fills_is_told_and_nothing_stays(recipe, tmp_path, mergery, monkeypatch, call):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = recipe(f"{MODELS}merge: {{method: emr, base: base}}\n")
    monkeypatch.setattr(os, call, full)
    outcome = mergery("pack", path, tmp_path / "packed")
    assert outcome.code == 2
    assert "the disk is full" in outcome.err and "run the same command again\n" in outcome.err
    assert not list(tmp_path.glob("packed*"))


def test_less_space_than_apart(recipe, tmp_path):
    result = pack(recipe(f"{MODELS}merge: {{method: emr, base: base}}\n"), tmp_path / "packed")
    elements = result.bytes_apart / 12
    assert result.bytes_packed < 1.2 * elements * (4 + 3 / 8)
    assert (tmp_path / "packed/packed.safetensors").stat().st_size == result.bytes_packed


def test_pieces_that_end_within_a_byte(tmp_path):
    """Rows of 3 x 7 elements, and slices that begin anywhere."""
    base = {"w": torch.zeros(30001, 7), "v": torch.zeros(5)}
    generator = torch.Generator().manual_seed(1)
    states = {n: {k: torch.randn(v.shape, generator=generator) for k, v in base.items()} for n in ("a", "b")}
    for name, state in {"base": base, **states}.items():
        save_file(state, tmp_path / f"{name}.safetensors", metadata={"format": "pt"})
    for scope in ("tensor", "row"):
        text = {
            "models": {name: str(tmp_path / f"{name}.safetensors") for name in ("base", "a", "b")},
            "merge": {"method": "onebit", "base": "base", "scope": scope},
        }
        pack(text, tmp_path / scope, options=Options(threads=2, chunk=65536))
        served = api.merge({**text, "merge": {**text["merge"], "task": "b"}})
        with open_checkpoint(tmp_path / scope, task="b") as checkpoint:
            whole = served["w"].reshape(-1).numpy()
            for start, stop in ((0, 1), (3, 4), (5, 23), (65530, 65550), (210000, 210007), (0, 210007)):
                into = np.empty(4 * (stop - start), np.uint8)
                checkpoint.read("w", start, stop, into)
                assert (into.view(np.float32) == whole[start:stop]).all()


def test_the_command(recipe, tmp_path, mergery):
    path = recipe(f"{MODELS}merge: {{method: emr, base: base}}\n")
    outcome = mergery("pack", path, tmp_path / "packed")
    assert outcome.code == 0
    assert "serves a, b, c in" in outcome.out
    outcome = mergery("pack", path, tmp_path / "packed")
    assert (outcome.code, "is already there" in outcome.err) == (2, True)
    outcome = mergery("pack", path, tmp_path / "again", "--json")
    last = json.loads(outcome.out.splitlines()[-1])
    assert (last["event"], last["tasks"]) == ("packed", ["a", "b", "c"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge: {method: ties, base: base}", "ties cannot be packed"),
        ("merge: {method: ties, base: base}", "methods that serve several by task: emr, onebit, tall_mask"),
        ("merge: {method: emr, base: base, task: d}", "task names 'd', which is not merged"),
    ],
)
def test_what_cannot_be_packed(recipe, tmp_path, mergery, text, message):
    outcome = mergery("pack", recipe(f"{MODELS}{text}\n"), tmp_path / "packed")
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "packed").exists()


def test_a_base_that_the_folder_can_refer_to(recipe, tmp_path, mergery):
    text = """\
models: {base: {method: linear, models: [a, b]}, a: {llamas}/a, b: {llamas}/b, c: {llamas}/c}
merge: {method: emr, base: base, models: [a, b, c]}
"""
    outcome = mergery("pack", recipe(text), tmp_path / "packed")
    assert outcome.code == 2
    assert "must be a folder, a file or a model of the hub" in outcome.err


def test_a_stack_is_merged_first(recipe, tmp_path, mergery):
    text = """\
models: {base: {llamas}/base, a: {llamas}/a}
merge: {method: emr, task: a, stack: [{models: {base: 0-1, a: 0-1}, base: base}]}
"""
    outcome = mergery("pack", recipe(text), tmp_path / "packed")
    assert outcome.code == 2
    assert "a stack cannot be packed" in outcome.err


def test_a_tensor_gathered_from_others_is_refused(recipe, tmp_path, monkeypatch):
    from dataclasses import replace

    import mergery.run.packing as packing
    from mergery.graph.nodes import Gathered

    real = packing.make_plan

    def gathered(source):
        plan = real(source)
        step = plan.steps[0]
        ends = np.array([0, step.node.elements])
        node = Gathered(step.name, step.node.shape, step.node.dtype, (step.node,), ends[:1], ends[:1], ends[1:])
        return replace(plan, steps=(step._replace(node=node), *plan.steps[1:]))

    monkeypatch.setattr(packing, "make_plan", gathered)
    with pytest.raises(PlanError, match="cannot be packed"):
        pack(recipe(f"{MODELS}merge: {{method: emr, base: base}}\n"), tmp_path / "packed")


def half(deltas):
    """Rank-one factors of a matrix whose rows are multiples of its first."""
    return {"left": [delta[:, :1] / delta[:1, :1] for delta in deltas], "right": [delta[:1] for delta in deltas]}


@method(
    unit="tensor",
    packing=Packing(
        lambda shape, settings: {"left": PackedPart("rows"), "right": PackedPart("matrix", shape=(1, shape[1]))},
        lambda deltas: half(deltas),
        lambda parts: parts["left"] @ parts["right"],
        by_row=True,
    ),
)
def factors(deltas: Deltas, *, task: Task | None = None) -> Tensor:
    """One task's rank-one factors."""
    packed = half(deltas)
    return packed["left"][task] @ packed["right"][task]


def test_factors_are_parts_too(tmp_path, monkeypatch):
    monkeypatch.setattr("mergery.method.registry._added", {"factors": factors})
    base = {"w": torch.zeros(6, 5)}
    delta = torch.arange(1.0, 7.0)[:, None] * torch.arange(1.0, 6.0)
    for name, state in (("base", base), ("a", {"w": delta}), ("b", {"w": -2 * delta})):
        save_file(state, tmp_path / f"{name}.safetensors", metadata={"format": "pt"})
    models = {name: str(tmp_path / f"{name}.safetensors") for name in ("base", "a", "b")}
    pack({"models": models, "merge": {"method": "factors", "base": "base"}}, tmp_path / "packed")
    with open_checkpoint(tmp_path / "packed", task="b") as checkpoint:
        for start, stop in ((0, 30), (7, 8), (3, 19)):
            into = np.empty(4 * (stop - start), np.uint8)
            checkpoint.read("w", start, stop, into)
            assert (into.view(np.float32) == (-2 * delta).reshape(-1).numpy()[start:stop]).all()


def test_a_task_is_named(recipe, tmp_path, mergery, llamas):
    pack(recipe(f"{MODELS}merge: {{method: emr, base: base}}\n"), tmp_path / "packed")

    def message(model: str) -> str:
        outcome = mergery("plan", recipe(f"models: {{m: {model}}}\nmerge: {{method: passthrough}}\n", "r.yaml"))
        assert outcome.code == 2
        return outcome.err

    assert "no task is named" in message("./packed")
    assert "it holds a, b, c" in message("./packed")
    assert "no task 'bb' is packed here" in message("{path: ./packed, task: bb}")
    assert "these are no packed models" in message(f"{{path: {llamas}/base, task: a}}")
    assert "task must be text" in message("{path: ./packed, task: 3}")


def test_without_a_task_a_serving_method_serves_none(recipe, tmp_path, mergery):
    outcome = mergery("merge", recipe(f"{MODELS}merge: {{method: emr, base: base}}\n"), tmp_path / "out")
    assert outcome.code == 2
    assert "no task is named" in outcome.err and "mergery pack" in outcome.err


@pytest.fixture
def packed(recipe, tmp_path, llamas):
    """A packed folder whose base is a copy that may be changed."""
    shutil.copytree(llamas / "base", tmp_path / "own")
    text = MODELS.replace("{llamas}/base", "./own")
    pack(recipe(f"{text}merge: {{method: emr, base: base}}\n"), tmp_path / "packed")
    return tmp_path / "packed"


def test_another_base_is_noticed(packed, tmp_path):
    weights = load_file(tmp_path / "own/model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, tmp_path / "own/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="is not the one that was packed"):
        open_checkpoint(packed, task="a")
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(CheckpointError, match="there is no such file or folder"):
        open_checkpoint(packed, task="a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "its format is 9, and this version reads 1"),
        ({"tasks": []}, "the file is damaged"),
        ({"parts": {"mask": "words"}}, "the file is damaged"),
        ({"base": {}}, "the file is damaged"),
        ({"method": "ties"}, "packed by 'ties', which is no method here that packs"),
        ({"parts": {"vector": "bits", "mask": "bits", "scale": "number"}}, "the parts do not fit the base"),
    ],
)
def test_a_damaged_folder(packed, change, message):
    card = json.loads((packed / "packed.json").read_text())
    (packed / "packed.json").write_text(json.dumps({**card, **change}))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(packed, task="a")


def test_parts_that_belong_to_nothing(packed):
    weights = load_file(packed / "packed.safetensors")
    save_file({**weights, "stray::vector": torch.zeros(2)}, packed / "packed.safetensors")
    with pytest.raises(CheckpointError, match="there are parts of 'stray', which the base lacks"):
        open_checkpoint(packed, task="a")


def test_an_interrupted_packing_leaves_nothing(recipe, tmp_path):
    class Stop(BaseException):
        pass

    def stop(event):
        raise Stop

    path = recipe(f"{MODELS}merge: {{method: tall_mask, base: base}}\n")
    with pytest.raises(Stop):
        pack(path, tmp_path / "packed", on_event=stop)
    assert not list(tmp_path.glob("packed*"))
    pack(path, tmp_path / "packed")
