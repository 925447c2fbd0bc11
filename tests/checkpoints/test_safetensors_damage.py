"""Safetensors files that are damaged, or that are something else: each is refused with what is wrong with it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergery.checkpoints import open_checkpoint

from .reading import message

Write = Callable[..., Path]
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_a_truncated_file_names_expected_and_actual_bytes(llama_folder: Path, tmp_path: Path) -> None:
    content = (llama_folder / "model.safetensors").read_bytes()
    path = tmp_path / "x.safetensors"
    path.write_bytes(content[:-100])
    assert message(path) == (
        "the file is truncated\n"
        f"  why: its header describes {len(content)} bytes, it has {len(content) - 100}: 100 are missing\n"
        "  try: download the file again; the last download was cut short"
    )


def test_trailing_bytes_are_refused(write_safetensors: Write) -> None:
    path = write_safetensors({"w": F32}, bytes(11))
    size = path.stat().st_size
    assert message(path) == (
        f"3 bytes follow the last tensor\n  why: its header describes {size - 3} bytes, it has {size}\n"
        "  try: download or save the file again"
    )


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": list(shape) if isinstance(shape, tuple) else shape,
        "data_offsets": offsets,
    }


BROKEN_ENTRIES = [
    (entry(dtype="F33"), "tensor 'w': unknown dtype 'F33'\n  try: did you mean 'F32'?"),
    (entry(dtype=["F32"]), "tensor 'w': unknown dtype ['F32']"),
    (entry(shape=[2.0]), "tensor 'w': shape [2.0] is not a list of non-negative whole numbers"),
    (entry(shape=[True, 2]), "tensor 'w': shape [True, 2] is not a list of non-negative whole numbers"),
    (entry(shape=[-2]), "tensor 'w': shape [-2] is not a list of non-negative whole numbers"),
    (entry(shape="2"), "tensor 'w': shape '2' is not a list"),
    (entry(offsets=[0]), "tensor 'w': data_offsets [0] are not two non-negative whole numbers"),
    (entry(offsets=[-8, 0]), "tensor 'w': data_offsets [-8, 0] are not two non-negative whole numbers"),
    (entry(offsets=[8, 0]), "tensor 'w': its offsets do not match its shape"),
    (
        entry(offsets=[0, 12]),
        "tensor 'w': its offsets do not match its shape\n"
        "  why: F32 of shape [2] takes 8 bytes, 0 to 12 are 12\n  try: download or save the file again",
    ),
    (entry(shape=[1 << 62, 1 << 62]), "tensor 'w': its offsets do not match its shape"),
    (entry(dtype="F4", shape=[3]), "tensor 'w': shape [3] of 4-bit elements does not fill whole bytes"),
    ({"dtype": "F32", "shape": [2]}, "tensor 'w': its header entry is malformed"),
    (entry() | {"extra": 1}, "tensor 'w': its header entry is malformed"),
    ([1, 2], "tensor 'w': its header entry is malformed"),
    (None, "tensor 'w': its header entry is malformed"),
]


@pytest.mark.parametrize(("broken", "expected"), BROKEN_ENTRIES)
def test_a_broken_entry_names_file_tensor_and_fault(broken: Any, expected: str, write_safetensors: Write) -> None:
    assert message(write_safetensors({"w": broken}, bytes(8))).startswith(expected)


def test_overlap_names_both_tensors(write_safetensors: Write) -> None:
    path = write_safetensors({"a": F32, "b": entry(offsets=[4, 12])}, bytes(12))
    assert message(path) == (
        "tensors 'a' and 'b' overlap by 4 bytes\n  why: the format gives every tensor its own bytes\n"
        "  try: download or save the file again"
    )


@pytest.mark.parametrize(
    ("offsets", "where"),
    [([8, 16], "before the first tensor, 'b'"), ([4, 12], "before the first tensor, 'b'")],
)
def test_a_gap_at_the_start_is_refused(offsets: list[int], where: str, write_safetensors: Write) -> None:
    path = write_safetensors({"b": entry(offsets=offsets)}, bytes(offsets[1]))
    assert message(path).startswith(f"{offsets[0]} bytes {where} belong to no tensor\n  why: the format allows no gaps")


def test_a_gap_names_its_neighbours(write_safetensors: Write) -> None:
    path = write_safetensors({"a": F32, "b": entry(offsets=[12, 20])}, bytes(20))
    assert message(path).startswith("4 bytes between 'a' and 'b' belong to no tensor")


def test_a_name_that_stands_twice_is_refused(write_safetensors: Write) -> None:
    text = json.dumps(F32)
    path = write_safetensors(f'{{"w": {text}, "w": {text}}}'.encode(), bytes(8))
    assert message(path) == (
        "the header names 'w' twice\n  why: which of the two holds the weights cannot be known\n"
        "  try: save the model again with unique names"
    )


TWICE = [
    ('"w": {"dtype": "F16", "shape": [2], "shape": [2], "data_offsets": [0, 4]}', "shape"),
    ('"__metadata__": {"a": "b", "a": "c"}, "w": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}', "a"),
    (
        '"__metadata__": {}, "__metadata__": {}, "w": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}',
        "__metadata__",
    ),
    (r'"\u0077": {}, "w": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}', "w"),
]


@pytest.mark.parametrize(("entries", "name"), TWICE)
def test_any_key_that_stands_twice_is_refused(entries: str, name: str, write_safetensors: Write) -> None:
    path = write_safetensors(f"{{{entries}}}".encode(), bytes(4))
    assert message(path).startswith(f"the header names {name!r} twice")


def test_quotes_in_a_name_are_no_second_name(write_safetensors: Write) -> None:
    path = write_safetensors({'the "w"': F32, "__metadata__": {'"': '""'}}, bytes(8))
    assert list(open_checkpoint(path).tensors) == ['the "w"']


BROKEN_HEADERS = [
    (b'{"\xff": 1}', "the header is not valid UTF-8\n  why: byte 2 of the header: invalid start byte"),
    (b'{"w": ', "the header is not valid JSON\n  why: Expecting value at byte 6 of the header"),
    (b"[1, 2]", "the header is not a JSON object\n  why: it begins with b'['"),
    (b' {"w": 1}', "the header is not a JSON object\n  why: it begins with b' '"),
    (b'{"w": NaN}', "the header is not valid JSON\n  why: NaN is not JSON"),
    (b'{"w": ' + b"[" * 100_000, "the header is not valid JSON"),
    (b'{"w": ' + b"9" * 5000 + b"}", "the header is not valid JSON"),
    (b'{"__metadata__": {"a": 1}}', "the header's `__metadata__` is not a map from text to text"),
    (b'{"__metadata__": []}', "the header's `__metadata__` is not a map from text to text"),
]


@pytest.mark.parametrize(("header", "expected"), BROKEN_HEADERS, ids=range(len(BROKEN_HEADERS)))
def test_a_header_that_is_no_sound_json_is_refused(header: bytes, expected: str, write_safetensors: Write) -> None:
    assert message(write_safetensors(header)).startswith(expected)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0"
OTHER_FILES = [
    (
        b"",
        "this is no safetensors file\n  why: it has 0 bytes; a safetensors file begins with its header",
    ),
    (b"1234567", "this is no safetensors file\n  why: it has 7 bytes"),
    (bytes(8), "this is no safetensors file\n  why: its header length reads 0\n"),
    (LFS, "this is no safetensors file\n  why: its header length reads "),
    (
        (100).to_bytes(8, "little") + b"{}",
        "the file is truncated within its header\n  why: the header alone takes 100 bytes, the file has 10\n",
    ),
    (
        (1 << 40).to_bytes(8, "little") + b"{}",
        "this is no safetensors file\n"
        "  why: its header length reads 1099511627776 bytes; the format allows 100000000\n",
    ),
]


@pytest.mark.parametrize(("content", "expected"), OTHER_FILES, ids=range(len(OTHER_FILES)))
def test_other_files_are_refused(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert message(path).startswith(expected)


HINTS = {
    "this is a Git LFS pointer, not the weights: run `git lfs pull` in the model's folder": LFS,
    "this is a web page, not the weights: download the file itself": b"<!DOCTYPE html><html></html>",
    "this is a zip archive, as torch.save writes them: name it .bin or .pt": b"PK\x03\x04" + bytes(30),
    "this is a GGUF file: name it .gguf": b"GGUF\x03\x00\x00\x00" + bytes(30),
}


@pytest.mark.parametrize("hint", HINTS)
def test_the_hint_says_what_the_file_is_in_truth(hint: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(HINTS[hint])
    assert message(path).endswith(f"  try: {hint}")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    assert message(tmp_path / "x.safetensors") == "this is not a regular file\n  try: name a file or a folder"


def test_a_file_that_may_not_be_opened_says_why(write_safetensors: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_safetensors({"w": F32}, bytes(8))

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr("builtins.open", refuse)
    for failure, hint in (
        (errno.EMFILE, "raise the limit of open files: `ulimit -n 4096`"),
        (errno.EACCES, "check"),
    ):
        assert message(path).startswith(f"this file cannot be opened\n  why: {os.strerror(failure)}\n  try: {hint}")
