# ruff: noqa: E501 - tables of odd values
"""Files of weights: safetensors, torch files and indices of several files."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from typing import Any

from tests.fuzz.damage import NAMES, NUMBERS, as_json, junk, noise, sometimes, spoil

SHARD = "model-00001-of-00002.safetensors"


def header(tensors: dict[str, tuple[str, list[int]]]) -> tuple[dict[str, Any], int]:
    """A valid safetensors header, and how many bytes it describes."""
    sizes = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "U8": 1}
    result: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin = end
        count = sizes[dtype]
        for size in shape:
            count *= size
        end += count
        result[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return result, end


def safetensors(text: bytes, data: bytes) -> bytes:
    """A file of a header and its tensors' bytes."""
    return len(text).to_bytes(8, "little") + text + data


def tiny(chance: random.Random, odd: float = 0.0) -> dict[str, tuple[str, list[int]]]:
    """The tensors of a tiny model; with odd names in place of some."""
    names = [
        "model.embed_tokens.weight",
        *(f"model.layers.{n}.mlp.up_proj.weight" for n in range(2)),
        "model.norm.weight",
    ]
    names = [chance.choice(NAMES) if chance.random() < odd else name for name in names]
    return {name: ("F32" if odd == 0 else chance.choice(("F32", "F32", "BF16", "I64")), [4, 2]) for name in names}


def safetensors_file(chance: random.Random, odd: float = 0.2) -> bytes:
    """A safetensors file with one kind of damage or another."""
    entries, size = header(tiny(chance, odd))
    data = b"\0\0\x80\x3f" * (size // 4)
    tensors = [entry for name, entry in entries.items() if name != "__metadata__"]
    entry = chance.choice(tensors)
    match chance.randrange(13):
        case 0:
            return noise(chance)
        case 1:  # overlaps and gaps
            entry["data_offsets"] = [chance.choice((0, 8, 31, 32, 33, size, 2**40)) for _ in range(2)]
        case 2:
            entry["shape"] = [chance.choice(NUMBERS[:21]) for _ in range(chance.choice((0, 1, 2, 70)))]
        case 3:
            entry[chance.choice(("dtype", "shape", "data_offsets", "more"))] = junk(chance)
        case 4:
            entries = spoil(chance, entries, 0.1)
        case 5:
            data = data[: chance.randrange(len(data) + 1)] + noise(chance, 9)
        case 6:
            text = json.dumps(entries).encode()
            return (
                chance.choice((0, 1, 2, len(text) - 1, len(text) + 1, 10**8, 2**63, 2**64 - 1)).to_bytes(8, "little")
                + text
            )
        case 7:  # a shape that no computer can multiply quickly, or print
            entry["shape"] = [chance.choice((10**30, 2**31, 10**900))] * chance.choice((2, 60, 300))
        case _:
            pass
    return sometimes(chance, safetensors(as_json(chance, entries), data), 0.15)


def _global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _text(word: str) -> bytes:
    raw = word.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _tensor(chance: random.Random, key: str, shape: list[int], elements: int) -> bytes:
    """The opcodes that torch writes for a tensor."""
    sizes = b"(" + b"".join(pickle.dumps(size, 2)[2:-1] for size in shape) + b"t"
    strides = [1] * len(shape)
    for place in reversed(range(len(shape) - 1)):
        strides[place] = strides[place + 1] * shape[place + 1]
    steps = b"(" + b"".join(pickle.dumps(step, 2)[2:-1] for step in strides) + b"t"
    storage = b"(" + _text("storage") + _global("torch", "FloatStorage") + _text(key) + _text("cpu")
    storage += pickle.dumps(elements, 2)[2:-1] + b"tQ"
    call = _global("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + b"K\0" + sizes + steps + b"\x89"
    return call + _global("collections", "OrderedDict") + b")RtR"


EVIL = (
    _global("os", "system") + b"(X\x0b\0\0\0touch /evil" + b"tR0",
    _global("builtins", "eval") + b"(X\x01\0\0\0" + b"1tR0",
    b"r\xff\xff\xff\x7f", b"N" + b"r\xff\xff\xff\x05" + b"0", b"\x8e" + b"\xff" * 7 + b"\x00", b"\x96" + b"\xff" * 5 + b"\0\0\0",
    b"(" * 5000, b"]" + b"]q\0a" * 300, b"\x8b\xff\xff\xff\x7f", b"\x8a\xff" + b"\xff" * 255, b"I" + b"9" * 5000 + b"\n0",
    b"N" + b"\x85" * 3000 + b"0", b"h\xff", b"\x95" + b"\xff" * 8, b"P1\n", b"\x82\x01", b"}(" + b"}}su", b"]]\x86K\1s",
    b")" + b"2\x86" * 40 + b"}q\x01" + b"0h\x01" + b"\x85N" + b"s0",  # a tuple of tuples that takes ever to hash
    b"}" + b")" + b"2\x86" * 40 + b"Ns0", b"\x8f(" + b")" + b"2\x86" * 40 + b"\x900", b"(" + b")" + b"2\x86" * 40 + b"t\x910",
    _global("builtins", "set") + b"]" + b")" + b"2\x86" * 40 + b"a\x85R0", _global("torch", "Size") + b")\x81", b"0" * 5, b"1", b".",
    _global("torch", "FloatStorage") + b"}" + _text("value") + b"K\1sb0", _global("collections", "OrderedDict") + b")R}b0",
    _global("torch", "device") + _text("cpu") + b"\x85R0", _global("_codecs", "encode") + _text("a") + _text("idna") + b"\x86R0",
)  # fmt: skip


def pickled(chance: random.Random, tensors: dict[str, list[int]]) -> bytes:
    """A pickled state dict, often with something evil in it."""
    protocol = b"\x80" + bytes([chance.choice((2, 2, 2, 3, 4, 5, 0, 9))])
    parts = [b"}("]
    for place, (name, shape) in enumerate(tensors.items()):
        elements = chance.choice((*[8] * 12, 0, 2**40, -1))
        if chance.random() < 0.1:
            shape = [chance.choice((0, 1, 2**20, 2**33, 2**62, 10**30)) for _ in range(chance.randrange(4))]
        value = chance.choice(EVIL) + b"N" if chance.random() < 0.02 else _tensor(chance, str(place), shape, elements)
        parts.append(_text(name) + value)
    parts.append(b"u")
    if chance.random() < 0.3:
        parts.insert(chance.randrange(len(parts) + 1), chance.choice(EVIL))
    if chance.random() < 0.15:
        soup = bytes(chance.choice(OPCODES) for _ in range(chance.randrange(1, 60)))
        parts.insert(chance.randrange(len(parts) + 1), soup)
    return protocol + b"".join(parts) + b"."


OPCODES = b"()01234567FGIJKLMNPQRSTUVX]abcdeghijloqrstu}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8c\x8e\x8f\x90\x91\x93\x94\x95\x96\x97\x98"


def torch_file(chance: random.Random) -> bytes:
    """A file of `torch.save`, in either form, with damage."""
    names = [
        chance.choice(NAMES) if chance.random() < 0.1 else f"layers.{n}.w" for n in range(chance.choice((0, 1, 2, 3)))
    ]
    tensors = {name: [4, 2] for name in names}
    top = pickled(chance, tensors)
    roll = chance.random()
    if roll < 0.1:
        return b"\x80\x02" + noise(chance)
    if roll < 0.2:
        return b"PK\x03\x04" + noise(chance)
    if roll < 0.45:
        keys: Any = spoil(chance, [str(n) for n in range(len(tensors))], 0.05)
        version = chance.choice((1001, 1001, 1001, 1001, 10**5000 if chance.random() < 0.1 else 7))
        system = {"little_endian": True} if chance.random() < 0.95 else junk(chance)
        said = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, version, system)]
        try:
            said += [top, pickle.dumps(keys, 2)]
        except ValueError:
            said += [top]
        if chance.random() < 0.05:
            said[-1] = b"\x80\x02](" + chance.choice(EVIL) + b"e."
        storages = b"".join((8).to_bytes(8, "little") + bytes(32) for _ in tensors)
        return sometimes(chance, b"".join(said) + storages)
    stream = io.BytesIO()
    root = chance.choice(("archive/", "x/", "", "../", "/"))
    packing = zipfile.ZIP_DEFLATED if chance.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", packing) as archive:
        archive.writestr(zipfile.ZipInfo(f"{root}data.pkl"), top)
        for place in range(len(tensors)):
            archive.writestr(zipfile.ZipInfo(f"{root}data/{place}"), bytes(chance.choice((32, 32, 32, 32, 0, 31))))
        if chance.random() < 0.2:
            archive.writestr(zipfile.ZipInfo(f"{root}byteorder"), chance.choice((b"little", b"big", b"")))
    data = stream.getvalue()
    if chance.random() < 0.2:  # the directory at the end tells where members stand
        at = data.rfind(b"PK\x01\x02")
        at += chance.randrange(46)
        data = data[:at] + chance.choice((b"\xff", b"\0", b"\xff\xff\xff\xff")) + data[at + 1 :]
    return sometimes(chance, data)


def index_files(chance: random.Random) -> dict[str, bytes]:
    """The index of two shards, and the shards."""
    shards = [SHARD, SHARD.replace("00001-of", "00002-of")]
    files: dict[str, bytes] = {}
    weight_map: dict[str, Any] = {}
    for number, shard in enumerate(shards):
        entries, size = header({f"model.layers.{number}.w": ("F32", [2]), f"w{number}": ("F32", [1])})
        files[shard] = safetensors(json.dumps(entries).encode(), bytes(size))
        weight_map |= {name: shard for name in entries if name != "__metadata__"}
    index: dict[str, Any] = {"metadata": {"total_size": 24}, "weight_map": weight_map}
    match chance.randrange(4):
        case 0:
            weight_map[chance.choice((*weight_map, *NAMES))] = chance.choice((*NAMES, *shards, 7, None, ["a"]))
        case 1:
            weight_map[chance.choice(list(weight_map))] = "../secret.safetensors"
        case 2:
            index = spoil(chance, index, 0.15)
        case _:
            files.pop(chance.choice(shards)) if chance.random() < 0.5 else None
    return {**files, "model.safetensors.index.json": as_json(chance, index)}
