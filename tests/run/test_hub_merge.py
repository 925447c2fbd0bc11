"""Models on the hub: planned from their headers, downloaded once the plan is sound, merged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mergery.testing.hub_server import HubServer
from tests.conftest import make_llama, mergery_process, tensors_of

SIZE = 3_000_000  # bytes of one model, at least
MODELS = "models: {base: makers/base, a: {path: makers/a, revision: v1}}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub with a base and a fine-tune, of several megabytes each."""
    root = tmp_path_factory.mktemp("repos")
    make_llama(root / "base", 0, hidden_size=128, intermediate_size=512)
    make_llama(root / "a", 1, root / "base")
    with HubServer() as server:
        server.add("makers/base", root / "base")
        server.revision_of_a = server.add("makers/a", root / "a", revision="v1")  # type: ignore[attr-defined]
        yield server


@pytest.fixture
def environment(server: HubServer, tmp_path: Path) -> dict[str, str]:
    """The environment in which the real client talks to that hub, with an empty cache."""
    server.requests.clear()
    changes = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    return {**os.environ, **changes}


def fetched(server: HubServer) -> int:
    """Bytes of weight files that were asked for."""
    return sum(request.sent for request in server.asked("model.safetensors"))


def test_planning_reads_headers_and_merging_downloads_once(server, environment, recipe, tmp_path, mergery):
    path = recipe(MODELS + "merge: {method: ties, base: base}\n")
    plan = mergery_process("plan", path, env=environment)
    assert plan.returncode == 0, plan.stderr
    assert server.revision_of_a[:12] in plan.stdout
    planned = fetched(server)
    assert planned < SIZE / 2
    merge = mergery_process("merge", path, tmp_path / "out", env=environment)
    assert merge.returncode == 0, merge.stderr
    assert fetched(server) > planned + 2 * SIZE - 100_000
    assert len(tensors_of(tmp_path / "out")) == 39
    again = mergery_process("merge", path, tmp_path / "again", env={**environment, "HF_HUB_OFFLINE": "1"})
    assert again.returncode == 0, again.stderr
    one, two = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "again")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_nothing_is_downloaded_for_a_plan_that_cannot_run(server, environment, recipe, tmp_path):
    make_llama(tmp_path / "b", 2, hidden_size=64)
    path = recipe(MODELS.replace("}}", "}, b: ./b}") + "merge: {method: linear}\n")
    merge = mergery_process("merge", path, tmp_path / "out", env=environment)
    assert merge.returncode == 2
    assert "'b'" in merge.stderr
    assert fetched(server) < SIZE / 2


def test_a_model_that_is_not_on_the_hub(server, environment, recipe, tmp_path):
    path = recipe("models: {base: makers/base, a: makers/nothing}\nmerge: {method: linear}\n")
    merge = mergery_process("merge", path, tmp_path / "out", env=environment)
    assert merge.returncode == 2
    assert "makers/nothing" in merge.stderr
    assert "Traceback" not in merge.stderr


def test_models_packed_on_a_base_of_the_hub(server, environment, recipe, tmp_path):
    text = MODELS.replace("}}", "}, b: ./b}") + "merge: {method: emr, base: base}\n"
    make_llama(tmp_path / "b", 2, hidden_size=128, intermediate_size=512)
    packed = mergery_process("pack", recipe(text), tmp_path / "packed", env=environment)
    assert packed.returncode == 0, packed.stderr
    unpack = recipe("models: {m: {path: ./packed, task: b}}\nmerge: {method: passthrough}\n", "unpack.yaml")
    served = recipe(text.replace("base: base}\n", "base: base, task: b}\n"), "served.yaml")
    for path in (unpack, served):
        done = mergery_process("merge", path, tmp_path / path.stem, env=environment)
        assert done.returncode == 0, done.stderr
    one, two = tensors_of(tmp_path / "unpack"), tensors_of(tmp_path / "served")
    assert all(torch.equal(one[name], two[name]) for name in two)
