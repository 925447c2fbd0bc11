"""Which files of a folder are its weights, and what is said where none are."""

from __future__ import annotations

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


def message(path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, **options)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors or {"w": torch.ones(2)}, path)


# --- what cannot be decided -----------------------------------------------------------------------


def test_a_single_file_beside_an_index_is_refused(sharded: Path) -> None:
    save(sharded / "model.safetensors")
    assert message(sharded) == (
        "FOLDER: both model.safetensors and model.safetensors.index.json are here\n"
        "  why: one of the two is left from an earlier save, and loaders differ in which they take\n"
        "  try: delete the stale one, or name a file: FOLDER/model.safetensors"
    )


def test_a_variant_is_not_picked_silently(folder: Path) -> None:
    save(folder / "model.fp16.safetensors")
    assert message(folder) == (
        "FOLDER: which file holds the weights is not clear\n"
        "  why: a model folder holds model.safetensors or pytorch_model.bin, or the index of their shards; "
        "here: model.fp16.safetensors\n"
        "  try: name the file: FOLDER/model.fp16.safetensors"
    )
    assert list(open_checkpoint(folder / "model.fp16.safetensors").tensors) == ["w"]


def test_several_candidates_are_listed(folder: Path) -> None:
    save(folder / "a.safetensors")
    save(folder / "b.safetensors")
    assert "here: a.safetensors, b.safetensors\n  try: name the file: FOLDER/a.safetensors" in message(folder)


def test_all_shards_without_an_index_are_one_model(llama: Any, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    checkpoint = open_checkpoint(sharded)
    assert set(checkpoint.tensors) == set(llama.state_dict())
    assert checkpoint.contents.unread == ()
    for name, tensor in llama.state_dict().items():
        assert read_bytes(checkpoint, name) == tensor_bytes(tensor)


def test_a_shard_that_is_missing_without_an_index_is_named(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    shards = sorted(path.name for path in sharded.glob("*.safetensors"))
    (sharded / shards[1]).unlink()
    assert message(sharded) == (
        f"FOLDER: 1 of {len(shards)} shards is missing: {shards[1]}\n"
        "  why: there is no index either, so that every shard is needed\n"
        "  try: download the model again, or wait until its download is complete"
    )


def test_shards_of_a_torch_model_without_an_index_are_one_model(folder: Path) -> None:
    for number, name in enumerate("ab", start=1):
        torch.save({name: torch.ones(2)}, folder / f"pytorch_model-0000{number}-of-00002.bin")
    assert list(open_checkpoint(folder).tensors) == ["a", "b"]
    (folder / "pytorch_model-00001-of-00002.bin").unlink()
    assert "1 of 2 shards is missing: pytorch_model-00001-of-00002.bin" in message(folder)


def test_shards_that_hold_a_tensor_twice_are_no_model(folder: Path) -> None:
    for number in (1, 2):
        save(folder / f"model-0000{number}-of-00002.safetensors")
    assert message(folder) == (
        "FOLDER/model-00002-of-00002.safetensors: tensor 'w' stands twice\n"
        "  why: it stands in model-00001-of-00002.safetensors too, and so do 0 others: they are no shards of one model\n"
        "  try: download or save the model again, with its index"
    )


def test_two_complete_sets_of_shards_are_not_chosen_from(folder: Path) -> None:
    for stem in ("model-00001-of-00001", "other-00001-of-00001"):
        save(folder / f"{stem}.safetensors")
    assert message(folder) == (
        "FOLDER: the shards of 2 models are here\n"
        "  why: model-00001-of-00001.safetensors and other-00001-of-00001.safetensors begin one each, and no index says "
        "which is meant\n"
        "  try: move one of them away"
    )


def test_a_folder_without_weights_says_what_is_expected(folder: Path) -> None:
    assert message(folder).endswith("or the index of their shards; this one is empty\n  try: " + COMPLETE)
    (folder / "config.json").write_text("{}")
    (folder / "training_args.bin").write_text("x")
    assert message(folder) == (
        "FOLDER: no weights here\n"
        "  why: a model folder holds model.safetensors or pytorch_model.bin, or the index of their shards; "
        f"here: config.json, training_args.bin\n  try: {COMPLETE}"
    )


COMPLETE = "check that the download is complete, or name the folder or the file that holds the weights"


def test_a_training_run_points_to_the_checkpoints_within(folder: Path, llama_folder: Path) -> None:
    for step in (900, 1000):
        shutil.copytree(llama_folder, folder / f"checkpoint-{step}")
    assert message(folder) == (
        "FOLDER: no weights here, but in folders within\n"
        "  why: these hold a config.json: checkpoint-900, checkpoint-1000\n"
        "  try: name one of them: FOLDER/checkpoint-1000"
    )


# --- weights that stand elsewhere, or in another form ---------------------------------------------


def files(folder: Path, *names: str) -> None:
    """Small files; a name that ends in `/` is a folder."""
    for name in names:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(b"x")


def test_a_pipeline_of_diffusers_names_its_parts(folder: Path) -> None:
    files(folder, "model_index.json", "scheduler/scheduler_config.json")
    for part in ("unet", "vae"):
        save(folder / part / "diffusion_pytorch_model.safetensors")
    assert message(folder) == (
        "FOLDER: this is a pipeline of diffusers, not one model\n"
        "  why: its parts are models of their own: unet, vae\n"
        "  try: merge part by part, each by its own recipe, such as FOLDER/unet"
    )
    save(folder / "v1-5.safetensors")
    assert message(folder).endswith(
        "  why: v1-5.safetensors beside it hold all of it in one file\n"
        "  try: merge part by part, each by its own recipe, such as FOLDER/unet, or name the file: FOLDER/v1-5.safetensors"
    )


def test_a_part_of_a_pipeline_is_a_model_under_the_names_of_diffusers(folder: Path) -> None:
    save(folder / "diffusion_pytorch_model.safetensors")
    save(folder / "diffusion_pytorch_model.fp16.safetensors", w=torch.zeros(2))
    checkpoint = open_checkpoint(folder)
    assert read_bytes(checkpoint, "w") == tensor_bytes(torch.ones(2))
    assert checkpoint.contents.stem == "diffusion_pytorch_model"
    assert checkpoint.contents.unread == ("diffusion_pytorch_model.fp16.safetensors",)


def test_shards_of_diffusers_have_an_index_of_that_name(folder: Path) -> None:
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    save(folder / shard)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": shard}}))
    assert open_checkpoint(folder).contents.stem == "diffusion_pytorch_model"


def test_a_checkpoint_of_deepspeed_says_how_its_weights_are_put_together(folder: Path) -> None:
    files(folder, "config.json", "global_step10/mp_rank_00_model_states.pt", "zero_to_fp32.py", "latest")
    (folder / "config.json").write_text("{}")
    assert message(folder) == (
        "FOLDER: the weights are in DeepSpeed's own form\n"
        "  why: training left them in global_step10\n"
        "  try: run `python zero_to_fp32.py . merged` in FOLDER, and name the folder merged; in "
        "global_step10/mp_rank_00_model_states.pt they lie whole, in the dtype of the training: name that file"
    )
    inner = folder / "global_step10"
    run = "python -m deepspeed.utils.zero_to_fp32 . merged"
    assert f"run `{run}` in {folder}, and name the folder merged; in mp_rank_00_model_states.pt they" in message(inner)


def test_the_weights_that_deepspeed_saves_whole_are_read(folder: Path) -> None:
    """Stages 1 and 2 of ZeRO cut optimizers to pieces, not the model; what DeepSpeed notes beside it is left aside."""
    weights = {"w": torch.ones(2, dtype=torch.bfloat16)}
    noted = {
        "optimizer": None,
        "param_shapes": [{"w": torch.Size([2])}],
        "lr_scheduler": {"last_epoch": 1},
        "ds_config": {},
    }
    torch.save({"module": weights, **noted}, folder / "mp_rank_00_model_states.pt")
    checkpoint = open_checkpoint(folder / "mp_rank_00_model_states.pt")
    assert read_bytes(checkpoint, "w") == tensor_bytes(weights["w"])
    assert checkpoint.contents.unread == tuple(noted)


def test_the_empty_tensors_that_deepspeed_leaves_are_not_weights(folder: Path) -> None:
    files(folder, "global_step10/zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_to_fp32.py")
    save(folder / "model.safetensors", w=torch.ones(2), x=torch.ones(0))
    assert message(folder).startswith("FOLDER: the weights are in DeepSpeed's own form")
    save(folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert list(checkpoint.tensors) == ["w"]
    assert checkpoint.contents.training == ("global_step10/", "zero_to_fp32.py")


@pytest.mark.parametrize("inner", ["pytorch_model_fsdp_0/", ""])
def test_a_checkpoint_of_fsdp_says_how_its_weights_are_put_together(inner: str, folder: Path) -> None:
    files(folder, f"{inner}__0_0.distcp", f"{inner}__1_0.distcp", f"{inner}.metadata", "optimizer_0/__0_0.distcp")
    place = f"FOLDER/{inner}".rstrip("/")
    assert message(folder) == (
        "FOLDER: the weights are in pieces, as FSDP saves them\n"
        f"  why: {inner.rstrip('/') or 'this folder'} holds 2 .distcp files\n"
        f"  try: run `accelerate merge-weights {place} merged`, and name the folder merged"
    )


def test_a_folder_under_the_name_of_a_weight_file_is_named(folder: Path) -> None:
    (folder / "pytorch_model.bin").mkdir()
    torch.save({"w": torch.ones(2)}, folder / "pytorch_model.bin" / "pytorch_model.bin")
    assert message(folder) == (
        "FOLDER: pytorch_model.bin is a folder here, not a file\n"
        "  why: some tools make a folder where they are given the name of a file\n"
        "  try: name it: FOLDER/pytorch_model.bin"
    )
    assert list(open_checkpoint(folder / "pytorch_model.bin").tensors) == ["w"]


@pytest.mark.parametrize(
    ("name", "form"),
    [("m.keras", "Keras"), ("tf_model.h5", "TensorFlow"), ("flax_model.msgpack", "Flax"), ("m.onnx", "ONNX")],
)
def test_weights_in_another_form_are_one_true_message(name: str, form: str, folder: Path) -> None:
    files(folder, "config.json", name)
    (folder / "config.json").write_text("{}")
    text = message(folder)
    assert text.startswith(f"FOLDER: {form} files cannot be merged\n  why: the only weights here are {name}")
    assert "\n  try: use the model's safetensors" in text
    assert message(folder / name).startswith(f"FOLDER: {form} files cannot be merged")
    save(folder / "model.safetensors")
    assert open_checkpoint(folder).contents.unread == (name,)


def test_a_gguf_file_is_named_by_itself(folder: Path) -> None:
    files(folder, "config.json", "m-Q4_K_M.gguf", "m-Q8_0.gguf")
    (folder / "config.json").write_text("{}")
    assert message(folder) == (
        "FOLDER: the weights here are in GGUF\n"
        "  why: here: m-Q4_K_M.gguf, m-Q8_0.gguf\n"
        "  try: name a file: FOLDER/m-Q4_K_M.gguf"
    )


def test_slices_for_several_gpus_are_no_shards(folder: Path) -> None:
    for number in (0, 1):
        torch.save({"w": torch.ones(2)}, folder / f"consolidated.0{number}.pth")
    assert message(folder) == (
        "FOLDER: the weights are cut into slices for several GPUs\n"
        "  why: consolidated.00.pth, consolidated.01.pth each hold a slice of every tensor\n"
        "  try: use the model's version for transformers, with model.safetensors"
    )


@pytest.mark.parametrize("name", ["last.ckpt", "pytorch_model_fsdp.bin", "consolidated.00.pth"])
def test_the_only_weight_file_of_a_folder_is_meant(name: str, folder: Path) -> None:
    torch.save({"w": torch.ones(2)}, folder / name)
    files(folder, "optimizer.bin", "rng_state.pth", "scheduler.pt", "training_args.bin")
    assert list(open_checkpoint(folder).tensors) == ["w"]


# --- folders of the hub's cache -------------------------------------------------------------------

COMMITS = ("0" * 40, "1" * 40)


@pytest.fixture
def cached(folder: Path) -> Path:
    """A model's folder in the hub's cache: two snapshots, of which `main` is the second."""
    place = folder / "models--org--tiny"
    for value, commit in enumerate(COMMITS):
        save(place / "snapshots" / commit / "model.safetensors", w=torch.full((2,), float(value)))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMITS[1])
    return place


def test_a_folder_of_the_cache_is_its_snapshot(cached: Path) -> None:
    checkpoint = open_checkpoint(cached)
    assert checkpoint.location == str(cached / "snapshots" / COMMITS[1])
    assert read_bytes(checkpoint, "w") == tensor_bytes(torch.ones(2))
    assert read_bytes(open_checkpoint(cached, revision=COMMITS[0]), "w") == tensor_bytes(torch.zeros(2))
    assert isinstance(open_checkpoint(cached / "snapshots" / COMMITS[0]), FolderCheckpoint)


def test_a_folder_of_the_cache_without_refs(cached: Path) -> None:
    (cached / "refs" / "main").unlink()
    assert message(cached) == (
        "FOLDER: this folder of the hub's cache has no revision 'main'\n"
        f"  why: snapshots are here of {COMMITS[0]}, {COMMITS[1]}\n"
        f"  try: name one of them: FOLDER/snapshots/{COMMITS[1]}"
    )
    shutil.rmtree(cached / "snapshots" / COMMITS[1])
    assert read_bytes(open_checkpoint(cached), "w") == tensor_bytes(torch.zeros(2))
    assert "has no revision 'v9'" in message(cached, revision="v9")
    assert "has no revision '../../..'" in message(cached, revision="../../..")
