"""Models on the hub, against a server on this machine that the real client talks to."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import save_file

from mergery.checkpoints.equality import BLOCK, same_bytes
from mergery.checkpoints.hub.remote import AHEAD
from mergery.testing.hub_server import HubServer
from tests.checkpoints.hub.opening import SHARDS, message, open_hub
from tests.checkpoints.reading import read_bytes, tensor_bytes


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


def test_whether_a_head_is_its_embeddings_is_seen_before_it_is_downloaded(hub: HubServer, tmp_path: Path) -> None:
    """Block by block, up to the first that differs; the weights themselves still come when they are wanted."""
    (tmp_path / "repo").mkdir()
    rows = torch.randn(3 * BLOCK // 8, 8)
    save_file({"a": rows, "b": rows.clone(), "c": rows + 1}, tmp_path / "repo" / "model.safetensors")
    hub.add("org/model", tmp_path / "repo")
    checkpoint = open_hub()
    assert same_bytes(checkpoint, "a", "b")
    before = sum(request.sent for request in hub.asked("model.safetensors"))
    assert not same_bytes(checkpoint, "a", "c")
    seen = sum(request.sent for request in hub.asked("model.safetensors")) - before
    assert seen < 3 * 4 * BLOCK, "one block of each, of the three that they have"
    assert read_bytes(checkpoint, "a") == tensor_bytes(rows)


def test_reading_brings_the_weights_whoever_has_not_prepared_and_once(hub: HubServer, model: Path) -> None:
    hub.add("org/model", model)
    checkpoint = open_hub()
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda place: read_bytes(checkpoint, f"layers.{place}.weight"), (1, 2, 1, 2)))
    assert read == [tensor_bytes(torch.full((400, 300), float(place))) for place in (1, 2, 1, 2)]
    for shard in SHARDS:
        whole = [request for request in hub.asked(shard) if request.sent >= (model / shard).stat().st_size]
        assert len(whole) == 1
    assert open_hub().hash_contents() == {
        shard: hashlib.sha256((model / shard).read_bytes()).hexdigest() for shard in SHARDS
    }
