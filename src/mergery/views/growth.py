"""Stacks by rule, and the blocks that add nothing yet: depth up-scaling, and insertion as in LLaMA Pro."""

from __future__ import annotations

from mergery.architecture.anatomy import RESIDUAL
from mergery.errors import Where
from mergery.graph.findings import Findings
from mergery.graph.view import Change, View
from mergery.recipe import Growth, Slice
from mergery.recipe.values import Condition, Constant, Filtered, Target

_PROJECTIONS = (
    Condition(roles=("attention.o", "mlp.down")),
    Condition(roles=("ssm",), name="*.out_proj.*"),  # of a state-space block
)
_SILENT = {"scale": Filtered(tuple((condition, Constant(0.0)) for condition in _PROJECTIONS))}


def output_projection(name: str, roles: tuple[str, ...]) -> bool:
    """Whether a tensor is among those that write a block's result to the residual stream."""
    return any(condition.holds(Target(name, roles=roles)) for condition in _PROJECTIONS)


def grow(growth: Growth, view: View, depth: int, findings: Findings) -> tuple[Slice, ...]:
    """The slices of a rule over a model of some depth; what it changes is noted."""
    name, layers, place = growth.model, growth.layers, growth.place
    if layers >= depth and not (growth.rule == "insert" and layers == depth):
        number = "leave out" if growth.rule == "upscale" else "count"
        what, hint = f"{name!r} has {depth} layers, and the stack would {number} {layers}", f"a number below {depth}"
        findings.fail(what, where=place, hint=hint)
        return ()
    if growth.rule == "upscale":
        ranges = ((0, depth - 1 - layers), (layers, depth - 1))
        what = f"layers {depth} -> {2 * (depth - layers)}, {ranges[0][0]}-{ranges[0][1]} and {layers}-{depth - 1}"
        findings.changes.append(Change(name, what, "what the model could do, in part: train it further"))
        return tuple(Slice(((name, each),), place=place) for each in ranges)
    check_residual(view, place, findings)
    slices: list[Slice] = []
    for first in range(0, depth, layers):
        last = min(first + layers, depth) - 1
        slices.append(Slice(((name, (first, last)),), place=place))
        if last - first + 1 == layers:
            slices.append(Slice(((name, (last, last)),), settings=_SILENT, place=place))
    new = depth // layers
    what = f"layers {depth} -> {depth + new}, a copy that adds nothing yet behind every {layers}"
    findings.changes.append(Change(name, what))
    return tuple(slices)


def check_residual(view: View, place: Where | None, findings: Findings) -> None:
    """Note a problem where silencing the output projections of a copied layer would not make it do nothing."""
    family = view.config.language.family
    silent = {parsed.layer for name, parsed in view.architecture.names.items() if output_projection(name, parsed.roles)}
    if family not in RESIDUAL or not silent >= set(range(view.architecture.depth)):
        findings.fail(
            f"no layer that adds nothing is known for {view.name!r}",
            where=place,
            why=f"of the family {family!r} it is not certain what silences a layer",
            hint="give slices, with a scale for what should be silenced: "
            "stack: [{models: {a: 0-3}}, {models: {a: 3}, scale: {where: {name: '*.o_proj.*'}, value: 0}}]",
        )


def spread_identity(depth: int, wanted: int) -> list[int]:
    """The layers behind which new ones are put, evenly: 4 to 6 puts them behind 1 and 3."""
    new = wanted - depth
    return [-(-(number + 1) * depth // new) - 1 for number in range(new)]


def spread_kept(depth: int, wanted: int) -> list[int]:
    """The layers that are kept of more, evenly, the first and the last among them."""
    if wanted == 1:
        return [0]
    gaps = wanted - 1
    return [(2 * number * (depth - 1) + gaps) // (2 * gaps) for number in range(wanted)]
