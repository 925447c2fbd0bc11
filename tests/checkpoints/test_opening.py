from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mergery.checkpoints import open_checkpoint
from mergery.errors import CheckpointError


def message(source: object, **options: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_importing_loads_no_library() -> None:
    program = """
import sys, mergery.checkpoints
heavy = {"torch", "numpy", "huggingface_hub", "transformers"} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_checkpoint_is_returned_as_it_is(llama_folder: Path) -> None:
    checkpoint = open_checkpoint(llama_folder)
    assert open_checkpoint(checkpoint) is checkpoint


def test_paths_are_text_or_path_and_relative_to_a_folder(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(open_checkpoint(llama_folder).tensors)
    assert list(open_checkpoint(str(llama_folder)).tensors) == expected
    checkpoint = open_checkpoint(llama_folder.name, relative_to=llama_folder.parent)
    assert (checkpoint.label, checkpoint.location) == (llama_folder.name, str(llama_folder))
    monkeypatch.setenv("HOME", str(llama_folder.parent))
    assert list(open_checkpoint("~/tiny-llama").tensors) == expected
    assert list(open_checkpoint("tiny-llama/model.safetensors", relative_to=llama_folder.parent).tensors) == expected


def test_a_folder_is_taken_before_a_hub_id_of_that_spelling(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").symlink_to(llama_folder)
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("org/name").location == "org/name"


def test_a_misspelt_path_gets_a_suggestion(llama_folder: Path) -> None:
    wrong = str(llama_folder).replace("tiny-llama", "tiny-lama")
    assert message(wrong) == f"{wrong}: there is no such file or folder\n  try: did you mean '{llama_folder}'?"
    assert message(f"{wrong}/model.safetensors").endswith(f"did you mean '{llama_folder}'?")
    assert message("nothing-at-all", relative_to=llama_folder) == (
        f"nothing-at-all: there is no such file or folder\n  why: it is looked up from '{llama_folder}'\n"
        "  try: check the path; a model on the hub is named org/name"
    )
    assert message(Path("org/name")).startswith("org/name: there is no such file or folder")
    assert message("org/x.safetensors").startswith("org/x.safetensors: there is no such file or folder")


def test_a_revision_is_not_for_local_paths(llama_folder: Path) -> None:
    assert message(llama_folder, revision="main") == (
        f"{llama_folder}: a local path has no revisions\n"
        "  why: the revision 'main' belongs to a model on the hub\n"
        f"  try: leave out the revision, or rename the folder if you mean the hub's {llama_folder}"
    )


def test_other_files_and_objects_are_refused(llama_folder: Path, tmp_path: Path) -> None:
    assert message(llama_folder / "config.json") == (
        f"{llama_folder}/config.json: this is not a weight file\n"
        "  why: its name ends in '.json'; weight files end in .safetensors, .bin, .pt, .pth, .ckpt, .gguf\n"
        f"  try: name the model's folder: {llama_folder}"
    )
    assert message(3) == (
        "an object of type int is not a model\n"
        "  try: pass a path, a hub id such as org/name, a state dict or a torch module"
    )
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pth")
    assert list(open_checkpoint(tmp_path / "x.pth").tensors) == ["w"]
