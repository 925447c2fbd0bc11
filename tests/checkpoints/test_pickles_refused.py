"""Files of torch.save that are refused: pickles that want code, what is no state dict, and what is damaged."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mergery.checkpoints import open_checkpoint
from mergery.dtypes import BY_TORCH
from mergery.errors import CheckpointError

from .reading import message, read_bytes, tensor_bytes

SAFELY = "save its state dict alone, best with safetensors: safetensors.torch.save_file(model.state_dict(), path)"


def repack(path: Path, change: Any, **options: Any) -> Path:
    """Write an archive again with other members: `change(name, content)` gives the new content, or None."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            new = change(name.partition("/")[2], content)
            if new is not None:
                archive.writestr(name, new)
    return path


def with_pickle(path: Path, pickled: bytes) -> Path:
    torch.save({"w": torch.ones(4)}, path)
    return repack(path, lambda name, content: pickled if name == "data.pkl" else content)


# --- pickles that want more than tensors ----------------------------------------------------------


class Evil:
    """What an attacker pickles: unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_wants_code_is_refused_and_nothing_is_run(save: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    text = message(save({"w": torch.ones(2), "x": Evil(trace)}))
    module = os.system.__module__
    assert text == (
        f"a pickle that wants code: it asks for `{module}.system`\n"
        f"  why: only tensors are taken from a pickle, and nothing of it is run\n  try: {SAFELY}"
    )
    assert not trace.exists()


def test_a_whole_module_is_refused_by_the_name_of_its_class(save: Any) -> None:
    assert message(save(torch.nn.Linear(2, 2))).startswith(
        "a pickle that wants code: it asks for `torch.nn.modules.linear.Linear`"
    )


@pytest.mark.parametrize(
    "wanted",
    [
        "builtins.eval",
        "builtins.getattr",
        "torch.load",
        "torch.hub.load",
        "collections.namedtuple",
        "mergery.errors.Where",
    ],
)
def test_no_other_name_is_answered(wanted: str, tmp_path: Path) -> None:
    module, _, name = wanted.rpartition(".")
    path = with_pickle(tmp_path / "x.pt", f"c{module}\n{name}\n.".encode())
    assert message(path).startswith(f"a pickle that wants code: it asks for `{wanted}`")


def test_a_dotted_name_does_not_lead_to_attributes(tmp_path: Path) -> None:
    pickled = b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93."
    assert "it asks for `collections.OrderedDict.fromkeys`" in message(with_pickle(tmp_path / "x.pt", pickled))


@pytest.mark.parametrize("target", ["torch\nFloatStorage", "torch\nfloat32", "torch._utils\n_rebuild_tensor_v2"])
def test_a_pickle_cannot_change_what_it_is_given(target: str, tmp_path: Path) -> None:
    state = pickle.dumps({"value": 1, "bits": 8}, 2)[2:-1]
    slots = pickle.dumps((None, {"value": 1}), 2)[2:-1]
    for change in (state, slots):
        path = with_pickle(tmp_path / "x.pt", b"\x80\x02c" + target.encode() + b"\n" + change + b"b.")
        assert message(path).startswith("a pickle that wants to change the program that reads it")
    assert BY_TORCH["float32"].bits == 32


def test_a_pickle_cannot_change_a_tensor_that_was_checked(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        original = archive.read("x/data.pkl")
    for change in ({"shape": (1 << 40,)}, (None, {"shape": (1 << 40,)})):
        at = original.rindex(b"Rq")
        forged = original[: at + 1] + pickle.dumps(change, 2)[2:-1] + b"b" + original[at + 1 :]
        assert message(with_pickle(tmp_path / "x.pt", forged)).startswith("its pickle is damaged")


def test_unknown_dtypes_are_refused_by_name(save: Any) -> None:
    text = message(save({"w": torch.ones(2, dtype=torch.complex128)}))
    assert text.startswith("it holds a kind of tensor that cannot be read: torch.ComplexDoubleStorage")


def test_sparse_tensors_are_refused_by_name(save: Any) -> None:
    text = message(save({"w": torch.eye(3).to_sparse()}))
    assert text.startswith("it holds a kind of tensor that cannot be read: torch._utils._rebuild_sparse_tensor")


# --- what is no state dict ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([1, 2], "it holds a list"),
        (torch.ones(2), "it holds a StoredTensor"),
        ({}, "it is empty"),
        ({"state_dict": {}}, "it is empty"),
        (
            {"w": torch.ones(2), "epoch": 3, "x": None},
            "2 of its entries are no named tensors: 'epoch' (int), 'x' (NoneType)",
        ),
        ({1: torch.ones(2)}, "1 of its entries are no named tensors: 1 (StoredTensor)"),
        (
            {"model": {"w": torch.ones(2)}, "ema": [{"w": torch.ones(2)}]},
            "tensors stand under 'model' and also under 'ema'",
        ),
        (
            {"model": {"encoder": {"w": torch.ones(2)}}},
            "1 of its entries are no named tensors: 'encoder' (_Dict)",
        ),
    ],
)
def test_what_is_no_state_dict_is_explained(value: Any, why: str, save: Any) -> None:
    why = why.replace("_Dict", "dict")
    assert message(save(value)) == f"this is not a state dict of named tensors\n  why: {why}\n  try: {SAFELY}"


# --- damaged files --------------------------------------------------------------------------------


def forged_tensor(**changes: Any) -> bytes:
    """A pickle of one tensor whose offset, shape, strides or storage lie."""
    fields = {"key": "0", "elements": 4, "offset": 0, "shape": (4,), "stride": (1,)} | changes

    class Stored:
        """Stands for the storage."""

    class Lie:
        def __reduce__(self) -> Any:
            view = (Stored(), fields["offset"], fields["shape"], fields["stride"], False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, view

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Stored):
                return "storage", torch.FloatStorage, fields["key"], "cpu", fields["elements"]
            return None

    stream = io.BytesIO()
    Pickler(stream, 2).dump({"w": Lie()})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"offset": 1}, "a tensor reaches beyond its storage"),
        ({"shape": (5,)}, "a tensor reaches beyond its storage"),
        ({"shape": (2, 2), "stride": (3, 1)}, "a tensor reaches beyond its storage"),
        ({"shape": (1 << 62, 1 << 62), "stride": (1, 1)}, "a tensor reaches beyond its storage"),
        ({"shape": (1 << 30, 1 << 30), "stride": (0, 0)}, "a tensor is larger than any that there is"),
        ({"offset": -1}, "a tensor's shape and strides do not fit"),
        ({"stride": (-1,)}, "a tensor's shape and strides do not fit"),
        ({"shape": (2, 2)}, "a tensor's shape and strides do not fit"),
        ({"shape": (2.0,)}, "a tensor's shape and strides do not fit"),
        ({"elements": -4}, "a reference to a storage is malformed"),
        ({"key": 0}, "a reference to a storage is malformed"),
        ({"key": "1"}, "tensor 'w': its storage '1' is not in the archive"),
        ({"key": "../version"}, "tensor 'w': its storage '../version' is not in the archive"),
        (
            {"elements": 8, "shape": (8,)},
            "tensor 'w': its storage '0' is too short\n  why: the pickle says 32 bytes, the archive holds 16",
        ),
    ],
)
def test_a_tensor_that_lies_is_refused(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert message(with_pickle(tmp_path / "x.pt", forged_tensor(**changes))).startswith(expected)


def test_an_unforged_tensor_is_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(with_pickle(tmp_path / "x.pt", forged_tensor()))
    assert read_bytes(checkpoint, "w") == tensor_bytes(torch.ones(4))


@given(cut=st.integers(1, 700), flip=st.integers(0, 255))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_pickle_is_refused_or_still_sound(cut: int, flip: int, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4), "v": torch.ones(2, 3).t()}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        pickled = bytearray(archive.read("x/data.pkl"))
    pickled[cut % len(pickled)] = flip
    try:
        checkpoint = open_checkpoint(with_pickle(tmp_path / "x.pt", bytes(pickled)))
        for name, info in checkpoint.tensors.items():
            if info.nbytes < 1 << 20:
                read_bytes(checkpoint, name)
    except CheckpointError:
        pass


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused(keep: float, save: Any) -> None:
    path = save({"w": torch.ones(1000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert message(path).startswith(("the archive is damaged", "the file is truncated or padded"))
    assert message(path).endswith("  try: download or save the file again")


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "x.pt")
    path = repack(tmp_path / "x.pt", lambda _, content: content, compression=zipfile.ZIP_DEFLATED)
    assert message(path) == (
        "member 'x/byteorder' is compressed or encrypted\n"
        "  why: torch.save stores members as they are; this archive was packed by another program\n"
        "  try: unpack it and save it with torch"
    )


def test_big_endian_numbers_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "x.pt")
    path = repack(tmp_path / "x.pt", lambda name, content: b"big" if name == "byteorder" else content)
    assert message(path).startswith("its numbers are big-endian")


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.writestr("x/constants.pkl", b"")
    assert message(tmp_path / "x.pt").startswith("this is a TorchScript program, not a state dict")


def test_a_zip_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert message(tmp_path / "x.bin").startswith("this zip archive is none of torch's\n  why: it holds 0 members")


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x/data/0", bytes(16))
    assert message(tmp_path / "x.pt").startswith("the archive holds two members of one name")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "this is no file that torch.save wrote\n  why: it is empty"),
        (b"hello world", "this is no file that torch.save wrote\n  why: it begins with b'hello wo'"),
        (b"version https://git-lfs.github.com/spec/v1", "this is no file that torch.save wrote"),
        (pickle.dumps({"w": [1.0]}), "this pickle is no file that torch.save wrote"),
        (b"\x80\x02", "its pickle is damaged"),
    ],
)
def test_other_files_are_refused(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    assert message(tmp_path / "x.bin").startswith(expected)


def test_a_safetensors_file_under_another_name_is_recognised(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes((llama_folder / "model.safetensors").read_bytes())
    assert message(tmp_path / "x.bin").endswith("try: this looks like a safetensors file: name it .safetensors")
