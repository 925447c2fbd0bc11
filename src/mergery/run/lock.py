"""`mergery.lock.json`: what went in, what came out, and how to tell that neither has changed."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergery.checkpoints.nearby import near_path
from mergery.errors import CheckpointError
from mergery.planning.plan import Plan

NAME = "mergery.lock.json"
FORMAT = 1
KINDS = {"plan": str, "recipe": dict, "folder": str, "inputs": dict, "weights": list, "tensors": dict, "files": dict}
"""What a lock has whatever was merged, and as what."""


def make_lock(plan: Plan, tensors: Mapping[str, str], texts: Mapping[str, str], device: str = "cpu") -> dict[str, Any]:
    """The lock of a finished run. `tensors` are BLAKE3 digests of the files' tensors, `texts` SHA-256 of each small file.

    `device` is the kind of device that computed; another kind may give bytes that differ by one rounding.
    """
    from mergery.version import __version__

    refined = {"refined": plan.refined._asdict()} if plan.refined is not None else {}
    quantised = {"quantised": plan.quantised._asdict()} if plan.quantised is not None else {}
    return {
        "format": FORMAT,
        "mergery": __version__,
        "python": platform.python_version(),
        "plan": plan.digest,
        **refined,
        **quantised,
        "device": device,
        "only": list(plan.only),
        "seed": plan.recipe.seed,
        "recipe": plan.recipe.plain(),
        "folder": str(plan.recipe.folder.resolve()),
        "inputs": {name: checkpoint.fingerprint() for name, checkpoint in plan.checkpoints.items()},
        "dropped": dict(plan.dropped),
        "weights": [{"file": shard.name, "bytes": shard.size} for shard in plan.layout.shards],
        "tensors": dict(tensors),
        "files": dict(texts),
    }


def without_places(record: Mapping[str, Any]) -> dict[str, Any]:
    """A lock for others: folders of this machine by their last names alone."""

    def named(place: Any) -> Any:
        return Path(place).name if isinstance(place, str) and Path(place).is_absolute() else place

    def told(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: told(item) for key, item in value.items()}
        return [told(item) for item in value] if isinstance(value, list) else named(value)

    inputs = {name: told(mark) for name, mark in record["inputs"].items()}
    return {**record, "folder": ".", "inputs": inputs, "recipe": told(record["recipe"])}


def read_lock(folder: Path) -> dict[str, Any]:
    """The lock of a merged model's folder. Raises CheckpointError where it is missing or broken."""
    path = folder / NAME
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not folder.is_dir():
            near = near_path(str(folder))
            hint = f"did you mean {near!r}?" if near else "name one that `mergery merge` wrote"
            raise CheckpointError(f"there is no folder {str(folder)!r}", hint=hint) from None
        raise CheckpointError(
            f"{str(folder)!r} has no {NAME}", hint="only folders that Mergery wrote can be verified"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {str(path)!r}", why=str(error), hint="restore it, or merge again") from None
    if not isinstance(lock, dict) or lock.get("format") != FORMAT:
        raise CheckpointError(
            f"{str(path)!r} is of another format",
            why=f"this version reads format {FORMAT}",
            hint="use the version that wrote it",
        )
    if fault := fault_of(lock):
        raise CheckpointError(f"{str(path)!r} is damaged", why=fault, hint="restore it, or merge again")
    return lock


def fault_of(lock: Mapping[str, Any]) -> str:
    """What of a lock is not as `make_lock` makes it; nothing where it is sound."""
    for key, kind in KINDS.items():
        if not isinstance(lock.get(key), kind):
            return f"{key!r} is {'of another kind' if key in lock else 'missing'}"
    for key, kind in (("tensors", str), ("files", str), ("inputs", dict)):
        for name, mark in lock[key].items():
            if not isinstance(mark, kind):
                return f"{name!r} of {key!r} is of another kind"
    for weight in lock["weights"]:
        known = weight if isinstance(weight, dict) else {}
        if not isinstance(known.get("file"), str) or not isinstance(known.get("bytes"), int):
            return "an entry of 'weights' is no file with its bytes"
    refined = lock.get("refined", {"plan": "", "tensors": []})
    if not isinstance(refined, dict) or not isinstance(refined.get("tensors"), list) or "plan" not in refined:
        return "'refined' is of another kind"
    return ""
