from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.folder import FolderCheckpoint
from mergery.errors import CheckpointError

from .reading import read_bytes, tensor_bytes


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return str(caught.value).replace(str(path), "FOLDER")


@pytest.fixture
def sharded(sharded_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded_folder, tmp_path / "model"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    return path


def save(path: Path, **tensors: torch.Tensor) -> None:
    save_file(tensors or {"w": torch.ones(2)}, path)


def edit_index(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_a_saved_model_opens_with_config_and_side_files(llama: Any, llama_folder: Path) -> None:
    checkpoint = open_checkpoint(str(llama_folder), label="base")
    assert isinstance(checkpoint, FolderCheckpoint)
    assert checkpoint.label == "base"
    assert checkpoint.location == str(llama_folder)
    assert checkpoint.config["model_type"] == "llama"
    assert checkpoint.files == ("LICENSE", "generation_config.json", "tokenizer.json")
    assert checkpoint.file("tokenizer.json") == b'{"version": "1.0"}'
    with pytest.raises(KeyError):
        checkpoint.file("config.json")
    assert checkpoint.contents.unread == ()
    for name, tensor in llama.state_dict().items():
        assert read_bytes(checkpoint, name) == tensor_bytes(tensor)


def test_shards_read_as_one_model(llama: Any, sharded_folder: Path) -> None:
    checkpoint = open_checkpoint(sharded_folder)
    assert set(checkpoint.tensors) == set(llama.state_dict())
    for name, tensor in llama.state_dict().items():
        assert read_bytes(checkpoint, name) == tensor_bytes(tensor)


def test_a_folder_of_symbolic_links_is_read(llama_folder: Path, folder: Path) -> None:
    for entry in llama_folder.iterdir():
        (folder / entry.name).symlink_to(entry)
    assert open_checkpoint(folder).tensors == open_checkpoint(llama_folder).tensors


def test_side_files_are_listed_and_weights_and_strangers_are_not(folder: Path) -> None:
    save(folder / "model.safetensors")
    side = {
        "tokenizer.json", "tokenizer.model", "spiece.model", "qwen.tiktoken", "merges.txt", "vocab.txt",
        "NOTICE.txt", "LICENSE.md", "README.md", "chat_template.jinja", "modeling_x.py",
        "video_preprocessor_config.json", "additional_chat_templates/tool_use.jinja",
    }  # fmt: skip
    (folder / "additional_chat_templates").mkdir()
    (folder / "original").mkdir()
    for name in (
        *side,
        "training_args.bin",
        "trainer_state.json",
        "original/tokenizer.model",
        ".gitattributes",
    ):
        (folder / name).write_text("x")
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.files) == side
    assert list(checkpoint.files) == sorted(side)
    assert not checkpoint.config


def test_copies_in_other_formats_are_left_aside_and_said_so(folder: Path) -> None:
    for name in ("model.safetensors", "model.fp16.safetensors", "consolidated.safetensors"):
        save(folder / name)
    torch.save({"w": torch.zeros(2)}, folder / "pytorch_model.bin")
    (folder / "optimizer.pt").write_bytes(b"")
    checkpoint = open_checkpoint(folder)
    assert isinstance(checkpoint, FolderCheckpoint)
    assert read_bytes(checkpoint, "w") == tensor_bytes(torch.ones(2))
    assert checkpoint.contents.unread == ("consolidated.safetensors", "model.fp16.safetensors", "pytorch_model.bin")


@pytest.mark.parametrize("name", ["consolidated.safetensors", "adapter_model.safetensors", "weights-v2.0.safetensors"])
def test_a_single_file_of_another_name_is_taken(name: str, folder: Path) -> None:
    save(folder / name)
    assert list(open_checkpoint(folder).tensors) == ["w"]


def test_a_bin_file_is_taken_where_there_is_no_safetensors(folder: Path) -> None:
    torch.save({"w": torch.ones(2)}, folder / "pytorch_model.bin")
    save(folder / "model.fp16.safetensors")
    assert read_bytes(open_checkpoint(folder), "w") == tensor_bytes(torch.ones(2))


def test_sharded_bin_files_are_read(folder: Path) -> None:
    weight_map = {}
    for place, name in enumerate("ab"):
        shard = f"pytorch_model-0000{place + 1}-of-00002.bin"
        torch.save({name: torch.full((3,), float(place))}, folder / shard)
        weight_map[name] = shard
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    checkpoint = open_checkpoint(folder)
    assert list(checkpoint.tensors) == ["a", "b"]
    assert read_bytes(checkpoint, "b") == tensor_bytes(torch.ones(3))


# --- the index ------------------------------------------------------------------------------------

NAME = "model.norm.weight"


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "a\\b", "C:x", "", 3, None])
def test_an_index_cannot_reach_outside_its_folder(shard: Any, sharded: Path) -> None:
    edit_index(sharded, lambda weight_map: weight_map.update({NAME: shard}))
    assert message(sharded) == (
        f"FOLDER/model.safetensors.index.json: tensor '{NAME}' is said to stand in {shard!r}\n"
        "  why: a shard is named by a plain file name within the folder\n"
        "  try: do not use this model unless you know who wrote its index"
    )


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shards = sorted(path.name for path in sharded.glob("*.safetensors"))
    (sharded / shards[1]).unlink()
    assert message(sharded) == (
        f"FOLDER/model.safetensors.index.json: 1 of {len(shards)} shards are missing: {shards[1]}\n"
        "  try: download the model again, or wait until its download is complete"
    )


def test_a_tensor_that_its_shard_lacks_is_named(sharded: Path) -> None:
    first = min(path.name for path in sharded.glob("*.safetensors"))
    edit_index(sharded, lambda weight_map: weight_map.update(extra=first))
    assert message(sharded).startswith(
        f"FOLDER/model.safetensors.index.json: tensor 'extra' should stand in {first}, but is not there\n"
        f"  why: {first} holds "
    )


def test_a_tensor_that_the_index_lacks_is_not_lost(sharded: Path) -> None:
    shard = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"][NAME]
    edit_index(sharded, lambda weight_map: weight_map.pop(NAME))
    assert message(sharded) == (
        f"FOLDER/model.safetensors.index.json: {shard} holds tensors that the index does not place there: "
        f"'{NAME}'\n"
        "  why: they would be lost silently\n"
        "  try: index and shards are of different models: download or save the model again"
    )


def test_a_tensor_in_the_wrong_shard_is_noticed(sharded: Path) -> None:
    first = min(path.name for path in sharded.glob("*.safetensors"))
    edit_index(sharded, lambda weight_map: weight_map.update({NAME: first}))
    assert f"  why: the index places '{NAME}' in {first}\n" in message(sharded)


def test_a_shard_that_the_index_lacks_is_not_lost(sharded: Path) -> None:
    weight_map = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    lost = weight_map[NAME]
    for name in [name for name, shard in weight_map.items() if shard == lost]:
        edit_index(sharded, lambda weight_map, name=name: weight_map.pop(name))
    assert message(sharded) == (
        f"FOLDER/model.safetensors.index.json: shards are here that the index does not name: {lost}\n"
        "  why: their tensors would be lost silently\n  try: download or save the model again, with its index"
    )


def test_shards_of_an_older_save_are_left_aside_and_said_so(sharded: Path) -> None:
    save(sharded / "model-00001-of-00099.safetensors")
    checkpoint = open_checkpoint(sharded)
    assert isinstance(checkpoint, FolderCheckpoint)
    assert checkpoint.contents.unread == ("model-00001-of-00099.safetensors",)


@pytest.mark.parametrize("text", ['{"metadata": {}}', '{"weight_map": {}}', '{"weight_map": []}'])
def test_an_index_without_a_map_is_refused(text: str, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    assert message(sharded).startswith("FOLDER/model.safetensors.index.json: the index has no `weight_map`")


def test_an_index_that_names_a_tensor_twice_is_refused(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text('{"weight_map": {"w": "a", "w": "b"}}')
    assert message(sharded).startswith(
        "FOLDER/model.safetensors.index.json: this is not valid JSON\n  why: 'w' stands in it twice"
    )


# --- config and files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            b'{\n  "a": 1,\n  "b": oops\n}',
            "FOLDER/config.json:3:8: this is not valid JSON\n  why: Expecting value",
        ),
        (b'{"a": 1', "FOLDER/config.json:1:8: this is not valid JSON\n  why: Expecting ',' delimiter"),
        (b"", "FOLDER/config.json:1:1: this is not valid JSON"),
        (
            b'{\n"a": "\xff"}',
            "FOLDER/config.json:2:7: this file is not valid UTF-8\n  why: invalid start byte",
        ),
        (b"\xef\xbb\xbf{}", "FOLDER/config.json"),
        (b"[]", "FOLDER/config.json:1:1: this file should hold a JSON object\n  why: it holds a list"),
        (b"null", "FOLDER/config.json:1:1: this file should hold a JSON object\n  why: it holds null"),
    ],
)
def test_a_broken_config_names_line_and_column(text: bytes, expected: str, folder: Path) -> None:
    save(folder / "model.safetensors")
    (folder / "config.json").write_bytes(text)
    assert message(folder).startswith(expected)
    assert message(folder).endswith("  try: mend the file, or download it again")


def test_a_config_may_say_infinity_as_real_ones_do(folder: Path) -> None:
    save(folder / "model.safetensors")
    (folder / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')
    assert open_checkpoint(folder).config == {"time_step_limit": [0.0, float("inf")]}


def test_a_dangling_link_is_explained(folder: Path) -> None:
    (folder / "model.safetensors").symlink_to(folder / "blobs" / "0123")
    assert message(folder) == (
        "FOLDER/model.safetensors: this file cannot be opened\n"
        "  why: it is a symbolic link to FOLDER/blobs/0123, which does not exist\n"
        "  try: download the model again: its cache entry is damaged"
    )


def test_a_shard_that_is_a_folder_is_refused(sharded: Path) -> None:
    first = min(sharded.glob("*.safetensors"))
    first.unlink()
    first.mkdir()
    assert f"shards are missing: {first.name}" in message(sharded)


# --- fingerprints ---------------------------------------------------------------------------------


def test_the_fingerprint_tells_models_apart_that_have_equal_headers(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save(folder / "model.safetensors", w=torch.zeros(1000))
    save(other / "model.safetensors", w=torch.zeros(1000))
    first, second = open_checkpoint(folder).fingerprint(), open_checkpoint(other).fingerprint()
    assert first["files"] == second["files"]
    assert first["files"][0]["size"] == (folder / "model.safetensors").stat().st_size
    save(other / "model.safetensors", w=torch.ones(1000))
    third = open_checkpoint(other).fingerprint()
    assert third["files"][0]["header_sha256"] == first["files"][0]["header_sha256"]
    assert third["files"] != first["files"]
    (other / "config.json").write_text("{}")
    assert open_checkpoint(other).fingerprint()["config_sha256"] == hashlib.sha256(b"{}").hexdigest()


def test_contents_are_hashed_whole(sharded_folder: Path) -> None:
    checkpoint = open_checkpoint(sharded_folder)
    assert isinstance(checkpoint, FolderCheckpoint)
    seen: list[tuple[int, int]] = []
    hashes = checkpoint.hash_contents(lambda done, total: seen.append((done, total)))
    files = {path.name: path.read_bytes() for path in sharded_folder.glob("*.safetensors")}
    assert hashes == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    total = sum(map(len, files.values()))
    assert seen[-1] == (total, total)
