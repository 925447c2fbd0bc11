"""Modules of sentence-transformers: layers behind a model, each in a folder of its own beside the model's weights.

`modules.json` names the folders. A module's tensors are the checkpoint's under the folder's name: `2_Dense.linear.weight`
stands in `2_Dense/model.safetensors`, and in that file again when it is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.file_kinds import MODULES, is_weight_file
from mergery.checkpoints.weights import WeightFile

_FOLDER = re.compile(r"[\w-][\w .-]*", re.ASCII)


def module_folders(names: Collection[str], fetch: Callable[[str], bytes]) -> tuple[str, ...]:
    """The folders that `modules.json` names, in its order; none where there is no such file, or it cannot be read.

    A path that would lead out of the model's folder is none.
    """
    if MODULES not in names:
        return ()
    try:
        listed = json.loads(fetch(MODULES))
    except (ValueError, RecursionError):
        return ()
    paths = [entry.get("path") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return tuple(dict.fromkeys(path for path in paths if isinstance(path, str) and _FOLDER.fullmatch(path)))


def folders_with_weights(names: Collection[str], modules: Collection[str]) -> tuple[str, ...]:
    """The folders of modules that hold weights, folders within them included."""
    found = {}
    for name in sorted(names):
        folder, _, file = name.rpartition("/")
        if folder.partition("/")[0] in modules and is_weight_file(file):
            found[folder] = None
    return tuple(found)


def prefix_of(folder: str) -> str:
    """What the names of a module's tensors begin with."""
    return folder.replace("/", ".") + "."


class ModuleFile(WeightFile):
    """A weight file of a module, whose tensors bear the name of its folder."""

    def __init__(self, file: WeightFile, folder: str) -> None:
        self._file, self._prefix = file, prefix_of(folder)
        self.bytes, self.header_sha256 = file.bytes, file.header_sha256
        self.unread = tuple(f"{folder}/{entry}" for entry in file.unread)
        self.aliases = {self._prefix + name: self._prefix + other for name, other in file.aliases.items()}
        self.tensors = {
            info.name: info for info in (each._replace(name=self._prefix + each.name) for each in file.tensors.values())
        }

    def read_range(self, info: TensorInfo, start: int, stop: int, into: memoryview) -> None:
        self._file.read_range(self._file.tensors[info.name.removeprefix(self._prefix)], start, stop, into)
