"""Whether a folder that any tool wrote is what a recipe, or an adapter on its base, makes: tensor by tensor, to the bit.

An element is right to the bit, or within rounding: no further from what is made here than a few roundings of the folder's dtype
at the largest number that took part. peft's own roundings are replayed where an adapter is given. Where all that an adapter
changes is less than a rounding, nothing can be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mergery.architecture import read_architecture
from mergery.checkpoints import Checkpoint, open_checkpoint
from mergery.checkpoints.adapted import AdaptedCheckpoint
from mergery.dtypes import DType
from mergery.engine import Shared, Workspace, evaluator
from mergery.engine.computing import reading
from mergery.errors import CheckpointError, Where
from mergery.graph.equality import same_base
from mergery.graph.findings import Findings
from mergery.graph.nodes import Node, Stored
from mergery.graph.view import View
from mergery.kernels.threads import quiet_torch
from mergery.planning.plan import Plan, make_plan
from mergery.run.events import Notify, Proved, Tally
from mergery.run.workers import Options, Run, wake_kernels
from mergery.views.replay import WAYS
from mergery.views.respelling import respelled

HERE = "Mergery, with one rounding at the end"
SHARE = 0.01  # of what an adapter changes: a larger error than that is no other way to compute
EPSILONS = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}
ROUNDINGS_AT = 3.0  # of the largest number that took part: a product may be rounded, and so is its sum with the base
Outcome = Literal["proven", "within rounding", "wrong", "inconclusive"]


@dataclass(frozen=True)
class Found:
    """What is found of one tensor.

    ways:  what makes it to the bit.
    far:   how many elements are further off than rounding.
    worst: the largest difference, at `at` of the flattened tensor.
    off:   the length of all differences over that of what was changed; infinite where nothing was.
    seen:  whether what was changed is more than a rounding.
    """

    name: str
    ways: tuple[str, ...] = ()
    far: int = 0
    worst: float = 0.0
    at: int = 0
    off: float = 0.0
    seen: bool = False
    fault: str = ""

    @property
    def outcome(self) -> Outcome:
        if self.fault or (self.far and self.off > SHARE):
            return "wrong"
        return "inconclusive" if self.far else "proven" if self.ways else "within rounding"


@dataclass(frozen=True)
class Proof:
    """What is found of a folder: `way` is what made all of it, to the bit, where it is proven."""

    folder: str
    tensors: tuple[Found, ...]
    ways: tuple[str, ...]
    asked: int = field(default=0)  # tensors that are changed at all

    @property
    def way(self) -> str | None:
        return next((way for way in self.ways if all(way in each.ways for each in self.tensors)), None)

    @property
    def outcome(self) -> Outcome:
        found = {each.outcome for each in self.tensors}
        if "wrong" in found:
            return "wrong"
        if self.way is not None and any(each.seen for each in self.tensors):
            return "proven"
        unseen = self.asked and not any(each.seen for each in self.tensors)
        return "inconclusive" if "inconclusive" in found or unseen else "within rounding"


def prove_adapter(folder: str | Path, base: str, adapters: Sequence[str], options: Options, notify: Notify) -> Proof:
    """Compare a folder with what adapters make of a base, as Mergery and as peft rounds. Raises MergeryError."""
    with ExitStack() as stack:
        merged = stack.enter_context(open_checkpoint(folder, label="merged"))
        below = stack.enter_context(open_checkpoint(base, label="base"))
        opened = [stack.enter_context(open_checkpoint(each)) for each in adapters]
        dtype = most_common(merged)
        plans: dict[str, Plan] = {}
        for way in ("once", *WAYS):
            model = AdaptedCheckpoint(below, opened, way, dtype)
            plans[WAYS.get(way, HERE)] = make_plan({"models": {"base": model}, "merge": {"method": "passthrough"}})
        return _prove(str(folder), merged, plans, options, notify)


def prove_recipe(folder: str | Path, recipe: Any, options: Options, notify: Notify) -> Proof:
    """Compare a folder with what a recipe makes. Raises MergeryError."""
    plan = make_plan(recipe)
    try:
        with open_checkpoint(folder, label="merged") as merged:
            return _prove(str(folder), merged, {HERE: plan}, options, notify)
    finally:
        plan.close()


def most_common(checkpoint: Checkpoint) -> DType:
    """The dtype of most of a checkpoint's numbers. Raises CheckpointError where that is none that can be compared."""
    sizes: dict[DType, int] = {}
    for info in checkpoint.tensors.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.elements
    found = max(sizes, key=sizes.__getitem__)
    if found.torch not in EPSILONS or checkpoint.lost:
        codes = f"its weights are codes ({checkpoint.decoded}), which are about {checkpoint.lost:.1%} off"
        why, hint = (
            codes if checkpoint.lost else f"most of its numbers are {found}",
            "compare it before it is quantised",
        )
        raise CheckpointError("this model cannot be compared", where=Where(checkpoint.location), why=why, hint=hint)
    return found


def _prove(folder: str, merged: Checkpoint, plans: Mapping[str, Plan], options: Options, notify: Notify) -> Proof:
    most_common(merged)
    plan = plans[HERE]
    stored: dict[str, Node] = {name: Stored("merged", merged, info) for name, info in merged.tensors.items()}
    architecture = read_architecture(merged.tensors.values(), merged.config)
    view = respelled(plan.view, View("merged", stored, architecture, merged.config, merged), Findings())
    for each in (merged, *plan.checkpoints.values()):
        each.prepare()
    names = list(plan.view.nodes)
    found = [Found(name, fault="it is missing") for name in names if name not in view.nodes]
    found += [Found(name, fault="nothing makes it") for name in view.nodes if name not in plan.view.nodes]
    both = [name for name in names if name in view.nodes]
    tally = Tally("verifying", sum(view.nodes[name].elements for name in both), notify)
    shared = Shared(plan.recipe.seed)
    dtypes = {step.name: step.slot.info.dtype for step in plan.steps}

    def look(name: str) -> Found:
        ways = {way: each.view.nodes[name] for way, each in plans.items()}
        result = compare(name, view.nodes[name], ways, dtypes[name], shared)
        tally.add(view.nodes[name].elements)
        return result

    with quiet_torch(load=True), ThreadPoolExecutor(options.workers, thread_name_prefix="mergery") as pool:
        wake_kernels()
        run = Run(plan, _Nowhere(), options)
        run.statistics(pool, list(plan.steps))
        shared.statistics.update(run.shared.statistics)
        found += pool.map(look, both)
    changed = sum(not isinstance(plan.view.nodes[name], Stored) for name in both)
    proof = Proof(folder, tuple(found), tuple(plans), changed)
    notify(
        Proved(folder, proof.outcome, proof.way, [words_of(each) for each in proof.tensors if each.outcome != "proven"])
    )
    return proof


class _Nowhere:
    """A sink of which only the statistics of whole models are wanted."""

    done: Mapping[str, str] = {}

    def write(self, slot: Any, start: int, data: np.ndarray) -> None: ...

    def finished(self, steps: Any, digests: Any) -> None: ...


def compare(name: str, theirs: Node, ways: Mapping[str, Node], written: DType, shared: Shared) -> Found:
    """One tensor of a folder with what each way makes; `written` is the dtype in which a plan would write it."""
    first = next(iter(ways.values()))
    if theirs.shape != first.shape:
        return Found(name, fault=f"it is {list(theirs.shape)}, and should be {list(first.shape)}")
    dtype, whole = theirs.dtype, not theirs.dtype.floating
    if whole != (not first.dtype.floating) or (not whole and dtype.torch not in EPSILONS):
        return Found(name, fault=f"it is {dtype}, and should be {first.dtype if whole else written}")
    same = _apart(ways)
    made = {way: evaluator(ways[way], shared, Workspace()) for way in dict.fromkeys(same.values())}
    other, seeing = evaluator(theirs, shared, Workspace()), _Seeing(first, shared)
    right, result, square, change = dict.fromkeys(made, True), Found(name, seen=whole), 0.0, 0.0
    for start, stop in next(iter(made.values())).outputs():
        stored = np.empty((stop - start) * dtype.itemsize, dtype=np.uint8)
        other.compute(start, stop, stored, dtype)
        for way, each in made.items():
            if right[way]:
                out = np.empty_like(stored)
                each.compute(start, stop, out, dtype)
                right[way] = bool(np.array_equal(out, stored)) or (not whole and _alike(out, stored, dtype))
        if whole:
            continue
        values, largest, below = seeing.window(start, stop)
        difference = _difference(reading(other)(start, stop), values)
        unit = ROUNDINGS_AT * EPSILONS[dtype.torch] * largest
        result = _noted(result, start, difference, unit)
        square += float(np.square(difference, dtype=np.float64).sum())
        if below is not None:
            moved = np.abs(values - below)
            change += float(np.square(moved, dtype=np.float64).sum())
            result = replace(result, seen=result.seen or bool((moved > unit).any()))
    if whole and not right[next(iter(right))]:
        return replace(result, fault="its integers are others")
    off = (square / change) ** 0.5 if change and np.isfinite(square) else float("inf")
    return replace(result, ways=tuple(way for way in ways if right[same[way]]), off=off)


def _apart(ways: Mapping[str, Node]) -> dict[str, str]:
    """For each way the first one that makes the very same node: what no adapter touches is the same in all."""
    first: dict[str, str] = {}
    for way, node in ways.items():
        first[way] = next((each for each in first.values() if same_base(node, ways[each])), way)
    return first


def _alike(one: np.ndarray, other: np.ndarray, dtype: DType) -> bool:
    """Whether bytes are the same numbers: zeros of either sign are."""
    if dtype.torch == "bfloat16":
        first, second = (np.where(bits == 0x8000, 0, bits) for bits in (one.view(np.uint16), other.view(np.uint16)))
        return bool(np.array_equal(first, second))
    kind = {"float16": np.float16, "float32": np.float32, "float64": np.float64}[dtype.torch]
    return bool(np.array_equal(one.view(kind), other.view(kind)))


def _difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far numbers are from each other: not at all where both are the same, be it infinity or NaN; infinitely, where one
    is that and the other is not.
    """
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other)
    apart[np.isnan(apart)] = np.inf
    apart[(one == other) | (np.isnan(one) & np.isnan(other))] = 0.0
    return apart


def _noted(found: Found, start: int, difference: np.ndarray, unit: np.ndarray) -> Found:
    far, place = int((difference > unit).sum()), int(np.argmax(difference)) if difference.size else 0
    worst = float(difference[place]) if difference.size else 0.0
    found = replace(found, far=found.far + far)
    return replace(found, worst=worst, at=start + place) if worst > found.worst else found


class _Seeing:
    """Windows of a node, of the largest numbers that took part in it, and of what stood there before."""

    def __init__(self, node: Node, shared: Shared) -> None:
        self.own = evaluator(node, shared, Workspace())
        rows = [row for row in node.rows if row.shape == node.shape and row.dtype.floating]
        self.rows = [evaluator(row, shared, Workspace()) for row in rows]

    def window(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        values = reading(self.own)(start, stop)
        parts = [reading(row)(start, stop) for row in self.rows]
        largest = np.max([np.abs(values), *map(np.abs, parts)], axis=0)
        return values, largest, parts[0] if parts else None


def words_of(found: Found) -> str:
    """What is said of a tensor that is not proven."""
    if found.fault:
        return f"{found.name}: {found.fault}"
    share = f", {found.off:.1e} of what was changed" if found.off != float("inf") else ""
    if not found.far:
        return f"{found.name}: within rounding, at most {found.worst:.1e} off"
    return f"{found.name}: {found.far:,} elements are off by more than rounding, at most {found.worst:.3g} at {found.at}{share}"
