"""A model in another shape: more or fewer key/value heads and layers, a wider MLP, a wider residual stream.

A conversion is a view: each tensor is gathered from ranges of the stored one, and nothing is written in between. What a
conversion loses, or that it is exact, is a `Change` that the plan and the model card state.
"""

from __future__ import annotations

from dataclasses import replace

from mergery.architecture import read_architecture
from mergery.architecture.anatomy import ANATOMIES
from mergery.architecture.depth import Origin, restack_config
from mergery.checkpoints.base import TensorInfo
from mergery.errors import PlanError, ranges
from mergery.graph.findings import Findings
from mergery.graph.gathering import zeros
from mergery.graph.nodes import Node
from mergery.graph.view import Change, View
from mergery.recipe import Source
from mergery.views.growth import check_residual, output_projection, spread_identity, spread_kept
from mergery.views.widths import MOST, Reshaping


def converted(view: View, source: Source, dtype: str | None, findings: Findings) -> View | None:
    """The view in the shape that its source asks for; None where there are problems, which are noted.

    `dtype` is the output's by its name in torch, where the recipe gives one: rounding to it may be a loss.
    """
    family = view.config.language.family
    anatomy = ANATOMIES.get(str(family))
    before = len(findings.problems)
    widths = [key for key in source.convert if key != "layers"]
    what = f"{view.name!r} cannot be converted"
    if not view.config:
        findings.fail(
            what, where=source.place, why="it has no config.json", hint="put its config.json beside the weights"
        )
        return None
    if view.config.get("is_encoder_decoder") or view.architecture.stack is None:
        findings.fail(what, where=source.place, why="it is not one stack of layers", hint="leave out 'convert'")
        return None
    if widths and anatomy is None:
        why = f"how its widths hang together is not known for the family {family!r}"
        hint = f"known are {', '.join(sorted(ANATOMIES))}"
        findings.fail(what, where=source.places[widths[0]], why=why, hint=hint)
        return None
    try:
        if widths and anatomy:
            view = Reshaping(view, source, anatomy, dtype, findings).view()
        if "layers" in source.convert and len(findings.problems) == before:
            view = _relayered(view, source, findings)
    except PlanError as error:
        findings.problems.append(error.at(source.place))
    return view if len(findings.problems) == before else None


def _relayered(view: View, source: Source, findings: Findings) -> View:
    """Another number of layers: blocks that add nothing, evenly spread; or an even choice of those there are."""
    wanted, depth, place = source.convert["layers"], view.architecture.depth, source.places.get("layers")
    if wanted == depth:
        return view
    if wanted > MOST * depth:
        what, hint = (
            f"{wanted} layers are more than {MOST} times the {depth} of {view.name!r}",
            f"layers: {MOST * depth}",
        )
        findings.fail(what, where=place, hint=hint)
        return view
    if wanted > depth:
        check_residual(view, place, findings)
        behind = spread_identity(depth, wanted)
        picks = [(layer, new) for layer in range(depth) for new in (False, *[True] * behind.count(layer))]
        what = f"layers {depth} -> {wanted}, copies that add nothing yet behind {ranges(sorted(set(behind)))}"
        findings.changes.append(Change(view.name, what))
        left: list[int] = []
    else:
        picks = [(layer, False) for layer in spread_kept(depth, wanted)]
        left = sorted(set(range(depth)) - {layer for layer, _ in picks})
        loss = "what those did: train it further"
        findings.changes.append(Change(view.name, f"layers {depth} -> {wanted}, without {ranges(left)}", loss))
    nodes: dict[str, Node] = {}
    names = view.architecture.names
    behind_stack = {name: node for name, node in view.nodes.items() if names[name].after}
    nodes.update((n, v) for n, v in view.nodes.items() if names[n].layer is None and n not in behind_stack)
    for number, (layer, new) in enumerate(picks):
        for name, node in view.nodes.items():
            if names[name].layer == layer:
                zero = new and output_projection(name, names[name].roles) and node.dtype.floating
                nodes[view.architecture.rename(name, number)] = zeros(name, node.shape, node.dtype) if zero else node
    nodes |= behind_stack
    config, warnings = restack_config(
        view.config, [Origin(view.config.language, layer, depth) for layer, _ in picks], depth
    )
    findings.warnings += warnings
    infos = [TensorInfo(name, node.shape, node.dtype) for name, node in nodes.items()]
    dropped = dict(view.dropped)
    if left:
        dropped[f"{view.name}: layers {ranges(left)}"] = f"the model is converted to {wanted} layers"
    return replace(view, nodes=nodes, architecture=read_architecture(infos, config), config=config, dropped=dropped)
