"""What each file of a model folder is: taken along, state of training, or named as left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.file_kinds import is_tokenizer_file, sort_files

from .reading import read_bytes, tensor_bytes


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.model.v3", "normalizer.json", "sentencepiece.bpe.model", "qwen.tiktoken", "encoder.json",
        "tokenization_x.py", "additional_chat_templates/tool.jinja", "chat_template.json",
        "tekken.json",
    ],
)  # fmt: skip
def test_files_of_a_tokenizer(name: str) -> None:
    assert is_tokenizer_file(name)
    assert sort_files([name], ()).side == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "image_processor_config.json",
        "feature_extractor_config.json", "generation_config.json", "modeling_x.py", "kernel.cu", "kernel.cpp", "ops/kernel.cu",
        "custom_generate/generate.py", "sentence_bert_config.json", "config_sentence_transformers.json", "LICENSE",
    ],
)  # fmt: skip
def test_files_that_go_with_a_model(name: str) -> None:
    assert not is_tokenizer_file(name)
    assert sort_files([name], ()).side == (name,)


def test_state_of_training_is_no_side_file_and_folders_stand_for_all_in_them() -> None:
    files = [
        "optimizer.pt",
        "scheduler.pt",
        "rng_state_0.pth",
        "trainer_state.json",
        "training_args.bin",
        "latest",
        "runs/",
    ]
    inner = ["global_step10/mp_rank_00_model_states.pt", "global_step10/x_optim_states.pt", "checkpoint-5/config.json"]
    found = sort_files(files + inner, ())
    assert found.side == found.unknown == ()
    assert set(found.training) == {*files, "global_step10/", "checkpoint-5/"}


def test_what_nobody_knows_is_named_and_housekeeping_is_not() -> None:
    strangers = ["notes.txt", "images/a.png", "images/b.png", "onnx/model.onnx", "original/tokenizer.model", "empty/"]
    found = sort_files([*strangers, ".gitattributes", ".git/HEAD", "config.json", "mergery.lock.json"], ())
    assert found.unknown == ("empty/", "images/", "notes.txt", "onnx/", "original/")
    assert found.side == found.training == ()


def test_what_mergery_keeps_beside_weights_is_known_by_what_it_is() -> None:
    transported = sort_files(["transport.json", "recipe.yaml", "notes.txt"], ())
    assert transported.ours == ("transport.json", "recipe.yaml")
    assert transported.unknown == ("notes.txt",)
    assert sort_files(["transform/model.safetensors", "transform/transform.json"], ()).unknown == ()
    strangers = sort_files(["transform/model.safetensors", "recipe.yaml"], ())
    assert strangers.unknown == ("recipe.yaml", "transform/")


# --- modules of sentence-transformers -------------------------------------------------------------


def sentence_model(folder: Path, *paths: str) -> Path:
    """A folder whose modules.json names these paths."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{"idx": idx, "name": str(idx), "path": path, "type": "x"} for idx, path in enumerate(paths)]
    (folder / "modules.json").write_text(json.dumps(listed))
    for path in paths:
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_weights_of_modules_are_tensors_under_the_name_of_the_folder(form: str, tmp_path: Path) -> None:
    folder = sentence_model(tmp_path / "m", "", "1_Pooling", "2_Dense")
    save_file({"w": torch.zeros(2)}, folder / "model.safetensors")
    dense = {"linear.weight": torch.ones(2, 3), "linear.bias": torch.arange(2.0)}
    if form == "bin":
        torch.save(dense, folder / "2_Dense" / "pytorch_model.bin")
    else:
        save_file(dense, folder / "2_Dense" / "model.safetensors")
        torch.save(dense, folder / "2_Dense" / "pytorch_model.bin")
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.tensors) == {"w", "2_Dense.linear.weight", "2_Dense.linear.bias"}
    assert checkpoint.tensors["2_Dense.linear.bias"].name == "2_Dense.linear.bias"
    assert read_bytes(checkpoint, "2_Dense.linear.bias") == tensor_bytes(torch.arange(2.0))
    assert checkpoint.contents.modules == ("2_Dense",)
    assert checkpoint.files == ("1_Pooling/config.json", "2_Dense/config.json", "modules.json")
    assert checkpoint.contents.unread == (() if form == "bin" else ("2_Dense/pytorch_model.bin",))
    assert checkpoint.contents.unknown == ()
    assert len(checkpoint.fingerprint()["files"]) == 2


def test_a_model_may_be_a_module_itself_or_lie_deeper(tmp_path: Path) -> None:
    folder = sentence_model(tmp_path / "m", "0_Transformer", "1_Router")
    save_file({"w": torch.ones(2)}, folder / "0_Transformer" / "model.safetensors")
    (folder / "1_Router" / "query_0_Dense").mkdir()
    save_file({"v": torch.ones(2)}, folder / "1_Router" / "query_0_Dense" / "model.safetensors")
    assert set(open_checkpoint(folder).tensors) == {"0_Transformer.w", "1_Router.query_0_Dense.v"}


@pytest.mark.parametrize(
    "text", ["{", "{}", '[{"path": "../other"}, {"path": "/etc"}, {"path": 3}, 4]', '[{"path": ".."}]']
)
def test_a_list_of_modules_cannot_reach_outside_its_folder(text: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    save_file({"secret": torch.ones(2)}, tmp_path / "other" / "model.safetensors")
    folder = sentence_model(tmp_path / "m", "")
    (folder / "config.json").unlink()
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    (folder / "modules.json").write_text(text)
    assert list(open_checkpoint(folder).tensors) == ["w"]
