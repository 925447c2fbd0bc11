"""Where an output may stand: all that forbids to write is found before any work, and nothing that existed is lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mergery import api
from mergery.errors import MergeryError, PlanError
from mergery.run.merging import Result
from mergery.run.output import place_of
from tests.conftest import held_merge, journalled, merge_killed, weights_of

MERGE = "merge: {method: ties, base: base, density: 0.5}\n"
LOCAL = "models: {base: {llamas}/base, a: ./a}\n" + MERGE
OTHER = LOCAL.replace("0.5", "0.6")


@pytest.fixture
def copy(llamas, tmp_path) -> Path:
    """A copy of the fine-tune `a`, of which an output could take something."""
    return Path(shutil.copytree(llamas / "a", tmp_path / "a"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(mergery, path: Path, out: Path | str, *says: str, plan: bool = True, options: tuple[str, ...] = ()) -> None:
    """`merge`, and `plan` with the same output, say the same, and the disk is as it was."""
    room = path.parent
    before = files_of(room)
    for command in (("merge", path, out, *options), *([("plan", path, out)] if plan else [])):
        outcome = mergery(*command)
        assert outcome.code == 2, (command, outcome)
        for part in (*says, "  try: "):
            assert part in outcome.err, outcome.err
        assert "Traceback" not in outcome.err
    assert files_of(room) == before
    assert not list(room.rglob("*.partial"))


# --- names --------------------------------------------------------------------------------------------------------------


def test_a_tilde_is_the_home_folder(mergery, recipe, tmp_path, copy, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert mergery("merge", recipe(LOCAL), "~/out").code == 0
    assert (tmp_path / "home/out/model.safetensors").exists()
    assert not (tmp_path / "~").exists()
    with pytest.raises(PlanError, match="names no folder"):
        place_of("~nobody-of-that-name/out")


def test_a_link_to_an_empty_folder_is_that_folder(mergery, recipe, tmp_path, copy):
    """As on clusters, where a folder at home leads to another disk: all of the work is done on that disk."""
    (tmp_path / "disk/out").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk/out")
    gate = tmp_path / "gate"
    with held_merge(gate, recipe(LOCAL), tmp_path / "out", "--quiet") as merging:
        while not journalled(tmp_path / "disk/out.partial"):
            assert merging.poll() is None
        gate.touch()
    assert merging.returncode == 0
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "out/model.safetensors").exists()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["out"]


def test_a_link_to_a_folder_that_is_not_there_yet(mergery, recipe, tmp_path, copy):
    (tmp_path / "out").symlink_to(tmp_path / "disk/out")
    assert mergery("merge", recipe(LOCAL), tmp_path / "out").code == 0
    assert (tmp_path / "disk/out/model.safetensors").exists()


def test_names_that_are_no_folder_of_their_own(mergery, recipe, tmp_path, copy, monkeypatch):
    path = recipe(LOCAL)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(mergery, path, tmp_path / "loop", "is a link that leads to itself")
    refused(mergery, path, path, "is a file")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refused(mergery, path, ".", "is the folder that you are in")
    refused(mergery, path, "/", "is the root of a disk")
    assert mergery("merge", path, "../here/../out").code == 0
    assert (tmp_path / "out/model.safetensors").exists()


# --- what is there already ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["", "out", "deep/er/out"])
@pytest.mark.parametrize("options", [(), ("--replace",)])
def test_an_output_in_an_input(mergery, recipe, tmp_path, copy, inner, options):
    refused(mergery, recipe(LOCAL), copy / inner, "is, or lies in, the model 'a'", options=options)
    (tmp_path / "link").symlink_to(copy)
    refused(mergery, recipe(LOCAL), tmp_path / "link" / inner, "is, or lies in, the model 'a'", options=options)


def test_an_input_in_the_output(mergery, recipe, tmp_path, llamas):
    out = tmp_path / "out"
    shutil.copytree(llamas / "a", out / "a")
    shutil.copy(llamas / "a/model.safetensors", out)
    path = recipe(LOCAL.replace("./a", "./out/a"))
    refused(mergery, path, out, "the model 'a' lies in the output", plan=False, options=("--replace",))
    shutil.move(out, tmp_path / "b.partial")
    path = recipe(LOCAL.replace("./a", "./b.partial/a"))
    outcome = mergery("merge", path, tmp_path / "b")
    assert "the model 'a' lies in the output" in outcome.err
    assert (tmp_path / "b.partial/a/model.safetensors").exists()


def test_the_folder_that_one_is_in_is_not_exchanged(mergery, recipe, tmp_path, copy, monkeypatch):
    assert mergery("merge", recipe(LOCAL), tmp_path / "out").code == 0
    (tmp_path / "out/notes").mkdir()
    monkeypatch.chdir(tmp_path / "out/notes")
    refused(mergery, recipe(OTHER), "..", "the folder that you are in lies in", plan=False, options=("--replace",))


def test_what_is_no_model_is_never_exchanged(mergery, recipe, tmp_path, copy):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("ten years")
    refused(mergery, recipe(LOCAL), out, "is not empty")
    refused(mergery, recipe(LOCAL), out, "is not exchanged", "it is no model", plan=False, options=("--replace",))


def test_a_model_is_exchanged_when_it_is_said(mergery, recipe, tmp_path, copy, llamas):
    out = Path(shutil.copytree(llamas / "b", tmp_path / "out"))
    refused(mergery, recipe(LOCAL), out, "is not empty", "--replace")
    mine = tmp_path / "out.replaced"
    mine.mkdir()
    (mine / "thesis.txt").write_text("ten years")
    assert mergery("merge", recipe(LOCAL), out, "--replace").code == 0
    assert mergery("merge", recipe(OTHER), out, "--replace").code == 0
    assert mergery("verify", out).code == 0
    assert (mine / "thesis.txt").read_text() == "ten years"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out", "out.replaced", "recipe.yaml"]


def test_a_folder_with_the_unfinished_name(mergery, recipe, tmp_path, copy):
    mine = tmp_path / "out.partial"
    mine.mkdir()
    (mine / "thesis.txt").write_text("ten years")
    for options in ((), ("--restart",)):
        outcome = mergery("merge", recipe(LOCAL), tmp_path / "out", *options)
        assert outcome.code == 2
        assert "stands in the way" in outcome.err
    assert files_of(mine) == {"thesis.txt": b"ten years"}


# --- folders that cannot be written -------------------------------------------------------------------------------------


def test_a_parent_that_is_a_file(mergery, recipe, tmp_path, copy):
    (tmp_path / "notes").write_text("a file")
    for out in (tmp_path / "notes/out", tmp_path / "notes/deep/out"):
        refused(mergery, recipe(LOCAL), out, "cannot write in", "notes' is a file")


@pytest.mark.skipif(not Path("/proc/self").is_dir() or os.access("/proc/self", os.W_OK), reason="needs /proc")
def test_a_parent_that_takes_no_files(mergery, recipe, copy):
    refused(mergery, recipe(LOCAL), "/proc/self/out", "cannot write in '/proc/self'")


def test_a_disk_that_can_only_be_read(mergery, recipe, tmp_path, copy, monkeypatch):
    """As the system tells it: a test cannot mount one."""
    real = os.statvfs(tmp_path)
    flags = [*real]
    flags[8] |= os.ST_RDONLY
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(flags))
    refused(mergery, recipe(LOCAL), tmp_path / "deep/out", "the disk can only be read")


# --- unfinished runs ----------------------------------------------------------------------------------------------------


def test_a_run_that_made_nothing_leaves_nothing(mergery, recipe, tmp_path, copy):
    weights = copy / "model.safetensors"
    header = int.from_bytes(weights.read_bytes()[:8], "little") + 8
    data = weights.read_bytes()
    weights.write_bytes(data[:header] + b"\xff" * (len(data) - header))  # NaN throughout
    text = LOCAL.replace("ties", "dare_ties")
    outcome = mergery("merge", recipe(text), tmp_path / "new/deep/out", "--threads", 1)
    assert "holds NaN or infinity" in outcome.err
    assert not (tmp_path / "new").exists()


def test_an_empty_unfinished_run_is_no_obstacle(recipe, tmp_path, copy):
    """Killed before its first tensor: another plan may have the folder, and finds nothing of it in its own."""
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "journal.jsonl").write_text(
        '{"digest": "of another plan"}\n{"facts": {"device": "cpu", "inputs": {}}}\n'
    )
    (partial / "model-00001-of-00002.safetensors").write_bytes(b"laid out")
    api.merge(recipe(LOCAL), tmp_path / "out")
    assert not (tmp_path / "out/model-00001-of-00002.safetensors").exists()
    assert not api.verify(tmp_path / "out")


def test_restart_throws_an_unfinished_run_away(mergery, recipe, tmp_path, copy):
    merge_killed(recipe(LOCAL + "output: {shard_size: 30kB}\n"), tmp_path / "out")
    changed = recipe(OTHER)
    outcome = mergery("merge", changed, tmp_path / "out")
    assert outcome.code == 2
    assert "an unfinished run of another plan" in outcome.err
    assert "--restart" in outcome.err
    assert journalled(tmp_path / "out.partial") == 3
    assert mergery("merge", changed, tmp_path / "out", "--restart").code == 0
    api.merge(changed, tmp_path / "calm")
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "calm")
    assert not api.verify(tmp_path / "out")


def test_restart_mends_a_damaged_journal(recipe, tmp_path, copy):
    path = recipe(LOCAL)
    merge_killed(path, tmp_path / "out")
    journal = tmp_path / "out.partial/journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b"[]\n")
    with pytest.raises(MergeryError, match="is damaged"):
        api.merge(path, tmp_path / "out")
    result = api.merge(path, tmp_path / "out", restart=True)
    assert isinstance(result, Result)
    assert result.resumed == 0


def test_restart_does_not_take_a_run_from_another(mergery, recipe, tmp_path, copy):
    path, gate = recipe(LOCAL), tmp_path / "gate"
    with held_merge(gate, path, tmp_path / "out", "--quiet") as first:
        while not journalled(tmp_path / "out.partial"):
            assert first.poll() is None
        outcome = mergery("merge", path, tmp_path / "out", "--restart")
        gate.touch()
    assert outcome.code == 2
    assert "another run is writing" in outcome.err
    assert first.returncode == 0


def test_packing_looks_at_its_output_as_well(mergery, recipe, tmp_path, copy):
    text = LOCAL.replace("ties, base: base, density: 0.5", "tall_mask, base: base, task: a")
    path = recipe(text)
    for out, says in ((copy / "out", "lies in, the model 'a'"), (path / "out", "is a file")):
        outcome = mergery("pack", path, out)
        assert outcome.code == 2
        assert says in outcome.err
