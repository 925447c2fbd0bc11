"""A plan as plain data for its reader: sources, what each part of the model gets, output, cost, warnings."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from mergery.errors import ranges
from mergery.graph.nodes import Computed, Gathered, Merged, Node, Stored
from mergery.graph.products import route_of
from mergery.graph.walking import is_computed, leaves
from mergery.planning.plan import Plan, no_collections
from mergery.report.advice import advice
from mergery.report.tokens import chat_sample
from mergery.run.estimate import MATRIX_RATE, device_memory, machine_warnings, merged_of, peak_memory, seconds
from mergery.run.workers import Options


@no_collections()
def explain(plan: Plan, options: Options = Options()) -> dict[str, Any]:
    """All that `mergery plan` shows, ready for JSON."""
    return {
        "models": {
            name: {"location": str(c.source), **_stamp(c.fingerprint()), "tensors": len(c.tensors)}
            for name, c in plan.checkpoints.items()
        },
        "parts": parts(plan, options),
        "output": {
            "tensors": len(plan.steps),
            "dtype": plan.dtype.torch,
            "shards": [{"file": shard.name, "bytes": shard.size} for shard in plan.layout.shards],
            "config": plan.recipe.donor,
            "tokenizer": plan.tokenizer.label,
            **({} if plan.adapter is None else {"adapter": plan.adapter.base or "a model that its inputs do not name"}),
            "vocabulary": plan.vocabulary.facts() if plan.vocabulary else None,
            "layers": plan.view.architecture.depth,
        },
        "changes": [
            {"model": change.model, "what": change.what, "loses": change.loss, "exact": not change.loss}
            for change in plan.changes
        ],
        "chat": chat_sample(plan),
        "dropped": dict(plan.dropped),
        "notes": list(plan.notes),
        "advice": advice(plan),
        "bytes_in": plan.bytes_in,
        "bytes_out": plan.bytes_out,
        "peak_memory": peak_memory(plan, options),
        "devices": [device.name for device in options.devices],
        "device_memory": device_memory(plan, options),
        "seconds": round(seconds(plan, options), 1),
        "warnings": [*plan.warnings, *machine_warnings(plan, options)],
        "digest": plan.digest,
    }


def _stamp(mark: dict[str, Any]) -> dict[str, Any]:
    return {"revision": mark["commit"]} if "commit" in mark else {}


def parts(plan: Plan, options: Options = Options()) -> list[dict[str, Any]]:
    """Tensors that get the same treatment, together: how many, which roles, which method with which settings."""
    groups: dict[str, dict[str, Any]] = {}
    known = plan.view.architecture.names
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
        for parsed, count in here.items():
            if parsed is not None:
                group["roles"][parsed.roles[0].split(".")[0]] += count
                group["layers"].add(parsed.layer)
    return [
        {
            **{name: value for name, value in group.items() if name != "work"},
            "roles": [role for role, _ in group["roles"].most_common()],
            "layers": ranges(sorted(group["layers"] - {None})),
            "seconds": round(group["work"] / MATRIX_RATE / options.workers, 1),
        }
        for group in groups.values()
    ]


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
    return with_settings(node, f"{node.method.name} of {names}{base}")


def with_settings(node: Merged, what: str) -> str:
    """`what (density 0.2, weight {math: 0.3, code: 0.7})`, as a recipe says it; a task by the name of its model."""
    tasks = [name for name, setting in node.method.settings.items() if setting.kind == "task"]
    named = {name: node.models[node.settings[name]] for name in tasks if node.settings[name] is not None}
    given = {**node.settings, **named}
    settings = ", ".join(f"{name} {_value(value, node.models)}" for name, value in given.items())
    return f"{what} ({settings})" if settings else what


def _value(value: Any, models: tuple[str, ...]) -> str:
    """A setting's value in words; one of each model by its name, since a list in a recipe is a gradient."""
    if isinstance(value, (np.ndarray, list, tuple)):
        items = [_value(item, models) for item in value]
        if len(set(items)) == 1:
            return items[0]
        return "{" + ", ".join(f"{name}: {item}" for name, item in zip(models, items, strict=True)) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
