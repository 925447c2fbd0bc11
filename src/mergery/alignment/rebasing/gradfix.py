"""GradFix: of what a fine-tune has learned, the part that goes down the new base's own loss on a few texts.

    B + s m * (X - A),    m = [sign(X - A) = sign(g)],   or   B + s sign(g) * |X - A|

g is the gradient of the new base's log-likelihood on the data, summed over texts, or the sum of its signs (arXiv 2510.09658).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mergery.alignment.rebasing.options import RebaseOptions
from mergery.calibration.opening import opened_checkpoint
from mergery.calibration.options import CalibrationOptions
from mergery.calibration.replacing import write_arrays
from mergery.calibration.running import measure
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.base import Checkpoint
from mergery.dtypes import F32
from mergery.engine import Shared, Workspace, evaluator
from mergery.graph.nodes import Merged, Node
from mergery.planning.plan import Plan
from mergery.planning.steps import Step
from mergery.run.events import Notify

GRADIENTS = "gradients"
KINDS = {"mean": "gradient", "majority": "sign"}


def masked(change: np.ndarray, gradient: np.ndarray, mask: str) -> np.ndarray:
    """The part of a change that goes down the loss; with `turn`, what goes up is turned round. Float64."""
    change = change.astype(np.float64)
    signs = np.sign(gradient)
    return np.abs(change) * signs if mask == "turn" else np.where(np.sign(change) == signs, change, 0.0)


def masked_files(
    plan: Plan, options: RebaseOptions, data: str, work: Path, threads: int, notify: Notify
) -> Iterator[Path]:
    """Files of the tensors of a plan by `analogy` of [old, finetune] on the base new, with changes masked."""
    kind = KINDS[options.vote]
    folder = work / GRADIENTS
    if not folder.exists():
        wanted = CalibrationOptions((kind,), options.samples, options.length, "empirical", options.seed, threads)
        with opened_checkpoint(plan.checkpoints["new"]) as opened:
            measure(opened, data, folder, options=wanted, on_event=notify)
    with open_checkpoint(folder) as gradients:
        for number, (layer, steps) in enumerate(by_layer(plan).items()):
            path = work / f"{number:05d}.safetensors"
            if not path.exists():
                arrays = dict(_masked(steps, gradients, kind, options))
                if not arrays:
                    continue
                write_arrays(path, arrays, {"layer": str(layer)})
            yield path


def by_layer(plan: Plan) -> Mapping[int | None, list[Step]]:
    """The steps of a plan by the layer that they are of."""
    found: dict[int | None, list[Step]] = {}
    for step in plan.steps:
        found.setdefault(plan.view.architecture.names[step.name].layer, []).append(step)
    return found


def _masked(
    steps: list[Step], gradients: Checkpoint, kind: str, options: RebaseOptions
) -> Iterator[tuple[str, np.ndarray]]:
    for step in steps:
        info, node = gradients.tensors.get(f"{step.name}.{kind}"), step.node
        if info is None or info.shape != node.shape or not isinstance(node, Merged) or node.base is None:
            continue
        gradient = np.empty(info.elements, np.float32)
        gradients.read(info.name, 0, info.elements, gradient.view(np.uint8))
        base, old, tuned = (_values(each).astype(np.float64) for each in (node.base, *node.inputs))
        yield (
            step.name,
            (base + options.scale * masked(tuned - old, gradient, options.mask)).astype(np.float32).reshape(node.shape),
        )


def _values(node: Node) -> Any:
    making, values = evaluator(node, Shared(), Workspace()), np.empty(node.elements, np.float32)
    making.prepare()
    for start, stop in making.outputs():
        making.compute(start, stop, values[start:stop].view(np.uint8), F32)
    return values
