"""What is pinned: how each golden result is made, in the form that the JSON files keep."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

import mergery
from mergery.cli import main
from mergery.kernels import random
from tests.golden.mistakes import Mistake
from tests.golden.models import floats, numbers, read_tensors
from tests.golden.recipes import Case

HERE = Path(__file__).parent
WIDTH = 120
PROJECTIONS = 4
KEYS = [
    (0, "model.norm.weight", "a"),
    (0, "model.norm.weight", "b"),
    (0, "model.layers.0.self_attn.q_proj.weight", "a"),
    (7, "model.layers.0.self_attn.q_proj.weight", "a"),
    (2**63 - 1, "lm_head.weight", "math"),
    (1, "", "ü/模型"),
]


def expected(name: str) -> dict[str, Any]:
    """What one of the JSON files says."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def sha256(value: Any) -> str:
    """Of bytes, or of plain data as JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def tensor_hash(folder: Path) -> str:
    """Of all tensors, by name: name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name, (dtype, shape, raw) in sorted(read_tensors(folder).items()):
        digest.update(f"{name}\0{dtype}\0{shape}\0".encode() + raw)
    return digest.hexdigest()


# --- merges -----------------------------------------------------------------------------------------------------------


def exact(case: Case, models: Path, out: Path) -> dict[str, Any]:
    """A merge to the bit: its tensors, its config, and its tokenizer where it has one."""
    mergery.merge(case.write(models, out.name), out)
    found = {
        "files": len(list(out.glob("*.safetensors"))),
        "tensors": tensor_hash(out),
        "config": sha256(json.loads((out / "config.json").read_text())),
    }
    tokenizer = out / "tokenizer.json"
    return found | ({"tokenizer": sha256(json.loads(tokenizer.read_text()))} if tokenizer.exists() else {})


def packed(case: Case, models: Path, out: Path) -> dict[str, Any]:
    """Packed models to the bit, and the merge of one that is taken from them."""
    mergery.pack(case.write(models, out.name), out)
    source, taken = {"path": str(out), "task": "b"}, out.with_name(f"{out.name}, b")
    mergery.merge(
        {"models": {"task": source}, "merge": {"method": "passthrough"}, "output": {"dtype": "bfloat16"}}, taken
    )
    return {"packed": tensor_hash(out), "task b": tensor_hash(taken)}


def close(case: Case, models: Path, out: Path) -> dict[str, list[float]]:
    """Of what a merge changed of the base in some tensors: its length, and its products with fixed unit vectors.

    Matrix products and decompositions differ in the last bits from machine to machine, and so may the merged bytes.
    """
    mergery.merge(case.write(models, out.name), out)
    merged, base = read_tensors(out), read_tensors(models / case.kind / "base")
    assert merged.keys() == base.keys()
    found = {}
    for name in merged:
        if ".layers." in name and name.split(".")[2] != "1":
            continue
        change = (floats(*merged[name]) - floats(*base[name])).reshape(-1)
        units = [numbers((change.size,), "projection", name, index) for index in range(PROJECTIONS)]
        products = [float(np.sum(change * unit) / np.sqrt(np.sum(unit * unit))) for unit in units]
        found[name] = [float(f"{number:.9g}") for number in (np.sqrt(np.sum(change * change)), *products)]
    return found


# --- plans ------------------------------------------------------------------------------------------------------------


@contextmanager
def listening() -> Iterator[list[tuple[dict[str, Any], str]]]:
    """What a digest is of: the data that planning writes as JSON to hash it, wherever the code for it stands."""
    heard: list[tuple[dict[str, Any], str]] = []
    plain = json.dumps

    def dumps(value: Any, *arguments: Any, **options: Any) -> str:
        text = plain(value, *arguments, **options)
        if isinstance(value, dict) and "arithmetic" in value:
            heard.append((value, text))
        return text

    json.dumps = dumps
    try:
        yield heard
    finally:
        json.dumps = plain


def digest(case: Case, models: Path) -> dict[str, Any]:
    """A plan's digest, without the product's name and version that are a part of it, and what it is of."""
    with listening() as heard:
        made = mergery.plan(case.write(models, "plan"))
    made.close()
    ((_, text),) = heard
    assert made.digest == sha256(text.encode())
    content = json.loads(text)
    assert content.pop(mergery.__name__) == mergery.__version__
    return {"digest": sha256(content), "content": shortened(content)}


def shortened(value: Any) -> Any:
    """Plain data with the first 16 digits of each hash."""
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value]
    return value[:16] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else value


def shown(case: Case, models: Path) -> dict[str, Any]:
    """What `plan --json` prints, but for what depends on the machine, the place or the version."""
    code, out, err = say("plan", str(case.write(models, "plan")), "--json")
    assert code == 0, err
    facts = json.loads(out)
    for key in ("peak_memory", "device_memory", "seconds", "digest"):
        del facts[key]
    for part in facts["parts"]:
        del part["seconds"]
    for model in facts["models"].values():
        del model["location"]
    return facts


# --- keys and messages ------------------------------------------------------------------------------------------------


def keys() -> dict[str, Any]:
    """Keys of streams, and some of their numbers times 2^24, which are whole."""
    return {
        f"{seed} | {tensor} | {model}": {
            "key": (stream := random.key(seed, tensor, model)),
            "first": drawn(stream, 0),
            "from 65534": drawn(stream, 65534),
            "from 2^32 - 2": drawn(stream, 2**32 - 2),
        }
        for seed, tensor, model in KEYS
    }


def drawn(stream: int, start: int) -> list[int]:
    return [int(number) for number in random.uniform(stream, start, start + 4).numpy() * np.float32(2**24)]


def say(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process: its exit code, and what it prints."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def message(mistake: Mistake) -> dict[str, Any]:
    """What the command line says of a mistake, with `<folder>` for the folder that it was made in."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve() / "work"
        code, out, err = say(*mistake.prepare(folder))
        assert not out, f"{mistake}: {out}"
        return {"code": code, "says": err.replace(str(folder), "<folder>").splitlines()}


# --- writing ----------------------------------------------------------------------------------------------------------


def readable(value: Any, indent: int = 0) -> str:
    """JSON in which what fits on a line stands on one."""
    short = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or not value or len(short) + indent < WIDTH:
        return short
    inner, outer = " " * (indent + 1), " " * indent
    if isinstance(value, list):
        return "[\n" + ",\n".join(inner + readable(item, indent + 1) for item in value) + f"\n{outer}]"
    lines = [
        f"{inner}{json.dumps(key, ensure_ascii=False)}: {readable(item, indent + 1)}" for key, item in value.items()
    ]
    return "{\n" + ",\n".join(lines) + f"\n{outer}}}"
