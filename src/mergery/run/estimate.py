"""What a run will take, told beforehand: bytes of memory, bytes of each GPU's memory, seconds."""

from __future__ import annotations

from typing import Any

from mergery.dtypes import DType
from mergery.engine import Merging, Shared, Workspace, evaluator
from mergery.engine.merging import needed
from mergery.engine.ranks import BUCKETS, NARROW
from mergery.engine.reader import RUN, sampled_runs
from mergery.engine.workspace import KEPT
from mergery.graph.nodes import Computed, Gathered, Merged, Node, Stored
from mergery.graph.walking import computed_below, is_computed, leaves
from mergery.kernels.devices import CPU, Device
from mergery.kernels.ranks import HALF
from mergery.method import Largest
from mergery.method.scope import Route
from mergery.planning.plan import Plan
from mergery.run.workers import Options, needs_torch, uses_torch

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
FUSED = 2  # the same of methods that have a compiled version


def route_of(node: Merged) -> Route | None:
    """How a method on matrices makes all matrices of one tensor; the workspace is that of one call."""
    method, matrices = node.method, node.matrices
    if method.routing is None or matrices is None:
        return None
    route = method.routing(len(node.inputs), *matrices.sides, node.settings)
    return Route(route.words, matrices.count * route.operations, matrices.together * route.workspace)


def peak_memory(plan: Plan, options: Options = Options()) -> int:
    """Bytes of resident memory that the run is expected to reach, the interpreter included."""
    context = Shared(chunk=options.chunk, stage=options.stage)
    needs: dict[Any, list[int]] = {}  # bytes that a worker needs for a tensor, and how many such tensors there are
    tables: dict[int, int] = {}  # of statistics over whole models, in which the workers' own come together
    computes = False
    shared = HEADER * sum(len(checkpoint.tensors) for checkpoint in plan.checkpoints.values())
    for steps in plan.kinds:
        made, dtype = steps[0].node, steps[0].slot.info.dtype
        if isinstance(made, Stored):
            stored = made.dtype.itemsize + (dtype.itemsize if dtype != made.dtype else 0)
            needs.setdefault(id(made), [min(made.elements, options.chunk) * stored, len(steps)])
            continue
        if not is_computed(made):
            continue
        computes = True
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
        (KERNELS if computes else INTERPRETER)
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
    """Whether a method asks for order statistics."""
    return any(isinstance(ask, Largest) and needed(ask, node.settings) for _, ask in node.method.asks)


def merged_of(node: Node) -> list[Merged]:
    """The merged tensors that a step is, or is gathered from; not those below them."""
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
