"""What a run will take, told beforehand: bytes of memory, bytes of each GPU's memory, seconds."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

from mergery.engine import Shared, Workspace, evaluator, merging
from mergery.engine.ranks import BUCKETS, NARROW
from mergery.errors import size
from mergery.graph.nodes import Gathered, Merged, Node
from mergery.graph.products import route_of
from mergery.graph.walking import is_computed, leaves
from mergery.kernels import choice
from mergery.kernels.devices import CPU
from mergery.kernels.ranks import WIDTH
from mergery.planning.plan import Plan
from mergery.run.workers import Options, needs_torch

# Rough rates of an ordinary machine, bytes a second: an estimate's purpose is to tell minutes from hours.
READ_RATE = 2.0e9
WRITE_RATE = 0.6e9
KERNEL_RATE = 1.5e9  # of inputs, a worker
TORCH_RATE = 0.15e9
MATRIX_RATE = 3.0e10  # operations in float64 a second, a worker
GPU_RATE = 6.0e9  # of inputs, a GPU, whatever the method: the bus is the limit

READABLE_RATE = KERNEL_RATE / 8  # the same where numba is missing
GPUS = Path("/proc/driver/nvidia/gpus")  # one entry for each

INTERPRETER = 45 << 20  # bytes, with numpy and Mergery loaded
KERNELS = 96 << 20  # bytes, with the compiled kernels loaded as well
TORCH = 230 << 20  # bytes that torch adds
TORCH_GPU = 700 << 20  # bytes that its build for GPUs adds, which loads their libraries whatever it computes on
GPU = 90 << 20  # bytes that a GPU in use adds
HEADER = 600  # bytes that a plan holds for each tensor of each model


def peak_memory(plan: Plan, options: Options = Options()) -> int:
    """Bytes of resident memory that the run is expected to reach, the interpreter included."""
    device, shared = options.devices[0], Shared(chunk=options.chunk, stage=options.stage)
    needs: list[tuple[int, int]] = []  # bytes that a worker needs for a tensor, and how many such tensors there are
    tables = 0  # of statistics over whole models, in which the workers' own come together
    for steps in plan.kinds:
        node, dtype = steps[0].node, steps[0].slot.info.dtype
        needs.append((evaluator(node, shared, Workspace(device)).nbytes(dtype), len(steps)))
        for merged in merged_of(node):
            if merged.method.spans_model(merged.settings) and merged.method.ranks(merged.settings):
                tables = max(tables, len(merged.inputs) * (NARROW * WIDTH + BUCKETS) * 8)
    computes = any(is_computed(step.node) for step, *_ in plan.kinds)
    torch = device != CPU or needs_torch([step for step, *_ in plan.kinds])
    return (
        (KERNELS if computes else INTERPRETER)
        + (torch_bytes() if torch else 0)
        + GPU * (device != CPU)
        + HEADER * sum(len(checkpoint.tensors) for checkpoint in plan.checkpoints.values())
        + tables
        + _largest(needs, options.workers)
    )


@cache
def torch_bytes() -> int:
    """Bytes that the torch that is installed adds. It is not loaded for the answer."""
    found = importlib.util.find_spec("torch")
    folders = [Path(place, "lib") for place in found.submodule_search_locations or ()] if found else []
    gpu = any((folder / f"libtorch_{kind}.so").exists() for folder in folders for kind in ("cuda", "hip"))
    return TORCH_GPU if gpu else TORCH


def _largest(needs: list[tuple[int, int]], workers: int) -> int:
    """What so many workers hold: the largest tensors may go to different ones."""
    total = 0
    for nbytes, count in sorted(needs, reverse=True):
        taking = min(workers, count)
        total, workers = total + taking * nbytes, workers - taking
    return total


def merged_of(node: Node) -> list[Merged]:
    """The merged tensors that a step is, or is gathered from; not those below them."""
    if isinstance(node, Gathered):
        return [node for source in node.sources for node in merged_of(source)]
    return [node] if isinstance(node, Merged) else []


@cache
def machine_memory() -> int:
    """Bytes of memory that this machine has, or that the container may take."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            whole = min(whole, int(Path(limit).read_text()))
        except (OSError, ValueError):  # there is none, or it says `max`
            continue
    return whole


def machine_warnings(plan: Plan, options: Options = Options()) -> list[str]:
    """What of a run does not suit this machine: memory that it lacks, kernels that are not compiled."""
    warnings: list[str] = []
    need, have = peak_memory(plan, options), machine_memory()
    if need > have:
        one = peak_memory(plan, replace(options, threads=1))
        more = f"; with --threads 1 it is {size(one)}" if one < need else ""
        warnings.append(f"the merge takes about {size(need)} of memory, and this machine has {size(have)}{more}")
    computes = any(is_computed(step.node) for step, *_ in plan.kinds)
    if computes and choice() != "compiled":
        warnings.append("the kernels are not compiled: most merges take about eight times as long; see mergery doctor")
    return warnings


def device_memory(plan: Plan, options: Options = Options()) -> int:
    """Bytes that the run is expected to take on each GPU; 0 on the processor."""
    device, shared = options.devices[0], Shared(chunk=options.chunk, stage=options.stage)
    nodes = [node for step, *_ in plan.kinds for node in merged_of(step.node)] if device != CPU else []
    if not nodes:
        return 0
    tensors = max(merging(node, shared, Workspace(device)).temporaries for node in nodes)
    return -(-options.workers // len(options.devices)) * (device.memory + tensors)


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
                rate = KERNEL_RATE if choice() == "compiled" else READABLE_RATE
                work += nbytes * (passes / rate if node.method.gives != "tensor" else 3 / TORCH_RATE)
    moving = plan.bytes_in / READ_RATE + plan.bytes_out / WRITE_RATE
    return 0.3 + max(moving, work / options.workers)
