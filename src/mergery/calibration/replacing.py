"""A plan some of whose tensors are no longer what the recipe makes of them: they were found by a search, and lie in files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mergery.calibration.model import StreamedModel
from mergery.checkpoints import open_checkpoint
from mergery.errors import PlanError
from mergery.graph.nodes import Stored
from mergery.planning.plan import Plan, Searched
from mergery.planning.steps import kinds_of
from mergery.run.output import write_at_once


def begin_work(work: Path, name: str, told: Any) -> None:
    """The folder of tensors that are found: that of an earlier run of the same work, or a new one. Raises PlanError.

    name: of the file in it that says what the work is. told: plain data that determines the tensors.
    """
    text = json.dumps(told, sort_keys=True) + "\n"
    mark = work / name
    if work.exists():
        if not mark.exists():
            raise PlanError(f"{str(work)!r} stands in the way", hint="rename it, or choose another output folder")
        if mark.read_text() == text:
            return
        shutil.rmtree(work)
    work.mkdir(parents=True)
    write_at_once(mark, text)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """A weight file, whole or not at all."""
    from safetensors.numpy import save_file

    unfinished = path.with_suffix(".part")
    save_file(
        {name: np.ascontiguousarray(value) for name, value in arrays.items()}, unfinished, {"format": "pt", **metadata}
    )
    unfinished.rename(path)


def as_stored(model: StreamedModel, weights: Mapping[str, Any], changed: Iterable[str]) -> dict[str, np.ndarray]:
    """New weights of a block under the names, and in the shapes, in which the output has them: float32.

    weights: all of the block's, by the names of parameters. changed: of which of these the tensors are wanted.
    """
    arrays: dict[str, np.ndarray] = {}
    wanted = {piece[0] for parameter in changed for piece in model.stored(parameter)}
    for parameter, value in weights.items():
        flat = value.detach().reshape(-1).numpy()
        for tensor, start, at, length in model.stored(parameter):
            if tensor not in wanted:
                continue
            if tensor not in arrays:
                arrays[tensor] = np.zeros(model.view.nodes[tensor].elements, np.float32)
            arrays[tensor][start : start + length] = flat[at : at + length]
    return {name: values.reshape(model.view.nodes[name].shape) for name, values in arrays.items()}


def digest_with(plan: Plan, told: Any) -> str:
    """The digest of a plan some of whose tensors are determined by plain data besides."""
    return hashlib.sha256(json.dumps([plan.digest, *told], sort_keys=True).encode()).hexdigest()


def with_replaced(stack: ExitStack, plan: Plan, files: Iterable[Path], told: Any, note: str) -> Plan:
    """The plan with the tensors of some weight files in place of its own.

    told: plain data that determines those tensors, for the digest. note: how they came to be, with their number for {count}.
    """
    nodes: dict[str, Stored] = {}
    for path in files:
        checkpoint = stack.enter_context(open_checkpoint(path, label="refined"))
        nodes |= {name: Stored("refined", checkpoint, info) for name, info in checkpoint.tensors.items()}
    steps = tuple(step._replace(node=nodes[step.name]) if step.name in nodes else step for step in plan.steps)
    return replace(
        plan,
        steps=steps,
        kinds=kinds_of(steps),
        digest=digest_with(plan, told),
        notes=(*(each for each in plan.notes if each not in plan.before), note.format(count=len(nodes))),
        before=(),
        refined=Searched(plan.digest, tuple(nodes)),
        view=replace(plan.view, nodes={**plan.view.nodes, **nodes}),
    )
