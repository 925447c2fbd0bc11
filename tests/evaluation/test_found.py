"""Which models are scored by what a user names, what they are called, and what is told before any of them is run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

import mergery as library
from mergery.errors import CheckpointError
from mergery.evaluation import open_subject
from mergery.testing.hub_server import HubServer
from tests.docs.pages import adapter
from tests.evaluation.conftest import texts


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
    close_session()


def test_a_model_of_the_hub_scores_as_its_folder(hub, zoo, write):
    hub.add("org/model-1.5", zoo / "a")
    task = write(texts(3))
    found = library.evaluate("org/model-1.5", task)
    assert found.model == "model-1.5"
    assert found.scores == library.evaluate(zoo / "a", task).scores


def test_models_of_the_hub_are_compared_also_as_parents(hub, zoo, write, mergery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.add("org/parent", zoo / "a")
    outcome = mergery("compare", zoo / "b", "--parents", "org/parent", "--tasks", write(texts(3)), "--results", "kept")
    assert outcome.code == 0, outcome.err
    assert "parent (parent)" in outcome.out


def test_fine_tunes_of_the_hub_are_looked_at_and_fused_from_there(hub, zoo, mergery, write):
    for name in ("base", "a", "b"):
        hub.add(f"org/{name}", zoo / name)
    outcome = mergery("inspect", "org/base", "org/a", "org/b", "--interference")
    assert outcome.code == 0, outcome.err
    assert "2 task vectors" in outcome.out
    outcome = mergery("fuse", "org/base", "out", "--teachers", "org/a", "--data", write(texts(8)), "--dry-run")
    assert outcome.code == 0, outcome.err


def test_adapters_on_a_model_with_dots_in_its_name_are_told_apart(llamas, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llamas / "base", tmp_path / "llama-3.2-1B")
    adapter(tmp_path / "math", 1)
    assert open_subject("./llama-3.2-1B+./math").name == "llama-3.2-1B+math"


def test_all_models_are_looked_for_before_one_is_run(zoo, write, mergery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = write(texts(3))
    for words, says in (
        (["compare", zoo / "a", "zzz", "--tasks", task], "zzz: there is no such model folder"),
        (["compare", zoo / "a", "--tasks", task], "there is nothing to compare with\n  try: give two models or more"),
        (["compare", "--tasks", task, zoo / "a", zoo / "b"], "try: put the models before --tasks, which takes all words"),
        (["compare", zoo / "a", task], f"this is no model folder\n  try: a task file stands behind --tasks: --tasks {task}"),
    ):  # fmt: skip
        outcome = mergery(*words)
        assert outcome.code == 2
        assert says in outcome.err
        assert not (tmp_path / "results").exists(), "nothing was scored"


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("lama", "try: did you mean 'llama'?"),
        ("llama/model.safetensors", "try: name the folder that it lies in: llama"),
    ],
)
def test_what_is_no_model_folder_says_what_to_name(named, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/model.safetensors").touch()
    with pytest.raises(CheckpointError) as caught:
        open_subject(named)
    assert says in str(caught.value)
