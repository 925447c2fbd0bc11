"""A merged folder on the hub: through the command line and the real client, to a hub that keeps what it is sent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from mergery.checkpoints.hub.uploading import progress_bars
from mergery.testing.hub_server import HubServer
from tests.conftest import mergery_process, weights_of

TEXT = "models: {base: {llamas}/base, a: {llamas}/a}\nmerge: {method: linear}\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(writers={"makers": "hf_writer"}, pushed=tmp_path / "hub") as server:
        yield server


@pytest.fixture
def environment(server: HubServer, tmp_path: Path) -> dict[str, str]:
    """The environment in which the real client talks to that hub, as one who may write."""
    changes = {
        "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_writer",
        "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    return {**os.environ, **changes}


@pytest.fixture
def merged(recipe, tmp_path: Path, mergery) -> Path:
    assert mergery("merge", recipe(TEXT), tmp_path / "merged").code == 0
    return tmp_path / "merged"


def push(environment: dict[str, str], folder: Path, repo: str, *options: str):
    return mergery_process("push", folder, repo, *options, env=environment)


def head(server: HubServer, repo: str) -> Path:
    """The folder of a model's newest commit."""
    entry = server.repo(repo)
    return entry.commits[entry.revisions["main"]]


def test_what_is_pushed_is_the_model_with_its_card(server, environment, merged, mergery):
    done = push(environment, merged, "makers/merge")
    assert done.returncode == 0, done.stderr
    assert f"{server.url}/makers/merge/commit/{server.repo('makers/merge').revisions['main']}" in done.stderr
    there = head(server, "makers/merge")
    own = {path.relative_to(merged) for path in merged.rglob("*") if path.is_file()}
    assert {path.relative_to(there) for path in there.rglob("*") if path.is_file()} == own
    for name in own - {Path("mergery.lock.json")}:
        assert (there / name).read_bytes() == (merged / name).read_bytes()
    assert "base_model" in (there / "README.md").read_text() or "# A merged model" in (there / "README.md").read_text()
    assert not server.repo("makers/merge").private
    AutoModelForCausalLM.from_pretrained(there)
    assert mergery("verify", there).code == 0


def test_the_lock_keeps_the_folders_of_this_machine_to_itself(server, environment, merged, llamas):
    assert str(llamas) in (merged / "mergery.lock.json").read_text()
    done = push(environment, merged, "makers/merge")
    text = (head(server, "makers/merge") / "mergery.lock.json").read_text()
    assert str(llamas.parent) not in text
    lock, own = json.loads(text), json.loads((merged / "mergery.lock.json").read_text())
    assert lock["inputs"]["a"]["location"] == "a"
    assert lock["tensors"] == own["tensors"]
    assert f"the card names folders of this machine: {llamas}/base" in done.stderr


def test_a_model_is_merged_from_where_it_was_pushed(server, environment, merged, tmp_path):
    """Pushed and taken from the hub again, a model is what it was."""
    assert push(environment, merged, "makers/merge").returncode == 0
    path = tmp_path / "again.yaml"
    path.write_text("models: {m: makers/merge}\nmerge: {method: passthrough}\n")
    done = mergery_process("merge", path, tmp_path / "again", env=environment)
    assert done.returncode == 0, done.stderr
    assert weights_of(tmp_path / "again") == weights_of(merged)


def test_what_holds_weights_is_not_overwritten_unless_it_is_said(
    server, environment, merged, recipe, tmp_path, mergery
):
    assert push(environment, merged, "makers/merge").returncode == 0
    first = head(server, "makers/merge")
    shards = recipe(TEXT + "output: {shard_size: 60kB}\n", "shards.yaml")
    assert mergery("merge", shards, tmp_path / "sharded").code == 0
    refused = push(environment, tmp_path / "sharded", "makers/merge")
    assert refused.returncode == 2
    assert "is on the hub already, with 'model.safetensors'" in refused.stderr
    assert "--replace" in refused.stderr
    assert head(server, "makers/merge") == first
    done = push(environment, tmp_path / "sharded", "makers/merge", "--replace", "--message", "In shards")
    assert done.returncode == 0, done.stderr
    there = head(server, "makers/merge")
    assert not (there / "model.safetensors").exists()  # it would be loaded instead of the shards
    assert weights_of(there) == weights_of(tmp_path / "sharded")
    assert server.repo("makers/merge").messages[-1] == "In shards"
    AutoModelForCausalLM.from_pretrained(there)


def test_a_private_model(server, environment, merged):
    assert push(environment, merged, "makers/merge", "--private").returncode == 0
    assert server.repo("makers/merge").private


def test_a_dry_run_sends_nothing(server, environment, merged):
    done = push(environment, merged, "makers/merge", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "makers/merge is made with" in done.stdout
    assert "model.safetensors" in done.stdout
    facts = json.loads(push(environment, merged, "makers/merge", "--dry-run", "--json").stdout)
    assert facts["new"]
    assert facts["files"]["model.safetensors"] == (merged / "model.safetensors").stat().st_size
    assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize("changes", [{"HF_TOKEN": ""}, {"HF_HUB_OFFLINE": "1"}])
def test_a_dry_run_needs_no_hub(environment, merged, changes):
    done = push({**environment, **changes}, merged, "makers/merge", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("makers/merge gets ")
    assert "note: what the hub holds under this name is not known: " in done.stdout


def test_programs_are_told_of_the_commit(server, environment, merged):
    done = push(environment, merged, "makers/merge", "--json")
    begun, event = map(json.loads, done.stdout.splitlines())
    assert (begun["event"], event["event"]) == ("pushing", "pushed")
    assert begun["bytes"] > (merged / "model.safetensors").stat().st_size
    assert event["commit"] == server.repo("makers/merge").revisions["main"]
    assert done.stderr == ""


@pytest.mark.parametrize("shown", [True, False])
def test_the_clients_own_bars_are_shown_or_not(shown):
    from huggingface_hub.utils import are_progress_bars_disabled

    before = are_progress_bars_disabled()
    with progress_bars(shown):
        assert are_progress_bars_disabled() == (before or not shown)
    assert are_progress_bars_disabled() == before


def lose_a_file(folder: Path) -> None:
    (folder / "config.json").unlink()


def cut_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


def leave_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "mergery.lock.json").unlink()


def leave_unfinished(folder: Path) -> None:
    (folder / "journal.jsonl").write_text("{}\n")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lose_a_file, "'config.json' is missing"),
        (cut_weights, "'model.safetensors' has another size than its lock says"),
        (leave_no_weights, "is no model"),
        (leave_unfinished, "is the folder of an unfinished merge"),
        (shutil.rmtree, "there is no folder"),
    ],
)
def test_what_is_not_whole_is_not_pushed(server, environment, merged, harm: Callable[[Path], None], says):
    harm(merged)
    done = push(environment, merged, "makers/merge")
    assert done.returncode == 2
    assert says in done.stderr
    assert "  try: " in done.stderr
    assert not server.requests


def test_a_fragment_is_not_pushed(server, environment, recipe, tmp_path, mergery):
    assert mergery("merge", recipe(TEXT), tmp_path / "part", "--only", "layers.0-1").code == 0
    done = push(environment, tmp_path / "part", "makers/part")
    assert done.returncode == 2
    assert "is a fragment of a model" in done.stderr


@pytest.mark.parametrize(
    ("repo", "changes", "says"),
    [
        ("merge", {}, ["is no name of a model on the hub", "ORG/NAME"]),
        ("others/merge", {}, ["the hub lets you write no such model", "rights to create a model", "hf auth login"]),
        ("makers/merge", {"HF_TOKEN": "hf_reader"}, ["the hub lets you write no such model", "hf auth login"]),
        ("makers/merge", {"HF_TOKEN": ""}, ["nobody is logged in to the hub", "hf auth login"]),
        ("makers/merge", {"HF_HUB_OFFLINE": "1"}, ["while HF_HUB_OFFLINE is set"]),
        ("makers/merge", {"HF_ENDPOINT": "http://127.0.0.1:9"}, ["the hub cannot be reached", "check the connection"]),
    ],
)
def test_what_the_hub_refuses_is_told(environment, merged, repo, changes, says):
    done = push({**environment, **changes}, merged, repo)
    assert done.returncode == 2
    for part in says:
        assert part in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
