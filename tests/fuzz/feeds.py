"""What each kind of hostile input is fed to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.checkpoints.byte_files import ByteFile
from mergery.checkpoints.config import Config
from mergery.checkpoints.finding import open_weights
from mergery.checkpoints.formats import open_weight_file
from mergery.checkpoints.json_files import parse_config
from mergery.checkpoints.weights import WeightFile, Weights, join
from mergery.errors import CheckpointError
from tests.fuzz.folders import CONFIG
from tests.fuzz.inputs import Case
from tests.fuzz.weights import header, safetensors

READ = 1 << 20  # bytes of tensors that are read where an input is accepted


class MemoryFile(ByteFile):
    """A weight file that was never on a disk."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self.data, self.size = name, data, len(data)

    def read_into(self, offset: int, into: memoryview) -> None:
        if not 0 <= offset <= offset + len(into) <= self.size:
            raise CheckpointError("the file ended early")
        into[:] = self.data[offset : offset + len(into)]


class MemoryFolder(Checkpoint):
    """A model folder that was never on a disk."""

    def __init__(self, label: str, config: dict[str, Any], weights: Weights) -> None:
        self.label = self.location = label
        self._config, self._weights = Config(config), weights

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._weights.tensors

    @property
    def config(self) -> Config:
        return self._config

    def read(self, name: str, start: int, stop: int, into: Any) -> None:
        self._weights.read(name, start, stop, into)


def sound() -> dict[str, bytes]:
    """The files of a tiny model without fault."""
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.w", "model.layers.1.mlp.w", "model.norm.weight"]
    entries, size = header(dict.fromkeys(names, ("F32", [4, 2])))
    weights = safetensors(json.dumps(entries).encode(), b"\0\0\x80\x3f" * (size // 4))
    return {"model.safetensors": weights, "config.json": json.dumps(CONFIG).encode()}


def _weights(case: Case, room: Path) -> None:
    ((name, data),) = case.files.items()
    _use(join({name: open_weight_file(MemoryFile(name, data))}))


def _use(weights: Weights) -> None:
    """Lay the tensors out again, and read the small ones."""
    import numpy as np

    from mergery.planning.layout import lay_out

    lay_out(weights.tensors.values(), 1 << 20, {"format": "pt"})
    left = READ
    for name, info in weights.tensors.items():
        if info.nbytes <= left and info.elements:
            weights.read(name, 0, info.elements, np.empty(info.nbytes, np.uint8))
            left -= info.nbytes


def _index(case: Case, room: Path) -> None:
    def open_files(names: Any) -> list[WeightFile]:
        return [open_weight_file(MemoryFile(name, case.files[name])) for name in names]

    weights, _ = open_weights(list(case.files), "model", lambda name: case.files[name], open_files)
    _use(weights)


def _config(case: Case, room: Path) -> None:
    from mergery.planning.plan import make_plan
    from mergery.report.explain import explain
    from mergery.run.workers import Options

    config = parse_config(case.files["config.json"], "config.json")
    files = sound()
    models = {
        name: MemoryFolder(
            name, own, join({"m": open_weight_file(MemoryFile("m.safetensors", files["model.safetensors"]))})
        )
        for name, own in (("a", config), ("b", CONFIG))
    }
    for merge in ({"method": "linear"}, {"stack": [{"models": {"a": "0-1"}}, {"models": {"b": 1}}]}):
        plan = make_plan({"models": models, "merge": merge, "output": {"config": "a"}})
        explain(plan, Options(1))


def _recipe(case: Case, room: Path) -> None:
    import yaml

    from mergery.planning.plan import make_plan
    from mergery.recipe.reading import load_recipe

    recipe = load_recipe(room / "recipe.yaml")
    yaml.safe_dump(recipe.plain(), allow_unicode=True)
    make_plan(recipe).close()


def _merge(case: Case, room: Path) -> None:
    from mergery import api
    from mergery.run.workers import Options

    api.merge(room / "case/recipe.yaml", room / "case/out", options=Options(1))


def _tokenizer(case: Case, room: Path) -> None:
    """Whatever a tokenizer's files hold, a merge copies them as they are, or, where the recipe asks for its tokens and they do
    not fit the rows, writes JSON in their place; then each reader of tokenizers has its turn.
    """
    _merge(case, room)
    asked = b"tokenizer:" in case.files["recipe.yaml"]
    for name in case.files:
        if name.startswith("a/") and "token" in name:
            copied = room / "case/out" / name.removeprefix("a/")
            if not (asked and not copied.exists()) and copied.read_bytes() != case.files[name]:
                assert asked and name.endswith(".json"), name
                json.loads(copied.read_bytes())
    for read in READERS:
        read(room / "case/a")


def _gguf(case: Case, room: Path) -> None:
    """A model in GGUF: planned, its small files made, and its small tensors decoded."""
    import numpy as np

    from mergery.checkpoints import open_checkpoint
    from mergery.planning.plan import make_plan

    with open_checkpoint(room / "x.gguf") as checkpoint:
        for name in checkpoint.files:
            text = checkpoint.file(name)
            if name.endswith(".json"):
                json.loads(text)
        left = READ
        for name, info in checkpoint.tensors.items():
            if info.nbytes <= left:
                checkpoint.read(name, 0, info.elements, np.empty(info.nbytes, np.uint8))
                left -= info.nbytes
        make_plan({"models": {"x": checkpoint}, "merge": {"method": "passthrough", "models": ["x"]}})


def _imatrix(case: Case, room: Path) -> None:
    """An importance matrix: read, its means finite, written again."""
    import numpy as np

    from mergery.checkpoints.gguf.file import GgufFile
    from mergery.checkpoints.gguf.imatrix import read_imatrix

    found = read_imatrix(room / "x.dat")
    assert all(np.isfinite(found.means(name)).all() and (found.means(name) > 0).all() for name in found.entries)
    again = GgufFile(MemoryFile("x.gguf", found.encoded()))
    assert len(again.tensors) == 2 * len(found.entries)


READERS: tuple[Callable[[Path], Any], ...] = ()  # what reads a tokenizer: each is called with a model's folder
FEEDS = {
    "safetensors": _weights, "torch": _weights, "index": _index, "config": _config, "recipe": _recipe,
    "mergekit": _recipe, "folder": _merge, "merged": _merge,
    "tokenizer": _tokenizer, "gguf": _gguf, "adapter": _recipe, "imatrix": _imatrix,
}  # fmt: skip
RECIPES = ("recipe", "mergekit")
WRITTEN = (*RECIPES, "gguf", "adapter", "imatrix")  # read from a file, which is written beforehand
ON_DISK = ("folder", "merged", "tokenizer")
