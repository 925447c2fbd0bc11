"""Checks a merged folder against its lock, and makes sampled tensors again."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from mergery.checkpoints import open_checkpoint
from mergery.engine.workspace import windows
from mergery.errors import PlanError
from mergery.kernels.devices import CPU
from mergery.planning.digest import content_mark
from mergery.planning.layout import INDEXES, SHARD
from mergery.planning.plan import make_plan
from mergery.planning.steps import Step
from mergery.recipe.reading import load_recipe
from mergery.run.events import Notify, Tally, Verified
from mergery.run.lock import NAME, read_lock
from mergery.run.workers import Options, Run

READ = 1 << 22  # elements


class DigestSink:
    """Keeps only the digests of what is made; the tensors in `skipped` need not be made."""

    def __init__(self, skipped: set[str]) -> None:
        self.done = dict.fromkeys(skipped, "")

    def write(self, slot: Any, start: int, data: np.ndarray) -> None:
        pass

    def finished(self, steps: list[Step], digests: Any) -> None:
        self.done.update(digests)


def verify(folder: Path, sample: int, notify: Notify) -> list[str]:
    """What is wrong with a merged folder, one line each; see `mergery.api.verify`."""
    record = read_lock(folder)
    if sample:
        check_able(record)
    wrong: list[str] = []
    for name, digest in record["files"].items():
        path = folder / name
        if not path.exists():
            wrong.append(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            wrong.append(f"{name} has changed")
    weights = [weight["file"] for weight in record["weights"]]
    shards = {f"{match[1]}.safetensors.index.json" for name in weights if (match := SHARD.fullmatch(name))}
    known = {*record["files"], *weights, NAME, *INDEXES, *shards}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and str(path.relative_to(folder)) not in known:
            wrong.append(f"{path.relative_to(folder)} is not in the lock")
    checkpoint = open_checkpoint(folder, label="output", decode=False)
    expected: dict[str, str] = record["tensors"]
    wrong += [f"tensor {name!r} is missing" for name in expected if name not in checkpoint.tensors]
    wrong += [f"tensor {name!r} is not in the lock" for name in checkpoint.tensors if name not in expected]
    tally = Tally("verifying", sum(info.nbytes for info in checkpoint.tensors.values()), notify)
    for info in checkpoint.tensors.values():
        hasher = blake3()
        for start, stop in windows(info.elements, READ):
            data = np.empty((stop - start) * info.dtype.itemsize, dtype=np.uint8)
            checkpoint.read(info.name, start, stop, data)
            hasher.update(data.data)
            tally.add(data.size)
        if info.name in expected and hasher.hexdigest() != expected[info.name]:
            wrong.append(f"tensor {info.name!r} has changed")
    checkpoint.close()
    wrong += make_again(record, sample) if sample else []
    notify(Verified(folder, wrong))
    return wrong


def able(record: dict[str, Any]) -> list[str]:
    """The tensors of a locked merge that can be made again from its inputs alone: those that were not refined."""
    refined = (record.get("refined") or {"tensors": []})["tensors"]
    return [name for name in record["tensors"] if name not in refined]


def check_able(record: dict[str, Any]) -> None:
    """Raise PlanError where no tensor can be made again, before anything is read."""
    if "quantised" in record:
        why = "the merge is rounded to codes, of which the numbers before are not kept"
        hint = "verify without --sample; the same export into another folder writes the same bytes"
        raise PlanError("tensors of a quantised output are not made again", why=why, hint=hint)
    if not able(record):
        why = "each was moved, refined or trained beside the recipe, so that its inputs alone do not give it"
        hint = "verify without --sample; the same command into another folder writes the same bytes"
        raise PlanError("no tensor of this model can be made again", why=why, hint=hint)


def make_again(record: dict[str, Any], sample: int) -> list[str]:
    """Make some tensors again from the inputs. The plan's digest chooses, among what was not refined."""
    recipe = load_recipe(record["recipe"], folder=Path(record["folder"]))
    plan = make_plan(recipe, only=record.get("only", ()))
    try:
        marks = {name: content_mark(checkpoint.fingerprint()) for name, checkpoint in plan.checkpoints.items()}
        changed = [name for name, mark in record["inputs"].items() if marks.get(name) != content_mark(mark)]
        if changed:
            return [f"the input {name!r} has changed since the merge" for name in changed]
        refined = record.get("refined") or {"plan": record["plan"], "tensors": []}
        if plan.digest != refined["plan"]:
            raise PlanError(
                "the lock's plan cannot be made again with this version of Mergery",
                why=f"it was written by {record.get('mergery')}",
                hint="verify without --sample, or with that version",
            )
        names = [step.name for step in plan.steps]
        free = [name for name in names if name not in refined["tensors"]]
        chosen = random.Random(plan.digest).sample(free, min(sample, len(free)))
        sink = DigestSink(set(names) - set(chosen))
        for checkpoint in plan.checkpoints.values():
            checkpoint.prepare()
        Run(plan, sink, Options(device=record.get("device", CPU.kind))).execute()
        tensors = record["tensors"]
        return [f"tensor {name!r} comes out differently" for name in chosen if tensors.get(name) != sink.done[name]]
    finally:
        plan.close()
