"""Disks that fill, fail, or do half of what they are asked; folders that may not be written; kills: nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mergery import api
from mergery.errors import MergeryError
from mergery.run.cluster_worker import SharedFiles
from mergery.run.merging import Result
from mergery.run.sinks import FolderSink
from mergery.run.workers import Options
from tests.conftest import held_merge, journalled, mergery_process

TEXT = """\
models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b}
merge: {method: dare_ties, base: base, density: 0.5}
output: {shard_size: 60kB}
seed: 11
"""
CALLS = ("pwrite", "fdatasync", "fsync", "rename", "posix_fallocate", "ftruncate", "write", "mkdir", "open", "unlink")
ONE = Options(threads=1)


class Faults:
    """Stands before a function of `os`: counts its calls, and fails at the chosen one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, at: int = -1, number: int = errno.ENOSPC) -> None:
        self.name, self.at, self.number, self.calls = name, at, number, 0
        self.real = getattr(os, name)
        monkeypatch.setattr(os, name, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.name == "open" and not arguments[1] & os.O_CREAT:
            return self.real(*arguments, **named)
        self.calls += 1
        if self.calls - 1 == self.at:
            raise OSError(self.number, os.strerror(self.number))
        return self.real(*arguments, **named)


def folder_of(path: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def calm(recipe, tmp_path) -> tuple[Path, dict[str, bytes]]:
    """A recipe, and all files that an undisturbed merge of it writes."""
    path = recipe(TEXT)
    api.merge(path, tmp_path / "calm", options=ONE)
    return path, folder_of(tmp_path / "calm")


def clear(message: str) -> None:
    """One message in the user's words, and what to do."""
    assert "Traceback" not in message
    assert "Errno" not in message
    assert message.count("try: ") == 1, message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("call", CALLS)
def test_a_fault_at_any_call_is_told_and_mended(calm, tmp_path, call, number):
    path, whole = calm
    with pytest.MonkeyPatch.context() as patch:
        count = Faults(patch, call)
        api.merge(path, tmp_path / "counted", options=ONE)
    assert count.calls, call
    every = (
        range(count.calls) if call == "pwrite" and number == errno.ENOSPC else {0, 1, count.calls // 2, count.calls - 1}
    )
    if call == "mkdir":
        every = {0}  # the others are of folders that are there
    for at in sorted(place for place in every if place < count.calls):
        out = tmp_path / f"{call}-{at}"
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, call, at, number)
            with pytest.raises(MergeryError) as caught:
                api.merge(path, out, options=ONE)
        clear(str(caught.value))
        assert ("the disk is full" if number == errno.ENOSPC else "cannot write in") in str(caught.value)
        if call != "fsync":  # the last one is of the parent, when the folder has its name
            assert not out.exists()
        api.merge(path, out, options=ONE)
        assert folder_of(out) == whole, (call, at)
        assert not out.with_name(out.name + ".partial").exists()
        shutil.rmtree(out)


@pytest.mark.parametrize("call", ["pwrite", "fsync", "rename"])
def test_the_command_line_says_it_once(recipe, mergery, tmp_path, monkeypatch, call):
    Faults(monkeypatch, call, 0)
    outcome = mergery("merge", recipe(TEXT), tmp_path / "out", "--quiet")
    assert outcome.code == 2
    assert outcome.err.startswith("mergery: the disk is full")
    assert "free some space and run the same command again" in outcome.err
    clear(outcome.err)


def test_finished_tensors_are_kept_when_the_disk_fills(calm, tmp_path, monkeypatch):
    path, whole = calm
    monkeypatch.setattr("mergery.run.workers.BATCH_TENSORS", 1)
    with pytest.MonkeyPatch.context() as patch:
        Faults(patch, "pwrite", 25)
        with pytest.raises(MergeryError, match="the disk is full"):
            api.merge(path, tmp_path / "out", options=ONE)
    result = api.merge(path, tmp_path / "out", options=ONE)
    assert isinstance(result, Result)
    assert result.resumed > 0
    assert folder_of(tmp_path / "out") == whole


def test_writes_and_reads_that_do_half_of_it(calm, tmp_path, monkeypatch):
    path, whole = calm
    preadv, pwrite, write = os.preadv, os.pwrite, os.write

    def half(data: Any) -> Any:
        return memoryview(data)[: max(1, len(data) // 2)]

    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [half(buffers[0])], offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, half(data), offset))
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, half(data)))
    api.merge(path, tmp_path / "out", options=ONE)
    assert folder_of(tmp_path / "out") == whole


def test_a_disk_that_writes_nothing_is_no_endless_loop(recipe, tmp_path, monkeypatch):
    pwrite, calls = os.pwrite, iter(range(1_000_000))
    monkeypatch.setattr(os, "pwrite", lambda *arguments: pwrite(*arguments) if next(calls) < 8 else 0)
    with pytest.raises(MergeryError, match="cannot write in"):
        api.merge(recipe(TEXT), tmp_path / "out", options=ONE)


def test_a_clusters_worker_is_told_of_faults_as_the_driver_is(recipe, tmp_path, monkeypatch):
    """A worker writes into files that the driver has laid out: halves of writes, no writes, and errors."""
    plan = api.plan(recipe(TEXT))
    out = tmp_path / "out.partial"
    sink = FolderSink(plan, tmp_path / "out")
    files, slot = SharedFiles(plan, out), plan.steps[3].slot
    data = np.arange(slot.info.nbytes, dtype=np.uint8)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: pwrite(fd, view[: len(view) // 2 + 1], offset))
    files.write(slot, 0, data)
    written = (out / plan.layout.shards[slot.shard].name).read_bytes()
    assert written[slot.offset : slot.offset + data.size] == data.tobytes()
    monkeypatch.setattr(os, "pwrite", lambda *arguments: 0)
    with pytest.raises(MergeryError, match="cannot write in"):
        files.write(slot, 0, data)
    monkeypatch.setattr(os, "pwrite", pwrite)

    def write_and_finish() -> None:
        files.write(slot, 0, data)
        files.finished([plan.steps[3]], {})

    for call in ("pwrite", "fdatasync"):
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, call, 0)
            with pytest.raises(MergeryError, match="the disk is full"):
                write_and_finish()
    sink.abandon()
    plan.close()


@pytest.mark.parametrize("at", [0, 5, 40])
def test_an_input_that_cannot_be_read(calm, mergery, tmp_path, at):
    path, whole = calm
    with pytest.MonkeyPatch.context() as patch:
        reads = Faults(patch, "preadv", at, errno.EIO)
        outcome = mergery("merge", path, tmp_path / "out", "--quiet")
    assert reads.calls > at
    assert outcome.code == 2
    assert "model.safetensors: reading" in outcome.err
    assert "Input/output error" in outcome.err
    clear(outcome.err)
    api.merge(path, tmp_path / "out", options=ONE)
    assert folder_of(tmp_path / "out") == whole


def test_an_input_that_is_cut_short_during_the_run(recipe, mergery, llamas, tmp_path, monkeypatch):
    shutil.copytree(llamas / "a", tmp_path / "a")
    path = recipe("models: {base: {llamas}/base, a: ./a}\nmerge: {method: ties, base: base}\n")
    monkeypatch.setattr("mergery.run.workers.wake_kernels", lambda: os.truncate(tmp_path / "a/model.safetensors", 5000))
    outcome = mergery("merge", path, tmp_path / "out", "--quiet")
    assert outcome.code == 2
    assert "the file ended early" in outcome.err
    assert "has been changed since" in outcome.err
    clear(outcome.err)
    assert not (tmp_path / "out").exists()


def test_all_is_synced_before_the_folder_gets_its_name(recipe, tmp_path, llamas, monkeypatch):
    shutil.copytree(llamas / "base", tmp_path / "base")
    (tmp_path / "base/additional_chat_templates").mkdir()
    (tmp_path / "base/additional_chat_templates/tool.jinja").write_text("{{ tools }}")
    seen: list[tuple[str, str]] = []

    def watch(name: str, path_of: Callable[..., str]) -> None:
        real = getattr(os, name)

        def call(*arguments: Any) -> Any:
            seen.append((name, path_of(*arguments)))
            return real(*arguments)

        monkeypatch.setattr(os, name, call)

    for name in ("pwrite", "ftruncate", "fdatasync", "fsync"):
        watch(name, lambda fd, *_: str(Path(f"/proc/self/fd/{fd}").readlink()))
    watch("rename", lambda old, new: f"{old} -> {new}")
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    api.merge(recipe(TEXT.replace("{llamas}/base", "./base")), out, options=ONE)
    renamed = seen.index(("rename", f"{partial} -> {out}"))
    last = {path: place for place, (name, path) in enumerate(seen) if name in ("pwrite", "ftruncate")}
    synced = {path: place for place, (name, path) in enumerate(seen[:renamed]) if name == "fsync"}
    for file in folder_of(out):
        assert last.get(str(partial / file), -1) < synced[str(partial / file)], file
    for folder in (partial, partial / "additional_chat_templates"):
        assert str(folder) in synced
    assert synced[str(partial)] > max(place for path, place in synced.items() if path != str(partial))
    assert ("fsync", str(tmp_path)) in seen[renamed:]
    journal = str(partial / "journal.jsonl")
    lines = [place for place, (name, path) in enumerate(seen) if (name, path) == ("fdatasync", journal)]
    written = [place for place, (name, path) in enumerate(seen) if name == "fdatasync" and path != journal]
    assert min(written) < lines[-1]  # the bytes are on the disk before the journal speaks of them


@pytest.mark.parametrize(
    "line",
    [b"[]\n", b"nothing\n", b'{"done": 7}\n', b'{"done": {"x": 7}}\n', b'{"facts": []}\n', b"\xff\n",
     b"\n", b'{"facts": {"inputs": 1}}\n'],
)  # fmt: skip
def test_a_damaged_journal_is_refused(recipe, mergery, tmp_path, line):
    path, out = recipe(TEXT), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        Faults(patch, "rename", 0)
        with pytest.raises(MergeryError):
            api.merge(path, out, options=ONE)
        plan = api.plan(path)
        plan.close()
    journal = tmp_path / "out.partial/journal.jsonl"
    journal.write_bytes(b'{"digest": "%s"}\n' % plan.digest.encode() + line)
    outcome = mergery("merge", path, out, "--quiet")
    assert outcome.code == 2
    assert "is damaged" in outcome.err
    clear(outcome.err)


# --- permissions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def nobody(llamas) -> Iterator[Path]:
    """A folder with models of a user who is not the superuser, for whom no permission counts."""
    room = Path(tempfile.mkdtemp(prefix="mergery-faults-"))
    for name in ("base", "a"):
        shutil.copytree(llamas / name, room / name)
    (room / "recipe.yaml").write_text("models: {base: ./base, a: ./a}\nmerge: {method: ties, base: base}\n")
    api.merge(room / "recipe.yaml", room / "warm", options=ONE)  # loads all that the other user may not read
    super_user = os.geteuid() == 0
    if super_user:
        for path in (room, *room.rglob("*")):
            os.chown(path, 65534, 65534)
        os.seteuid(65534)
    try:
        yield room
    finally:
        if super_user:
            os.seteuid(0)
        for path in (room, *room.rglob("*")):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(room)


def test_an_output_folder_that_may_not_be_written(nobody, mergery):
    (nobody / "shut").mkdir(mode=0o500)
    outcome = mergery("merge", nobody / "recipe.yaml", nobody / "shut/out", "--quiet")
    assert outcome.code == 2
    assert "cannot write in" in outcome.err
    assert "Permission denied" in outcome.err
    clear(outcome.err)
    assert not list((nobody / "shut").iterdir())


@pytest.mark.parametrize(
    ("name", "mode"), [("a/model.safetensors", 0), ("a/config.json", 0), ("a", 0), ("recipe.yaml", 0)]
)
def test_an_input_that_may_not_be_read(nobody, mergery, name, mode):
    (nobody / name).chmod(mode)
    outcome = mergery("merge", nobody / "recipe.yaml", nobody / "out", "--quiet")
    (nobody / name).chmod(0o700)
    assert outcome.code == 2
    assert "Permission denied" in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.err.startswith("mergery: ")
    assert not (nobody / "out").exists()


# --- other processes ------------------------------------------------------------------------------------------------


def test_a_second_run_on_one_output_refuses(recipe, tmp_path):
    path, out = recipe(TEXT), tmp_path / "out"
    gate = tmp_path / "gate"
    with held_merge(gate, path, out, "--quiet", stderr=subprocess.DEVNULL) as first:
        while not journalled(tmp_path / "out.partial"):
            time.sleep(0.01)
        second = mergery_process("merge", path, out, "--quiet")
        gate.touch()
    assert first.returncode == 0
    assert second.returncode == 2
    assert second.stderr.startswith("mergery: another run is writing")
    clear(second.stderr)
    api.merge(path, tmp_path / "calm")
    assert folder_of(out) == folder_of(tmp_path / "calm")


def test_kills_over_several_recipes():
    command = [sys.executable, "-m", "benchmarks.kill", "--kills", "9", "--recipes", "3", "--width", "64"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 kills over 3 recipes" in done.stdout
    assert ": 0 different bytes" in done.stdout
