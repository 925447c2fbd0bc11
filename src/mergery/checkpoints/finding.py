"""A model's files found among the names of its folder, and its weights opened: on this machine or on the hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from mergery.checkpoints.base import Contents
from mergery.checkpoints.file_kinds import TRANSPORTED, is_weight_file, sort_files
from mergery.checkpoints.file_names import FoundWeights, find_weights, shards_of
from mergery.checkpoints.json_files import parse_object
from mergery.checkpoints.modules import ModuleFile, folders_with_weights, module_folders
from mergery.checkpoints.weights import WeightFile, Weights, join
from mergery.checkpoints.without_weights import deepspeed_pieces

Fetch = Callable[[str], bytes]
OpenFiles = Callable[[Sequence[str]], Iterable[WeightFile]]


def open_weights(names: Collection[str], where: str, fetch: Fetch, open_files: OpenFiles) -> tuple[Weights, Contents]:
    """The weights among the files `names` of a folder, and what else it holds.

    `fetch` gives a small file's content, `open_files` the headers of weight files; `where` is what messages call the model.
    """
    named = module_folders(names, fetch)
    modules = folders_with_weights(names, named)
    alone = bool(modules) and not any("/" not in name and is_weight_file(name) for name in names)
    found = FoundWeights((), None, ()) if alone else find_weights(names, where)
    files, weight_map, index = found.files, None, ""
    if found.index:
        index = f"{where}/{found.index}"
        weight_map, files = shards_of(parse_object(fetch(found.index), index, unique=True), names, index)
    opened = dict(zip(files, open_files(files), strict=True))
    unread = [name for name in found.unread if name not in files]
    main = join(opened, index, weight_map)
    behind: dict[str, WeightFile] = {}
    for folder in modules:
        inner = find_weights(
            [name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")], f"{where}/{folder}"
        )
        paths = [f"{folder}/{name}" for name in inner.files]
        behind |= {path: ModuleFile(file, folder) for path, file in zip(paths, open_files(paths), strict=True)}
        unread += [f"{folder}/{name}" for name in inner.unread]
    weights = join({**opened, **behind}) if behind else main
    emptied = deepspeed_pieces(names, where)
    if emptied is not None and any(0 in info.shape for info in weights.tensors.values()):
        raise emptied
    unread += [entry for file in weights.files.values() for entry in file.unread]
    rest = sort_files(names, {*weights.files, found.index or "", *unread}, named)
    return weights, Contents(
        rest.side, tuple(unread), rest.training, rest.unknown, modules, found.stem, TRANSPORTED in rest.ours
    )
