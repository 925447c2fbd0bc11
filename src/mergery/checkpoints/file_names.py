"""Which files of a model folder hold its weights. Decided from names alone.

The same rules serve a folder on disk and the file list of a model on the hub. They follow what transformers and diffusers
load, and refuse where they would have to guess.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from mergery.checkpoints.file_kinds import is_weight_file, other_form
from mergery.checkpoints.without_weights import explain_no_weights
from mergery.errors import CheckpointError, Where

STANDARD = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
MODEL, DIFFUSERS = "model", "diffusion_pytorch_model"  # what transformers and diffusers call weights

_PLAIN_NAME = re.compile(r"[^/\\:\0]+")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,})-of-(?P<total>\d{5,})\.(?P<form>\w+)")
_VARIANT = re.compile(r"(model|pytorch_model|diffusion_pytorch_model)\.(?!safetensors)[\w-]+\.(safetensors|bin)")
_SLICE = re.compile(r"consolidated\.\d\d\.pth")


@dataclass(frozen=True)
class FoundWeights:
    """The weights are in `files`, or in the shards that `index` names. `unread` are copies left aside."""

    files: tuple[str, ...]
    index: str | None
    unread: tuple[str, ...]

    @property
    def stem(self) -> str:
        """What a merged model calls its weights, so that the same library finds them."""
        return DIFFUSERS if (self.index or next(iter(self.files), "")).startswith(DIFFUSERS) else MODEL


def stem_of(name: str) -> str:
    """What the weights of a merge are called where the file `name` alone is a model: the same, unless libraries know it."""
    stem = name.rpartition(".")[0] or name
    if stem == DIFFUSERS:
        return stem
    known = stem.startswith(("model", "pytorch_model", "consolidated", "adapter_model"))
    return MODEL if known or _SHARD.fullmatch(name) else stem


def find_weights(names: Iterable[str], where: str) -> FoundWeights:
    """The weight files among the names of one folder; `where` is what messages call the folder."""
    names = list(names)
    top = sorted(name for name in names if "/" not in name)
    weights = [name for name in top if is_weight_file(name)]
    known = [name for name in top if name in weights or other_form(name)]
    for single in STANDARD:
        index = f"{single}.index.json"
        if single in top and index in top:
            raise CheckpointError(
                f"both {single} and {index} are here",
                where=Where(where),
                why="one of the two is left from an earlier save, and loaders differ in which they take",
                hint=f"delete the stale one, or name a file: {where}/{single}",
            )
        if single in top:
            return _found((single,), None, known)
        if index in top:
            return _found((), index, known)
    if "model_index.json" in top or not weights:
        raise explain_no_weights(names, where)
    return _found(_unnamed(weights, where), None, known)


def _found(files: tuple[str, ...], index: str | None, known: list[str]) -> FoundWeights:
    return FoundWeights(files, index, tuple(name for name in known if name not in files))


def _unnamed(weights: list[str], where: str) -> tuple[str, ...]:
    """The files that are meant where none has a standard name and no index is there.

    All shards of one model, or a single file; safetensors before others. A variant such as fp16 is never guessed.
    """
    safetensors = [name for name in weights if name.endswith(".safetensors")]
    others = [name for name in weights if name not in safetensors]
    for group in (safetensors, others):
        if shards := _all_shards(group, where):
            return shards
        preferred = [name for name in group if name == "adapter_model.bin"] or group
        if len(preferred) == 1 and not _VARIANT.fullmatch(preferred[0]):
            return (preferred[0],)
        if group and group is safetensors and not all(map(_VARIANT.fullmatch, group)):
            break
    if sum(bool(_SLICE.fullmatch(name)) for name in weights) > 1:
        raise CheckpointError(
            "the weights are cut into slices for several GPUs",
            where=Where(where),
            why=f"{', '.join(weights[:3])} each hold a slice of every tensor",
            hint="use the model's version for transformers, with model.safetensors",
        )
    raise CheckpointError(
        "which file holds the weights is not clear",
        where=Where(where),
        why=f"a model folder holds model.safetensors or pytorch_model.bin, or the index of their shards; here: {_few(weights)}",
        hint=f"name the file: {where}/{weights[0]}",
    )


def _all_shards(weights: list[str], where: str) -> tuple[str, ...]:
    """The shards 1 to N of N that stand here without an index. Raises CheckpointError where one is missing."""
    families: dict[tuple[str, ...], dict[int, str]] = {}
    for name in weights:
        if match := _SHARD.fullmatch(name):
            family = (match["stem"], match["total"], match["form"])
            families.setdefault(family, {})[int(match["number"])] = name
    missing = {
        family: sorted(set(range(1, min(int(family[1]), 10_000) + 1)) - set(found))
        for family, found in families.items()
    }
    whole = [found for family, found in families.items() if not missing[family]]
    if len(whole) == 1:
        return tuple(whole[0][number] for number in sorted(whole[0]))
    if len(whole) > 1:
        raise CheckpointError(
            f"the shards of {len(whole)} models are here",
            where=Where(where),
            why=f"{' and '.join(found[1] for found in whole)} begin one each, and no index says which is meant",
            hint="move one of them away",
        )
    for (stem, total, form), lost in missing.items():
        names = [f"{stem}-{number:0{len(total)}}-of-{total}.{form}" for number in lost]
        verb = "is" if len(lost) == 1 else "are"
        raise CheckpointError(
            f"{len(lost)} of {int(total)} shards {verb} missing: {_few(names)}",
            where=Where(where),
            why="there is no index either, so that every shard is needed",
            hint="download the model again, or wait until its download is complete",
        )
    return ()


def shards_of(index: dict[str, Any], names: Collection[str], where: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The index's map from tensor to shard, and the shards in order of name; `names` are the folder's files.

    A shard is named by a plain file name: no path, so that an index cannot reach outside its folder.
    """
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("the index has no `weight_map`", where=Where(where), hint="download the model again")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _PLAIN_NAME.fullmatch(shard) or shard in (".", ".."):
            raise CheckpointError(
                f"tensor {name!r} is said to stand in {shard!r}",
                where=Where(where),
                why="a shard is named by a plain file name within the folder",
                hint="do not use this model unless you know who wrote its index",
            )
    shards = tuple(sorted(set(weight_map.values())))
    if missing := [shard for shard in shards if shard not in names]:
        raise CheckpointError(
            f"{len(missing)} of {len(shards)} shards are missing: {_few(missing)}",
            where=Where(where),
            hint="download the model again, or wait until its download is complete",
        )
    family = {_family(shard) for shard in shards} - {None}
    if lost := [name for name in sorted(names) if name not in shards and _family(name) in family]:
        raise CheckpointError(
            f"shards are here that the index does not name: {_few(lost)}",
            where=Where(where),
            why="their tensors would be lost silently",
            hint="download or save the model again, with its index",
        )
    return weight_map, shards


def _family(shard: str) -> tuple[str, str] | None:
    """Stem and total of a shard's name; shards that share both were saved together."""
    match = _SHARD.fullmatch(shard)
    return (match["stem"], match["total"]) if match else None


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
