"""From the names of a model's files to its tensors: the part that a folder and a model on the hub share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from mergery.checkpoints.file_names import find_weights, shards_of
from mergery.checkpoints.json_files import parse_object
from mergery.checkpoints.source import Source
from mergery.checkpoints.weights import WeightFile, Weights, join


def open_weight_file(source: Source, headers: dict[str, Any] | None = None) -> WeightFile:
    """One file's headers. The name tells the format; `.safetensors` is one, all others are torch's.

    `headers` remembers what has been read: of equal headers, only the first is.
    """
    if source.name.endswith(".safetensors"):
        from mergery.checkpoints.formats.safetensors import SafetensorsFile

        return SafetensorsFile(source, headers)
    from mergery.checkpoints.formats.torch_files import open_torch_file

    return open_torch_file(source)


def open_weights(
    names: Collection[str],
    where: str,
    fetch: Callable[[str], bytes],
    open_files: Callable[[Sequence[str]], Iterable[WeightFile]],
) -> tuple[Weights, tuple[str, ...]]:
    """The weights among the files `names`, and the weight files and entries left unread.

    `fetch` gives a small file's content (the index), `open_files` the headers of weight files; `where` is
    what messages call the model.
    """
    layout = find_weights(names, where)
    files, weight_map, index = layout.files, None, ""
    if layout.index:
        index = f"{where}/{layout.index}"
        weight_map, files = shards_of(parse_object(fetch(layout.index), index, unique=True), names, index)
    opened = dict(zip(files, open_files(files), strict=True))
    left = [name for name in layout.unread if name not in files]
    left += [entry for file in opened.values() for entry in file.unread]
    return join(opened, index, weight_map), tuple(left)
