"""What goes wrong with a model on the hub, and under which names it is found."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, hf_hub_download

from mergery.errors import CheckpointError
from mergery.testing.hub_server import HubServer
from mergery.version import __version__
from tests.checkpoints.hub.opening import SHARDS, message, open_hub
from tests.checkpoints.reading import read_bytes, tensor_bytes


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
        "  try: did you mean the folder 'models/tiny-llama'? If not, check the spelling; for a private "
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


def test_a_model_in_gguf_is_downloaded_by_its_file(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "m-Q8_0.gguf").write_bytes(b"GGUF")
    commit = hub.add("org/packed", tmp_path / "repo")
    assert message("org/packed") == (
        f"org/packed@{commit}: the weights here are in GGUF\n"
        "  why: here: m-Q8_0.gguf\n"
        "  try: download the one that you want, and name it: hf download org/packed m-Q8_0.gguf --local-dir ."
    )


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


def test_no_network_and_no_copy(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.stop()
    text = message()
    assert text.startswith(
        "org/model: the hub cannot be reached, and the local cache has no copy\n  why: ConnectError: "
    )
    assert text.endswith("  try: check the connection, or name a local folder")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    assert message().endswith("  try: 'org/model' is no folder here: check its name, or the connection")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert message() == (
        "org/model: the local cache has no copy, and HF_HUB_OFFLINE is set\n"
        "  try: unset HF_HUB_OFFLINE, or name a local folder"
    )
    (tmp_path / "org/models").mkdir()  # whose name was perhaps meant
    assert message().endswith(
        "try: did you mean the folder 'org/models'? If not, unset HF_HUB_OFFLINE, or name a local folder"
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
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Cannot send a request, as the client has been closed."),
        AttributeError("'NoneType' object has no attribute 'request'"),
    ],
)
def test_a_session_that_another_thread_closes(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch, times: int, error: Exception
) -> None:
    hub.add("org/model", model)
    checkpoint = open_hub()
    failures = iter(range(times))

    def download(*arguments: Any, **options: Any) -> str:
        if next(failures, None) is not None:
            raise error
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
