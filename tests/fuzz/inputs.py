# ruff: noqa: E501 - tables of odd values
"""Hostile inputs from seeds: valid files with damage that knows their structure, and plain noise.

`make(seed)` gives the same `Case` for the same seed on every machine. Nothing here looks at how Weft reads files.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NAMES = (
    "w", "", ".", "..", "../secret", "../../secret.safetensors", "/etc/passwd", "a\0b", "a\nb", "__metadata__", "\ud800",
    "\u202egnp", "a" * 3000, "model.layers.0.mlp.up_proj.weight", "model.layers.99999999999999999999.w", "~root/x",
    "model.layers.-1.w", "model.layers.0x1.w", "C:\\x", "%s%n{0}", "[[a]", "model.layers.٣.w", "\x1b[2J", "-rf", "a/b", "a:b",
    "x" * 300 + ".bin", "model.layers.4096.w", "...", "con", "w.w.w", "\ufeff",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, 1, 2, 4, 7, 8, 16, -1, 255, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(10**30), 1.0, 1.5,
    -0.0, 1e300, 1e-300, float("inf"), float("nan"), True, False, None, "1", "", [], {}, [1], "1e5", [[1]],
)  # fmt: skip
WORDS = ("F32", "BF16", "F16", "I8", "F4", "F8_E4M3", "f32", "F32 ", "BOOL", "U64", "C64", "X", "__proto__")
SHARD = "model-00001-of-00002.safetensors"


@dataclass(frozen=True)
class Case:
    """One input: what it is fed to, and its files by name."""

    kind: str
    files: dict[str, bytes]

    def dump(self) -> str:
        """As JSON, for a corpus: text where it is text, else base64."""
        files = {name: _readable(content) for name, content in self.files.items()}
        return json.dumps({"kind": self.kind, "files": files}, indent=1) + "\n"

    @classmethod
    def load(cls, text: str) -> Case:
        """The case that `dump` wrote."""
        data = json.loads(text)
        files = {
            name: content.encode() if isinstance(content, str) else base64.b64decode(content["base64"])
            for name, content in data["files"].items()
        }
        return cls(data["kind"], files)


def _readable(content: bytes) -> Any:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def make(seed: int, kind: str | None = None) -> Case:
    """The input of a seed."""
    chance = random.Random(seed)
    kinds, weights = zip(*((name, weight) for name, (weight, _) in KINDS.items()), strict=True)
    kind = kind or chance.choices(kinds, weights)[0]
    return Case(kind, KINDS[kind][1](chance))


# --- damage -------------------------------------------------------------------------------------------------------


def noise(chance: random.Random, most: int = 300) -> bytes:
    """Bytes without any structure."""
    return chance.randbytes(chance.randrange(most))


def damage(chance: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut, repeated or put in."""
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(data) + 1)
        size = chance.choice((1, 1, 2, 4, 8, 64))
        match chance.randrange(6):
            case 0:
                data = data[:at] + chance.randbytes(size) + data[at + size :]
            case 1:
                data = data[:at]
            case 2:
                data = data[:at] + data[at + size :]
            case 3:
                data = data[:at] + data[max(0, at - size) : at] * chance.choice((2, 3, 50)) + data[at:]
            case 4:
                data = (
                    data[:at]
                    + chance.choice((b"\0", b"\xff", b"\xed\xa0\x80", b"\n", b"-", b"{", b"[", b"9" * 40))
                    + data[at:]
                )
            case _:
                data = (
                    data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
                    if at < len(data)
                    else data
                )
    return data


def sometimes(chance: random.Random, data: bytes, share: float = 0.3) -> bytes:
    return damage(chance, data) if chance.random() < share else data


def junk(chance: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    pick = chance.randrange(10 if depth < 3 else 8)
    if pick < 4:
        return chance.choice(NUMBERS)
    if pick < 6:
        return chance.choice(NAMES)
    if pick < 8:
        return chance.choice(WORDS)
    if pick == 8:
        return [junk(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(NAMES): junk(chance, depth + 1) for _ in range(chance.randrange(4))}


def spoil(chance: random.Random, value: Any, share: float) -> Any:
    """A JSON value in which some parts, at any depth, are others."""
    if chance.random() < share:
        return junk(chance)
    if isinstance(value, dict):
        result = {}
        for key, item in value.items():
            key = chance.choice(NAMES) if chance.random() < share / 2 else key
            if chance.random() > share / 2:
                result[key] = spoil(chance, item, share)
        return result
    if isinstance(value, list):
        return [spoil(chance, item, share) for item in value if chance.random() > share / 2]
    return value


def as_json(chance: random.Random, value: Any) -> bytes:
    """JSON text; sometimes with a key twice, very deep, or with odd space around."""
    text = json.dumps(value, ensure_ascii=chance.random() < 0.7).encode("utf-8", "surrogatepass")
    roll = chance.random()
    if roll < 0.03:
        depth = chance.choice((60, 200, 900, *range(940, 1000, 3), 5000, 100_000))
        opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
        deep = opening * depth + b"1" + closing * depth * (chance.random() < 0.9)
        at = text.find(b":") + 1
        text = text[:at] + deep + b"," + b'"z":' * (text[:1] == b"{") + text[at:] if at else deep
    elif roll < 0.06 and text[:1] == b"{" and len(text) > 2:
        text = b"{" + text[1:-1] + b"," + text[1:]
    elif roll < 0.08:
        text = text.replace(b"1", b"9" * chance.choice((20, 400, 5000)), 1)
    elif roll < 0.1:
        text = chance.choice((b" ", b"\n", b"\xef\xbb\xbf", b"\0")) + text
    return sometimes(chance, text, 0.1)


# --- weights ------------------------------------------------------------------------------------------------------


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


# --- recipes ------------------------------------------------------------------------------------------------------

METHODS = (
    "linear", "slerp", "ties", "dare_ties", "task_arithmetic", "model_stock", "passthrough", "della", "karcher", "sce",
    "nuslerp", "breadcrumbs", "nearswap", "multislerp", "arcee_fusion", "ram", "nothing", "pcb", "emr", "negation",
    "onebit", "run_average", "geometric_median", "neuromerging",
)  # fmt: skip
SETTINGS = (
    "weight",
    "density",
    "t",
    "scale",
    "normalize",
    "gamma",
    "epsilon",
    "lambda",
    "int8_mask",
    "scope",
    "rescale",
    "x",
    "task",
    "by",
    "last",
    "k",
)
SCALARS: tuple[Any, ...] = (
    *NUMBERS, 0.5, "word", [0, 1], [0.0, True], [{"value": 0.5}], [{"where": {"role": "mlp", "layers": "0-1"}, "value": 1}],
    {"a": 0.5, "b": [0, 1]}, {"gradient": [0, 1], "outside": "first"}, [{"filter": "mlp", "value": [0, 1]}, {"value": 0.2}],
    [{"where": {"role": 5}, "value": 1}], [{"where": {"layers": "9" * 5000}, "value": 1}], {"a": {"a": {"a": 1}}},
    [{"where": {"name": "[!*?" * 20}, "value": 1}], [10**400, 0], "9" * 400,
)  # fmt: skip


def native(chance: random.Random) -> Any:
    """A recipe, mostly sound, as plain data."""
    models: dict[str, Any] = {"base": "./base", "a": "./a", "b": "./b"}
    if chance.random() < 0.2:
        models["c"] = {"path": chance.choice(("./a", *NAMES)), "revision": chance.choice(("v1", None, 3))}
        models["c"] |= chance.choice(({}, {"task": "a"}, {"task": 3}))
    if chance.random() < 0.1:
        models["r"] = chance.choice(("./*", "./[ab]", "*", "[", "./a*\0", "~/x*", "./run/step-?", "**/" * 3))
    if chance.random() < 0.2:
        models["s"] = {"method": chance.choice(METHODS), "models": ["a", chance.choice(("b", "s", "a", "z"))], "t": 0.5}
    if chance.random() < 0.2:
        key = chance.choice(("kv_heads", "hidden_size", "intermediate_size", "layers", "heads"))
        models["a"] = {"path": "./a", "convert": chance.choice(({key: chance.choice((1, 3, 8, *NUMBERS))}, {}, key))}
    merge: dict[str, Any] = {"method": chance.choice(METHODS), "base": "base"}
    for _ in range(chance.randrange(3)):
        merge[chance.choice(SETTINGS)] = chance.choice((0.5, [0, 1], chance.choice(SCALARS)))
    if chance.random() < 0.2:
        layers = chance.choice(("0-1", 0, "1", "1-0", "9" * 5000, "0-99999999999999999999", [0, 1], -1, "0-1-2"))
        merge["stack"] = [
            {"models": {"a": "0-1", "b": layers}, "base": chance.choice(("a", "b", "z"))},
            {"models": {"a": layers}},
        ]
    if chance.random() < 0.1:
        rule, number = chance.choice((("upscale", "drop"), ("insert", "every"), ("insert", "drop"), ("grow", "x")))
        merge["stack"] = {rule: chance.choice(("a", "z", ["a"])), number: chance.choice((1, 2, 99, *NUMBERS))}
    result: dict[str, Any] = {"models": models, "merge": merge}
    if chance.random() < 0.3:
        result["output"] = {
            "dtype": chance.choice(("bfloat16", "float16", "x", ["float16"], {"a": 1})),
            "shard_size": chance.choice(("1kB", "5GB", "9" * 400, "0", "1.5.5GB", "-1", 10**30, "٣GB")),
            "config": chance.choice(("a", "z", ["a"], None)),
        }
    if chance.random() < 0.1:
        result["seed"] = chance.choice(NUMBERS)
        result["drop"] = chance.choice((["*"], ["[z-a]", "[", "*a*" * 400], "x", [1], ["model.layers.*"]))
    return result


def mergekit(chance: random.Random) -> Any:
    """A mergekit file, mostly sound, as plain data."""
    parameters: dict[str, Any] = {"t": 0.5, "weight": 0.5}
    for _ in range(chance.randrange(3)):
        parameters[chance.choice(SETTINGS[:-1])] = chance.choice((0.5, 1, [0, 1], chance.choice(SCALARS)))
    result: dict[str, Any] = {"merge_method": chance.choice(METHODS), "parameters": parameters}
    models = [
        {"model": f"./{name}", "parameters": {"weight": chance.choice((0.5, 1, [0.5, 1], chance.choice(SCALARS)))}}
        for name in ("a", "b")
    ]
    if chance.random() < 0.2:
        path = chance.choice(
            (*NAMES, "a@b+c", "a@b@c", "./a@v1", {"model": {"path": "./a", "revision": 3}}, {"model": []})
        )
        models.append({"model": path})
    roll = chance.random()
    if roll < 0.6:
        result["models"] = models
    else:
        ranges = chance.choice(([0, 2], [0, 10**400], [1, 0], ["0", "2"], [0, 2**62], [0, 1, 2], None))
        result["slices"] = [
            {"sources": [{**model, "layer_range": chance.choice((ranges, [0, 2]))} for model in models]}
        ]
        if roll > 0.9:
            result = {**result, "modules": {"default": {"slices": result.pop("slices")}}}
    if chance.random() < 0.7:
        result["base_model"] = chance.choice(("./base", "./base", "./a", "~nobody/x", "\0", "a" * 5000))
    for key, values in {
        "dtype": ("bfloat16", "torch.float16", 16, ["float16"]), "random_seed": NUMBERS, "name": NAMES,
        "tokenizer_source": ("union", "base", "./a", "model:x", 3), "tokenizer": ({"source": {"model": "./a"}}, {"tokens": {"a": 1}}),
        "chat_template": ("auto", "chatml", 3), "x": (1,),
    }.items():  # fmt: skip
        if chance.random() < 0.08:
            result[key] = chance.choice(values)
    return result


def bomb(chance: random.Random) -> str:
    """YAML that is small and explodes, or is deep, or slow."""
    size = chance.choice((20, 64, 999, 3000))
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]", *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    stages = "".join(
        f"  s{n}: {{method: linear, models: [{', '.join(['a', *(f's{m}' for m in range(n))])}]}}\n" for n in range(28)
    )
    chain = "".join(f"  s{n}: {{method: linear, models: [a, s{n + 1}]}}\n" for n in range(size))
    return chance.choice((
        "\n".join(lines), "[" * size, "- " * size + "a", "{a: " * size, "? " * size, "&a [*a]", "a: &a {b: *a}", "!" * size,
        "\n".join(" " * n + "a:" for n in range(min(size, 200))), "%YAML 9.9\n---\na", "%TAG ! a:\n---\n!x a", "--- \n" * size,
        "models: {a: ./a, b: ./b}\nmerge: !!python/object/apply:os.system ['touch /evil']\n", "a: !!python/name:os.system\n",
        "x: !!binary aGVsbG8=\n", "x: !!set {a, b}\n", "<<: {a: 1}\n", "? [a]\n: 1\n", "a: 1\na: 2\n", "2001-01-01: x\n",
        "models:\n  a: ./a\n" + stages + "merge: {method: linear, models: [a, s27]}\n",
        f"models:\n  a: ./a\n  s{size}: ./b\n" + chain + "merge: {method: linear, models: [a, s0]}\n",
        "models: {" + ", ".join(f"a{n}: ./a" for n in range(min(size, 500))) + "}\nmerge: {method: linear}\n",
        "merge:\n  method: linear\n" + "".join(f"  weigth{n}: 1\n" for n in range(size)),
        "merge_method: linear\nmodels:\n" + "- {model: ./a, parameters: {weight: x}}\n" * size,
        "merge: {method: " + "x" * size * 30 + "}\n", "x: " + "9" * size + "\n", "x: -0x" + "f" * size + "\n", "x: 1:30:99\n",
        'models: {a: "\\0", b: "\\ud800"}\nmerge: {method: linear}\n', 'x: "\\U0010ffff\\udfff"\n', "x: 0b\n", "x: 0o9\n", "x: _\n",
        "---\n---\nmerge_method: linear\n", "merge_method: linear\n---\n[]\n", "merge_method: {}\n", "~\n", "x: .inf\n", "x: 1e999\n",
    ))  # fmt: skip


def as_yaml(chance: random.Random, value: Any) -> bytes:
    import yaml

    try:
        text = yaml.dump(
            value,
            Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper),
            sort_keys=False,
            allow_unicode=chance.random() < 0.5,
            default_flow_style=chance.random() < 0.3,
        )
    except ValueError:  # an int that is too long to print
        text = "models: {}"
    return sometimes(chance, text.encode("utf-8", "surrogatepass"), 0.15)


def recipe_text(chance: random.Random, make_plain: Callable[[random.Random], Any]) -> bytes:
    roll = chance.random()
    if roll < 0.04:
        return noise(chance)
    if roll < 0.14:
        return bomb(chance).encode("utf-8", "surrogatepass")
    plain = make_plain(chance)
    if roll < 0.5:
        plain = spoil(chance, plain, chance.choice((0.02, 0.05, 0.2)))
    if roll > 0.97:
        return as_yaml(chance, plain) + b"---\n" + as_yaml(chance, make_plain(chance))
    return as_yaml(chance, plain)


# --- folders ------------------------------------------------------------------------------------------------------

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 2, "vocab_size": 4,
    "tie_word_embeddings": False, "torch_dtype": "float32", "layer_types": ["full_attention", "full_attention"],
    "rope_scaling": {"factor": 2.0}, "eos_token_id": [1, 2], "quantization_config": None, "_name_or_path": "../../secret",
    "text_config": None, "mlp_only_layers": [0], "first_k_dense_replace": 1,
    "max_window_layers": 2,
}  # fmt: skip
SIDE = {
    "tokenizer.json": {"version": "1.0", "added_tokens": [{"id": 0, "content": "../../evil"}]},
    "tokenizer_config.json": {"chat_template": "{{ ''.__class__ }}", "tokenizer_class": "../evil", "auto_map": {"x": "../evil--y"}},
    "generation_config.json": {"eos_token_id": 1}, "special_tokens_map.json": {"eos_token": "</s>"},
}  # fmt: skip
ENTRIES = (  # names of files that a folder can hold
    "tokenizer.model", "modeling.py", "LICENSE", "a\nb.py", "-rf.py", "tokenizer..", "..tokenizer.py", "*.py", "weft.lock.json",
    "additional_chat_templates/x.jinja", "additional_chat_templates/..jinja", "model.bin", "x\x1b[2J.tiktoken", "journal.jsonl",
    "README.md", "ü.py", "CON.py", "x.gguf", "optimizer.pt", "\\..\\evil.py", "adapter_model.bin", ".x.tmp", "x.safetensors",
)  # fmt: skip


def model(chance: random.Random, hostile: bool) -> dict[str, bytes]:
    """The files of a tiny model."""
    config: Any = {key: value for key, value in CONFIG.items() if chance.random() < 0.8}
    side: dict[str, Any] = dict(SIDE)
    files: dict[str, bytes] = {}
    if hostile:
        config = spoil(chance, config, chance.choice((0.02, 0.1, 0.3)))
        side = {name: spoil(chance, value, 0.1) for name, value in side.items()}
        for _ in range(chance.randrange(3)):
            files[chance.choice(ENTRIES)] = noise(chance, 20)
    else:
        config = CONFIG
    if hostile and chance.random() < 0.25:
        files |= index_files(chance)
    elif hostile and chance.random() < 0.3:
        files["model.safetensors"] = safetensors_file(chance)
    elif hostile and chance.random() < 0.1:
        files["pytorch_model.bin"] = torch_file(chance)
    else:
        entries, size = header(tiny(chance))
        values = b"".join(struct.pack("<f", chance.uniform(-1, 1)) for _ in range(size // 4))
        files["model.safetensors"] = safetensors(json.dumps(entries).encode(), values)
    files["config.json"] = as_json(chance, config) if hostile else json.dumps(config).encode()
    for name, value in side.items():
        files[name] = as_json(chance, value) if hostile else json.dumps(value).encode()
    return files


def folder(chance: random.Random) -> dict[str, bytes]:
    """Two models, one of which is hostile and gives names, config and tokenizer."""
    files = {f"a/{name}": content for name, content in model(chance, True).items()}
    files |= {f"b/{name}": content for name, content in model(chance, False).items()}
    stack = ", stack: [{models: {a: 0-1}}, {models: {a: 1}}]" if chance.random() < 0.3 else ""
    method = "passthrough" if stack else "linear"
    text = (
        f"models: {{a: ./a{'' if stack else ', b: ./b'}}}\nmerge: {{method: {method}{stack}}}\noutput: {{config: a}}\n"
    )
    return {**files, "recipe.yaml": text.encode()}


def merged(chance: random.Random) -> dict[str, bytes]:
    """Two sound models, and a hostile unfinished output of their merge."""
    files = {f"{name}/{file}": content for name in "ab" for file, content in model(chance, False).items()}
    files["recipe.yaml"] = b"models: {a: ./a, b: ./b}\nmerge: {method: linear}\noutput: {shard_size: 40}\n"
    lines = [junk(chance) for _ in range(chance.randrange(4))]
    if chance.random() < 0.7:  # the runner puts the plan's digest here
        facts = (
            {"facts": {"inputs": junk(chance)}}
            if chance.random() < 0.3
            else {"done": {"model.norm.weight": junk(chance)}}
        )
        lines = [{"digest": "DIGEST"}, facts, {"done": junk(chance)}, *lines][: chance.randrange(1, 5)]
    journal = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    files["out.partial/journal.jsonl"] = sometimes(chance, journal)
    if chance.random() < 0.5:
        files["out.partial/" + chance.choice((*ENTRIES, "model-00001-of-00004.safetensors"))] = noise(chance)
    return files


KINDS: dict[str, tuple[int, Callable[[random.Random], dict[str, bytes]]]] = {
    "safetensors": (300, lambda chance: {"x.safetensors": safetensors_file(chance)}),
    "torch": (250, lambda chance: {"x.bin": torch_file(chance)}),
    "index": (120, index_files),
    "config": (60, lambda chance: {"config.json": as_json(chance, spoil(chance, CONFIG, chance.choice((0.05, 0.3))))}),
    "recipe": (130, lambda chance: {"recipe.yaml": recipe_text(chance, native)}),
    "mergekit": (130, lambda chance: {"recipe.yaml": recipe_text(chance, mergekit)}),
    "folder": (15, folder),
    "merged": (6, merged),
}
