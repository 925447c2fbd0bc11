"""What a plan says to its reader, as plain data: sources, what each part of the model gets, bytes, memory, time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from mergery.dtypes import DType
from mergery.engine import Merging, Shared, Workspace, evaluator
from mergery.engine.merging import needed
from mergery.engine.ranks import BUCKETS, NARROW
from mergery.engine.reader import RUN, sampled_runs
from mergery.engine.workspace import KEPT
from mergery.graph.nodes import Computed, Gathered, Merged, Node, Stored, computed_below, is_computed, leaves
from mergery.kernels.devices import CPU, Device
from mergery.kernels.ranks import HALF
from mergery.method import Largest
from mergery.method.scope import Route
from mergery.planning.plan import Plan, no_collections
from mergery.report.words import spans
from mergery.run.workers import Options, needs_torch, uses_torch
from mergery.views.vocabulary.writing import chat_sample

# Rough rates of an ordinary machine, bytes a second: an estimate's purpose is to tell minutes from hours.
READ_RATE = 2.0e9
WRITE_RATE = 0.6e9
KERNEL_RATE = 1.5e9  # of inputs, a worker
TORCH_RATE = 0.15e9
MATRIX_RATE = 1.6e10  # operations in float64 a second, a worker
GPU_RATE = 6.0e9  # of inputs, a GPU, whatever the method: the bus is the limit

INTERPRETER = 45 << 20  # bytes, with numpy and Mergery loaded
KERNELS = 96 << 20  # bytes, with the compiled kernels loaded as well
TORCH = 230 << 20  # bytes that torch adds
GPU = 500 << 20  # bytes that its libraries for GPUs add
HEADER = 600  # bytes that a plan holds for each tensor of each model
TEMPORARIES = 4  # float32 intermediates for each row that methods on tensors hold at once
FUSED = 2  # the same of methods that have a compiled twin


@no_collections()
def explain(plan: Plan, options: Options = Options()) -> dict[str, Any]:
    """All that `mergery plan` shows, ready for JSON."""
    return {
        "models": {
            name: {"location": str(c.location), **_stamp(c.fingerprint()), "tensors": len(c.tensors)}
            for name, c in plan.checkpoints.items()
        },
        "parts": parts(plan, options),
        "output": {
            "tensors": len(plan.steps),
            "dtype": plan.dtype.torch,
            "shards": [{"file": shard.name, "bytes": shard.size} for shard in plan.layout.shards],
            "config": plan.recipe.donor,
            "tokenizer": plan.tokenizer.label,
            "vocabulary": plan.vocabulary.facts() if plan.vocabulary else None,
            "layers": plan.view.architecture.depth,
        },
        "changes": [
            {"model": change.model, "what": change.what, "loses": change.loss, "exact": not change.loss}
            for change in plan.changes
        ],
        "chat": chat_sample(plan),
        "dropped": dict(plan.dropped),
        "bytes_in": plan.bytes_in,
        "bytes_out": plan.bytes_out,
        "peak_memory": peak_memory(plan, options),
        "devices": [device.name for device in options.devices],
        "device_memory": device_memory(plan, options),
        "seconds": round(seconds(plan, options), 1),
        "warnings": list(plan.warnings),
        "digest": plan.digest,
    }


def _stamp(mark: dict[str, Any]) -> dict[str, Any]:
    return {"revision": mark["commit"]} if "commit" in mark else {}


def parts(plan: Plan, options: Options = Options()) -> list[dict[str, Any]]:
    """Tensors that get the same treatment, together: how many, which roles, which method with which settings."""
    groups: dict[str, dict[str, Any]] = {}
    known = plan.view.architecture.parts
    for steps in plan.kinds:
        first = steps[0]
        treatment = describe(first.node)
        group = groups.setdefault(
            treatment, {"what": treatment, "tensors": 0, "bytes": 0, "roles": Counter(), "layers": set(), "work": 0.0}
        )
        for node in merged_of(first.node):
            route = route_of(node)
            if route is not None:
                group["route"] = route.words
                group["work"] += len(steps) * route.operations
        group["tensors"] += len(steps)
        group["bytes"] += len(steps) * first.slot.info.nbytes
        here = Counter([known.get(step.slot.info.name) for step in steps])
        for part, count in here.items():
            if part is not None:
                group["roles"][part.roles[0].split(".")[0]] += count
                group["layers"].add(part.layer)
    return [
        {
            **{name: value for name, value in group.items() if name != "work"},
            "roles": [role for role, _ in group["roles"].most_common()],
            "layers": spans(sorted(group["layers"] - {None})),
            "seconds": round(group["work"] / MATRIX_RATE / options.workers, 1),
        }
        for group in groups.values()
    ]


def route_of(node: Merged) -> Route | None:
    """How a method on matrices makes all matrices of one tensor; the workspace is that of one call."""
    method, matrices = node.method, node.matrices
    if method.routing is None or matrices is None:
        return None
    route = method.routing(len(node.inputs), *matrices.sides, node.settings)
    return Route(route.words, matrices.count * route.operations, matrices.together * route.workspace)


def describe(node: Node) -> str:
    """One node in words: `ties of math, code on base (density 0.2, ...)`, or `copy of base`."""
    if isinstance(node, Stored):
        return f"copy of {node.model}"
    if isinstance(node, Computed):
        return node.what
    if isinstance(node, Gathered):
        return " and ".join(dict.fromkeys(map(describe, node.sources))) or "zeros"
    names = ", ".join(
        f"[{describe(row)}]" if is_computed(row) else name for name, row in zip(node.models, node.inputs, strict=True)
    )
    base = ""
    if node.base is not None:
        base = " on " + (f"[{describe(node.base)}]" if is_computed(node.base) else leaves(node.base)[0].model)
    tasks = [name for name, setting in node.method.settings.items() if setting.kind == "task"]
    named = {name: node.models[node.settings[name]] for name in tasks if node.settings[name] is not None}
    settings = ", ".join(f"{name} {_number(value)}" for name, value in {**node.settings, **named}.items())
    return f"{node.method.name} of {names}{base}" + (f" ({settings})" if settings else "")


def _number(value: Any) -> str:
    if isinstance(value, (np.ndarray, list, tuple)):
        items = [_number(item) for item in value]
        return items[0] if len(set(items)) == 1 else "[" + ", ".join(items) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def peak_memory(plan: Plan, options: Options = Options()) -> int:
    """Bytes of resident memory that the run is expected to reach, the interpreter included."""
    context = Shared(chunk=options.chunk, stage=options.stage)
    needs: dict[Any, list[int]] = {}  # bytes that a worker needs for a tensor, and how many such tensors there are
    tables: dict[int, int] = {}  # of statistics over whole models, in which the workers' own come together
    weaving = False
    shared = HEADER * sum(len(checkpoint.tensors) for checkpoint in plan.checkpoints.values())
    for steps in plan.kinds:
        made, dtype = steps[0].node, steps[0].slot.info.dtype
        if isinstance(made, Stored):
            stored = made.dtype.itemsize + (dtype.itemsize if dtype != made.dtype else 0)
            needs.setdefault(id(made), [min(made.elements, options.chunk) * stored, len(steps)])
            continue
        if not is_computed(made):
            continue
        weaving = True
        for below in computed_below(made):
            needs.setdefault(id(below), [workspace_bytes(made, dtype, context), 0])[1] += len(steps)
            break
        for node in merged_of(made):
            key = (node.merge, node.shape, *[row.dtype.code for row in node.rows], node.settings.get("scope"))
            if key not in needs:
                needs[key] = [workspace_bytes(made, dtype, context, options.devices[0]), 0]
            needs[key][1] += len(steps)
            if node.method.spans_model(node.settings) and ranks(node):
                tables[node.merge] = len(node.inputs) * (NARROW * HALF + BUCKETS) * 8
    gpu = options.devices[0] != CPU
    torch = (TORCH if gpu or needs_torch([step for step, *_ in plan.kinds]) else 0) + GPU * gpu
    return (
        (KERNELS if weaving else INTERPRETER)
        + torch
        + shared
        + max(tables.values(), default=0)
        + _largest(list(needs.values()), options.workers)
    )


def _largest(needs: list[list[int]], workers: int) -> int:
    """What so many workers hold: the largest tensors may go to different ones."""
    total = 0
    for nbytes, count in sorted(needs, reverse=True):
        taking = min(workers, count)
        total, workers = total + taking * nbytes, workers - taking
    return total


def ranks(node: Merged) -> bool:
    """Whether a weave asks for order statistics."""
    return any(isinstance(ask, Largest) and needed(ask, node.settings) for _, ask in node.method.asks)


def merged_of(node: Node) -> list[Merged]:
    """The weaves that a step is, or is sewn from; not those below them."""
    if isinstance(node, Gathered):
        return [node for source in node.sources for node in merged_of(source)]
    return [node] if isinstance(node, Merged) else []


def device_memory(plan: Plan, options: Options = Options()) -> int:
    """Bytes that the run is expected to take on each GPU; 0 on the processor."""
    device = options.devices[0]
    context = Shared(chunk=options.chunk, stage=options.stage)
    nodes = [node for step, *_ in plan.kinds for node in merged_of(step.node)] if device != CPU else []
    if not nodes:
        return 0
    tensors = 0
    for node in nodes:
        if node.method.gives == "tensor":
            reader = Merging(node, context, Workspace(device)).reader
            start, stop = next(reader.slices(0, reader.n), (0, 0))
            tensors = max(tensors, (stop - start) * 4 * TEMPORARIES * len(reader.rows))
    return -(-options.workers // len(options.devices)) * (device.memory + tensors)


def workspace_bytes(node: Merged | Gathered | Computed, dtype: DType, context: Shared, device: Device = CPU) -> int:
    """What one worker's buffers hold while it makes one tensor."""
    if isinstance(node, Computed):
        below = sum(workspace_bytes(row, row.dtype, context) for row in node.sources if not isinstance(row, Stored))
        return node.elements * 4 + node.memory + below
    if isinstance(node, Gathered):
        stages = [source for source in node.sources if not isinstance(source, Stored)]
        windows = sum(min(source.elements, evaluator(source, context, Workspace(device)).grain) for source in stages)
        below = sum(workspace_bytes(source, dtype, context, device) for source in stages)
        return (windows + min(node.elements, context.chunk)) * dtype.itemsize + below
    merging = Merging(node, context, Workspace(device))
    reader = merging.reader
    if not reader.n:
        return 0
    start, stop = next(reader.windows() if merging.reduces else reader.pieces(0, reader.n))
    total = (stop - start) * (reader.itemsize * len(reader.rows) + dtype.itemsize)
    if reader.keeps:
        total += min(KEPT, reader.n * reader.itemsize * len(reader.rows))
    if ranks(node):
        sample = min(reader.n, sampled_runs(reader.n) * RUN)
        total += reader.k * NARROW * HALF * 8 + sample * reader.itemsize * len(reader.rows)
    if device == CPU and (node.method.gives == "tensor" or reader.scope != "tensor"):
        start, stop = next(reader.slices(0, reader.n))
        route = route_of(node)
        held = TEMPORARIES if uses_torch(node) else FUSED
        rows = len(reader.rows) * (held if route is None else 1)
        total += (stop - start) * 4 * rows + (route.workspace if route is not None else 0)
    below = (workspace_bytes(row, row.dtype, context, device) for row in reader.rows if not isinstance(row, Stored))
    return total + sum(below)


def seconds(plan: Plan, options: Options = Options()) -> float:
    """A rough estimate of the run's time on an ordinary machine."""
    work, gpu = 0.0, options.devices[0] != CPU
    for steps in plan.kinds:
        for node in merged_of(steps[0].node):
            nbytes = len(steps) * sum([leaf.info.nbytes for leaf in leaves(node)])
            route = route_of(node)
            if route is not None:
                work += len(steps) * route.operations / MATRIX_RATE
                continue
            passes = 3 if node.method.gives == "consensus" else 2 if node.method.takes == "gram" else 1
            if gpu:
                work += passes * nbytes * options.workers / (len(options.devices) * GPU_RATE)
            else:
                work += nbytes * (passes / KERNEL_RATE if node.method.gives != "tensor" else 3 / TORCH_RATE)
    moving = plan.bytes_in / READ_RATE + plan.bytes_out / WRITE_RATE
    return 0.3 + max(moving, work / options.workers)
