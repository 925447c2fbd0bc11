"""Models on the hub, against a server on this machine that the real client talks to."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import close_session
from safetensors.torch import save_file

from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.hub.checkpoint import HubCheckpoint
from mergery.checkpoints.hub.remote import AHEAD
from mergery.errors import CheckpointError
from mergery.testing.hub_server import HubServer
from mergery.version import __version__

from .reading import read_bytes, tensor_bytes


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
    close_session()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two shards, each larger than one header request, and files of other formats beside them."""
    folder = tmp_path / "repo"
    folder.mkdir()
    weight_map = {}
    for place in (1, 2):
        shard = f"model-0000{place}-of-00002.safetensors"
        name = f"layers.{place}.weight"
        save_file({name: torch.full((400, 300), float(place))}, folder / shard)
        weight_map[name] = shard
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"w": torch.zeros(100_000)}, folder / "consolidated.safetensors")
    torch.save({"w": torch.zeros(100_000)}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("{{ tool }}")
    return folder


def open_hub(source: str = "org/model", **options: Any) -> HubCheckpoint:
    checkpoint = open_checkpoint(source, **options)
    assert isinstance(checkpoint, HubCheckpoint)
    return checkpoint


def message(source: str = "org/model", **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source, **options)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    return str(caught.value)


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def test_opening_reads_headers_alone(hub: HubServer, model: Path) -> None:
    commit = hub.add("org/model", model)
    checkpoint = open_hub(label="base")
    assert checkpoint.label == "base"
    assert checkpoint.location == f"org/model@{commit}"
    assert checkpoint.fingerprint() == {"location": "org/model", "commit": commit}
    assert checkpoint.config == {"model_type": "llama"}
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == {
        "layers.1.weight": (400, 300),
        "layers.2.weight": (400, 300),
    }
    assert checkpoint.files == ("additional_chat_templates/tool.jinja", "tokenizer.json")
    for shard in SHARDS:
        requests = hub.asked(shard)
        assert [(request.range, request.sent) for request in requests if request.sent] == [((0, AHEAD - 1), AHEAD)]
    for other in ("consolidated.safetensors", "pytorch_model.bin", "tokenizer.json"):
        assert not hub.asked(other)


def test_preparing_downloads_what_is_needed_and_no_more(hub: HubServer, model: Path) -> None:
    hub.add("org/model", model)
    checkpoint = open_hub()
    before = dict(checkpoint.tensors)
    with pytest.raises(CheckpointError) as caught:
        read_bytes(checkpoint, "layers.1.weight")
    assert str(caught.value) == (
        f"{checkpoint.location}: the weights of this model are not on this machine yet\n"
        "  try: call prepare() before reading"
    )
    seen: list[tuple[int, int]] = []
    checkpoint.prepare(lambda done, total: seen.append((done, total)))
    assert dict(checkpoint.tensors) == before
    assert read_bytes(checkpoint, "layers.2.weight", 5, 9) == tensor_bytes(torch.full((4,), 2.0))
    needed = [*SHARDS, "tokenizer.json", "additional_chat_templates/tool.jinja"]
    total = sum((model / name).stat().st_size for name in needed)
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert not hub.asked("consolidated.safetensors")
    assert not hub.asked("pytorch_model.bin")
    assert checkpoint.contents.unread == ("consolidated.safetensors", "pytorch_model.bin")
    hashes = {name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in SHARDS}
    assert checkpoint.hash_contents() == hashes


def test_preparing_twice_or_in_a_later_run_downloads_nothing(hub: HubServer, model: Path) -> None:
    hub.add("org/model", model)
    with open_hub() as checkpoint:
        checkpoint.prepare()
    hub.requests.clear()
    with open_hub() as checkpoint:
        checkpoint.prepare()
        checkpoint.prepare()
        assert read_bytes(checkpoint, "layers.1.weight", 0, 1) == tensor_bytes(torch.ones(1))
    assert [request.path for request in hub.requests] == ["/api/models/org/model?blobs=true"]


def test_side_files_come_when_they_are_asked_for(hub: HubServer, model: Path) -> None:
    hub.add("org/model", model)
    checkpoint = open_hub()
    assert checkpoint.file("additional_chat_templates/tool.jinja") == b"{{ tool }}"
    assert not hub.asked("tokenizer.json")
    with pytest.raises(KeyError):
        checkpoint.file("pytorch_model.bin")


def test_a_header_longer_than_the_first_request_takes_one_more(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    tensors = {f"layers.{place}.a_rather_long_name.weight": torch.ones(64) for place in range(2000)}
    path = tmp_path / "repo" / "model.safetensors"
    save_file(tensors, path)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert header > AHEAD
    hub.add("org/model", path.parent)
    assert len(open_hub().tensors) == 2000
    requests = [request for request in hub.asked("model.safetensors") if request.sent]
    assert [request.range for request in requests] == [(0, AHEAD - 1), (AHEAD, 2 * AHEAD - 1)]
    assert header <= 2 * AHEAD


def test_bin_files_are_planned_from_parts_of_them_too(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    state = {"a": torch.ones(500, 500), "b": torch.arange(250_000.0).reshape(500, 500).t()}
    for name, new in (("org/model", True), ("org/old", False)):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new)
        hub.add(name, folder)
        hub.requests.clear()
        checkpoint = open_hub(name)
        assert checkpoint.tensors["b"].shape == (500, 500)
        assert sum(request.sent for request in hub.asked("pytorch_model.bin")) <= 2 * AHEAD < 2_000_000
        checkpoint.prepare()
        assert read_bytes(checkpoint, "b", 3, 900) == tensor_bytes(state["b"].reshape(-1)[3:900])


def test_a_truncated_file_is_refused_before_it_is_downloaded(hub: HubServer, model: Path) -> None:
    shard = model / SHARDS[1]
    shard.write_bytes(shard.read_bytes()[:-4])
    commit = hub.add("org/model", model)
    assert message().startswith(f"org/model@{commit}/{SHARDS[1]}: the file is truncated\n")


def test_small_and_empty_files_are_read(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    path = tmp_path / "repo" / "model.safetensors"
    save_file({"w": torch.ones(2)}, path)
    hub.add("org/model", path.parent)
    checkpoint = open_hub()
    checkpoint.prepare()
    assert read_bytes(checkpoint, "w") == tensor_bytes(torch.ones(2))
    assert not checkpoint.config
    path.write_bytes(b"")
    commit = hub.add("org/empty", path.parent)
    assert message("org/empty").startswith(
        f"org/empty@{commit}/model.safetensors: this is no safetensors file\n  why: it has 0 bytes"
    )


def test_a_mirror_without_ranges_serves_too(hub: HubServer, model: Path) -> None:
    hub.ranges = False
    hub.add("org/model", model)
    checkpoint = open_hub()
    checkpoint.prepare()
    assert read_bytes(checkpoint, "layers.1.weight", 0, 1) == tensor_bytes(torch.ones(1))


# --- revisions and the cache ----------------------------------------------------------------------


def test_a_revision_is_a_branch_or_a_commit_and_stays_pinned(hub: HubServer, model: Path, tmp_path: Path) -> None:
    first = hub.add("org/model", model)
    newer = tmp_path / "newer"
    newer.mkdir()
    save_file({"w": torch.ones(3)}, newer / "model.safetensors")
    second = hub.add("org/model", newer, revision="refs/pr/1")
    assert open_hub().commit == first
    assert open_hub(revision="refs/pr/1").commit == second
    assert list(open_hub(revision=second).tensors) == ["w"]

    checkpoint = open_hub()
    hub.add("org/model", newer)
    checkpoint.prepare()
    assert checkpoint.commit == first
    assert read_bytes(checkpoint, "layers.1.weight", 0, 1) == tensor_bytes(torch.ones(1))
    assert open_hub().commit == second


@pytest.mark.parametrize("revision", [None, "main", "commit"])
def test_without_a_network_the_cache_serves(revision: str | None, hub: HubServer, model: Path) -> None:
    commit = hub.add("org/model", model)
    with open_hub(revision=None if revision == "commit" else revision) as checkpoint:
        checkpoint.prepare()
        files = checkpoint.files
    hub.stop()
    checkpoint = open_hub(revision=commit if revision == "commit" else revision)
    assert checkpoint.commit == commit
    assert checkpoint.files == files
    assert checkpoint.config == {"model_type": "llama"}
    checkpoint.prepare()
    assert read_bytes(checkpoint, "layers.2.weight", 0, 1) == tensor_bytes(torch.full((1,), 2.0))
    assert checkpoint.file("tokenizer.json") == b'{"version": "1.0"}'


def test_a_snapshot_that_another_program_downloaded_serves_offline(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/model", model)
    # the client's own download, weights and config alone
    for name in (*SHARDS, "model.safetensors.index.json", "config.json"):
        hf_hub_download("org/model", name, endpoint=hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    checkpoint = open_hub()
    checkpoint.prepare()
    assert read_bytes(checkpoint, "layers.1.weight", 0, 1) == tensor_bytes(torch.ones(1))
    assert not hub.requests


def test_an_incomplete_snapshot_is_not_taken_for_a_model(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("org/model", model)
    for name in (SHARDS[0], "model.safetensors.index.json"):
        hf_hub_download("org/model", name, endpoint=hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert message() == (
        f"org/model@{commit}/model.safetensors.index.json: 1 of 2 shards are missing: {SHARDS[1]}\n"
        "  try: download the model again, or wait until its download is complete"
    )


def test_weights_in_the_cache_are_not_asked_for(hub: HubServer, model: Path) -> None:
    hub.add("org/model", model)
    hf_hub_download("org/model", SHARDS[0], endpoint=hub.url)
    hub.requests.clear()
    open_hub()
    assert not hub.asked(SHARDS[0])
    assert hub.asked(SHARDS[1])


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_model_that_is_not_there(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert message("org/missing") == (
        "org/missing: there is no such folder here, and no such model on the hub\n"
        "  why: a private model looks the same to those who may not see it\n"
        "  try: check the spelling; for a private model, log in with `hf auth login`, or set HF_TOKEN"
    )
    (tmp_path / "models" / "tiny-llama").mkdir(parents=True)
    assert message("models/tiny-lama", relative_to=tmp_path) == (
        "models/tiny-lama: there is no such folder here, and no such model on the hub\n"
        "  why: a private model looks the same to those who may not see it\n"
        f"  try: did you mean the folder '{tmp_path}/models/tiny-llama'? If not, check the spelling; for a private "
        "model, log in with `hf auth login`, or set HF_TOKEN"
    )


@pytest.mark.parametrize(
    "source",
    [
        "org/model@main",
        "https://huggingface.co/org/model",
        "https://hf.co/org/model/tree/main?x=1",
        "hf://org/model@main",
    ],
)
def test_a_model_is_found_under_the_spellings_that_people_use(source: str, hub: HubServer, model: Path) -> None:
    commit = hub.add("org/model", model)
    checkpoint = open_hub(source)
    assert checkpoint.location == f"org/model@{commit}"
    assert open_hub(checkpoint.location).commit == commit  # what Mergery prints can be typed


def test_a_model_of_the_first_years_has_no_owner(hub: HubServer, model: Path) -> None:
    commit = hub.add("gpt2", model)
    assert open_hub("gpt2").location == f"gpt2@{commit}"


def test_the_hub_is_told_which_version_asks(hub: HubServer, model: Path) -> None:
    hub.add("org/model", model)
    open_hub()
    assert all(request.agent.startswith(f"mergery/{__version__};") for request in hub.requests)


def test_a_revision_that_is_not_there(hub: HubServer, model: Path) -> None:
    hub.add("org/model", model)
    assert message(revision="v9") == (
        "org/model@v9: the model has no revision 'v9'\n"
        "  try: its branches and commits are listed at https://huggingface.co/org/model/tree/main"
    )


def test_a_gated_model(hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/model", model, token="hf_secret")
    assert message() == (
        "org/model: access to this model is restricted\n  why: its owner gates it\n"
        "  try: accept its terms at https://huggingface.co/org/model, "
        "then log in with `hf auth login`, or set HF_TOKEN"
    )
    (model / "config.json").unlink()
    assert message().startswith("org/model: access to this model is restricted")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    checkpoint = open_hub()
    checkpoint.prepare()
    assert read_bytes(checkpoint, "layers.1.weight", 0, 1) == tensor_bytes(torch.ones(1))
    assert not any(request.authorised for request in hub.requests if request.path.startswith("/store/"))


def test_no_network_and_no_copy(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stop()
    text = message()
    assert text.startswith(
        "org/model: the hub cannot be reached, and the local cache has no copy\n  why: ConnectError: "
    )
    assert text.endswith("  try: check the connection, or name a local folder")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert message() == (
        "org/model: the local cache has no copy, and HF_HUB_OFFLINE is set\n"
        "  try: unset HF_HUB_OFFLINE, or name a local folder"
    )


def test_a_network_that_fails_later(hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client's pauses between its attempts
    hub.add("org/model", model)
    checkpoint = open_hub()
    hub.stop()
    for action in (checkpoint.prepare, lambda: checkpoint.file("tokenizer.json")):
        with pytest.raises(CheckpointError, match="org/model: the hub cannot be reached"):
            action()


@pytest.mark.parametrize("times", [2, 9])
def test_a_session_that_another_thread_closes(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    hub.add("org/model", model)
    checkpoint = open_hub()
    failures = iter(range(times))

    def download(*arguments: Any, **options: Any) -> str:
        if next(failures, None) is not None:
            raise RuntimeError("Cannot send a request, as the client has been closed.")
        return hf_hub_download(*arguments, **options)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    if times == 2:
        assert checkpoint.file("tokenizer.json") == (model / "tokenizer.json").read_bytes()
    else:
        with pytest.raises(CheckpointError, match="the hub cannot be reached"):
            checkpoint.file("tokenizer.json")


def test_an_id_that_is_none(hub: HubServer) -> None:
    assert message("org/a--b").startswith("org/a--b: this is no id of a model on the hub\n  why: Cannot have -- or ..")


def test_a_repository_without_weights(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "README.md").write_text("soon")
    commit = hub.add("org/model", tmp_path / "repo")
    assert message().startswith(f"org/model@{commit}: no weights here")


def test_a_fault_of_the_program_is_not_blamed_on_the_network(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/model", model)
    checkpoint = open_hub()
    monkeypatch.setattr(checkpoint, "_fetch", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.file("tokenizer.json")


def test_a_full_disk_is_named(hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    hub.add("org/model", model)
    checkpoint = open_hub()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.prepare()
    assert str(caught.value) == (
        "org/model: the disk that holds the hub's cache is full\n  try: make room, or set HF_HOME to a larger disk"
    )


def test_downloading_draws_no_progress_bars(hub: HubServer, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hub.add("org/model", model)
    open_hub().prepare()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_endpoint_of_the_environment_is_used_by_a_fresh_process(
    hub: HubServer, model: Path, tmp_path: Path
) -> None:
    hub.add("org/model", model)
    program = """
import numpy as np
from mergery.checkpoints import open_checkpoint
checkpoint = open_checkpoint("org/model")
checkpoint.prepare()
into = np.empty(4, np.uint8)
checkpoint.read("layers.2.weight", 7, 8, into)
assert into.view(np.float32)[0] == 2
"""
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
    }
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert hub.asked(SHARDS[0])
