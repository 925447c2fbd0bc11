"""How a tensor of the output comes to be: its nodes as a tree, as plain data and in words."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from mergery.errors import RecipeError, did_you_mean
from mergery.graph.nodes import Computed, Gathered, Merged, Node, Stored
from mergery.planning.plan import Plan
from mergery.planning.steps import Step
from mergery.report.explain import with_settings
from mergery.report.words import several

RANGES = 6  # of a gathered tensor that are shown


def trees(plan: Plan, wanted: str) -> list[dict[str, Any]]:
    """The trees of the tensors with a name, or of all that fit a pattern. Raises RecipeError where there is none."""
    steps = [step for step in plan.steps if step.name == wanted]
    steps = steps or [step for step in plan.steps if fnmatch.fnmatchcase(step.name, wanted)]
    if not steps:
        raise RecipeError(f"the output has no tensor {wanted!r}", hint=_near(wanted, plan))
    return [_of_step(plan, step) for step in steps]


def _near(wanted: str, plan: Plan) -> str:
    """A name that differs in little, whatever its numbers: there may be 100,000, of few kinds."""
    kinds = {re.sub(r"\d+", "0", step.name): step.name for step in reversed(plan.steps)}
    near = did_you_mean(re.sub(r"\d+", "0", wanted), kinds)
    for kind, name in kinds.items():
        if near == did_you_mean(kind, [kind]):
            return did_you_mean(name, [name])
    return f"such as {plan.steps[0].name!r}, or a pattern such as '*.0.*'"


def _of_step(plan: Plan, step: Step) -> dict[str, Any]:
    info, shard, _ = step.slot
    written = {"dtype": info.dtype.torch, "file": plan.layout.shards[shard].name}
    return {"tensor": info.name, "written": written, "node": _of_node(step.node, {})}


def _of_node(node: Node, known: dict[int, int]) -> dict[str, Any]:
    """A node and, as `inputs`, all below it. Where it has stood before, `above` is its number there, and no inputs follow."""
    facts: dict[str, Any] = {"kind": type(node).__name__.lower(), "dtype": node.dtype.torch, "shape": list(node.shape)}
    if isinstance(node, Stored):
        return {**facts, "name": node.info.name, "model": node.model}
    if id(node) in known:
        return {**facts, "name": node.name, "above": known[id(node)]}
    known[id(node)] = len(known) + 1
    facts |= {"name": node.name, "number": known[id(node)]}
    if isinstance(node, Merged):
        known_of = [f"{each.kind} of {name}" for each in node.statistics for name in node.models]
        labels = [*(["base"] if node.base is not None else []), *node.models, *known_of]
        facts |= {
            "method": node.method.name,
            "settings": {name: _plain(value) for name, value in node.settings.items()},
        }
        facts["what"] = with_settings(node, node.method.name)
        if node.matrices is not None:
            outputs, inputs = node.matrices.sides
            facts["matrices"] = {"count": node.matrices.count, "outputs": outputs, "inputs": inputs}
    else:
        labels = _sources(node)
    if isinstance(node, Gathered):
        first = zip(node.which[:RANGES].tolist(), node.starts.tolist(), node.lengths.tolist(), strict=False)
        facts |= {
            "count": len(node.which),
            "ranges": [
                {"of": labels[source] if source >= 0 else None, "start": start, "elements": length}
                for source, start, length in first
            ],
        }
    if isinstance(node, Computed):
        facts["what"] = node.what
    below = [{"as": label, **_of_node(row, known)} for label, row in zip(labels, node.rows, strict=True)]
    return {**facts, "inputs": below}


def _sources(node: Gathered | Computed) -> list[str]:
    """What its sources are called: parts of a fused tensor by their keys, others by their place; one alone needs no name."""
    if len(node.sources) == 1:
        return [""]
    keys = [re.search(r"\[[^\]]*\]$", getattr(source, "name", "")) for source in node.sources]
    names = [key[0] for key in keys if key]
    return names if len(set(names)) == len(node.sources) else [str(place) for place in range(len(node.sources))]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def lines(tree: dict[str, Any]) -> Iterator[str]:
    """A tree in words, a node a line, what it is made of indented below it."""
    yield f"{tree['tensor']}, written as {tree['written']['dtype']} in {tree['written']['file']}"
    yield from _lines(tree["node"], set(_repeated(tree["node"])), "  ")


def _repeated(facts: dict[str, Any]) -> Iterator[int]:
    if "above" in facts:
        yield facts["above"]
    for each in facts.get("inputs", ()):
        yield from _repeated(each)


def _lines(facts: dict[str, Any], repeated: set[int], indent: str) -> Iterator[str]:
    label = f"{facts['as']}: " if facts.get("as") else ""
    number = f"#{facts['number']} " if facts.get("number") in repeated else ""
    yield f"{indent}{label}{number}{facts['kind']} {facts['dtype']} {facts['shape']}: {_words(facts)}"
    for each in facts.get("inputs", ()):
        yield from _lines(each, repeated, indent + "  ")


def _words(facts: dict[str, Any]) -> str:
    if "above" in facts:
        return f"see #{facts['above']} above"
    if facts["kind"] == "stored":
        return f"{facts['name']} of {facts['model']}"
    if facts["kind"] == "gathered":
        shown = [_range(**each) for each in facts["ranges"]]
        more = facts["count"] - len(shown)
        return ", ".join(shown) + (f" and {several(more, 'more range')}" if more else "")
    each = facts.get("matrices", {})
    kind = "matrix" if each.get("count") == 1 else "matrices"
    return facts["what"] + (f", {each['count']} {kind} of {each['outputs']} x {each['inputs']}" if each else "")


def _range(of: str | None, start: int, elements: int) -> str:
    if of is None:
        return f"{elements} zeros"
    return f"{start}-{start + elements - 1}" + (f" of {of}" if of else "")
