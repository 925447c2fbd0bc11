"""Which files of a model folder hold its weights, and which stand beside them. Decided from names alone.

The same rules serve a folder on disk and the file list of a model on the hub. They follow what transformers
loads, and refuse where it would have to guess.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mergery.errors import CheckpointError, Where

SIDE_FILES = (
    # tokenizers
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "vocab.bpe", "encoder.json", "bpe.codes", "tekken.json",
    "tokenizer.model", "spiece.model", "*.bpe.model", "*.spm", "*.tiktoken",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*",
    # how the model is run
    "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "image_processor_config.json", "video_preprocessor_config.json", "adapter_config.json", "*.py",
    # papers
    "LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*", "README.md",
)  # fmt: skip
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")
TRAINING_STATE = ("training_args.bin", "optimizer*", "scheduler*", "scaler*", "rng_state*")  # never weights

_PLAIN_NAME = re.compile(r"[^/\\:\0]+")
_SHARD = re.compile(r"(?P<stem>.+)-\d{5,}-of-(?P<total>\d{5,})\.\w+")
_VARIANT = re.compile(r"(model|pytorch_model|diffusion_pytorch_model)\.(?!safetensors)[\w-]+\.(safetensors|bin)")


@dataclass(frozen=True)
class FoundWeights:
    """The weights are in `files`, or in the shards that `index` names. `unread` are copies left aside."""

    files: tuple[str, ...]
    index: str | None
    unread: tuple[str, ...]


def is_side_file(name: str) -> bool:
    """Whether the file goes with a model but holds no weights. `config.json` has its own place."""
    return any(fnmatchcase(name, pattern) for pattern in SIDE_FILES) and name.count("/") <= 1


def is_weight_file(name: str) -> bool:
    """Whether the name is that of a weight file, and not of an optimizer's or trainer's state."""
    return name.endswith(WEIGHT_SUFFIXES) and not any(fnmatchcase(name, pattern) for pattern in TRAINING_STATE)


def find_weights(names: Iterable[str], where: str) -> FoundWeights:
    """The weight files among the names of one folder; `where` is what messages call the folder."""
    top = sorted(name for name in names if "/" not in name)
    weights = [name for name in top if is_weight_file(name)]
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = f"{single}.index.json"
        if single in top and index in top:
            raise CheckpointError(
                f"both {single} and {index} are here",
                where=Where(where),
                why="one of the two is left from an earlier save, and loaders differ in which they take",
                hint=f"delete the stale one, or name a file: {where}/{single}",
            )
        if single in top:
            return _found((single,), None, weights)
        if index in top:
            return _found((), index, weights)
    return _found((_only_one(weights, where),), None, weights)


def _found(files: tuple[str, ...], index: str | None, weights: list[str]) -> FoundWeights:
    return FoundWeights(files, index, tuple(name for name in weights if name not in files))


def _only_one(weights: list[str], where: str) -> str:
    """The file that is meant where none has a standard name; a variant such as fp16 is never guessed."""
    if shards := [name for name in weights if _SHARD.fullmatch(name)]:
        raise CheckpointError(
            f"there are {len(shards)} shards, but no index",
            where=Where(where),
            why=f"{shards[0]} needs a `model.safetensors.index.json` that says which tensor stands where",
            hint="download or save the model again, with its index",
        )
    safetensors = [name for name in weights if name.endswith(".safetensors")]
    found = safetensors or [name for name in weights if name == "adapter_model.bin"]
    if len(found) == 1 and not _VARIANT.fullmatch(found[0]):
        return found[0]
    if not weights:
        raise CheckpointError("no weights here", where=Where(where), why=_expected())
    raise CheckpointError(
        "which file holds the weights is not clear",
        where=Where(where),
        why=f"{_expected()}; here: {', '.join(weights)}",
        hint=f"name the file: {where}/{weights[0]}",
    )


def _expected() -> str:
    return "a model folder holds model.safetensors or pytorch_model.bin, or the index of their shards"


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
