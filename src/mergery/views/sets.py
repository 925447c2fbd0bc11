"""Models whose sets of tensors differ on purpose: the output has all of them, or those that every model has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mergery.graph.findings import Findings
from mergery.graph.nodes import Node
from mergery.graph.view import View
from mergery.views.heads import extended

INTERSECTION, UNION = "intersection", "union"


def intersected(donor: View, views: Mapping[str, View]) -> tuple[View, dict[str, View]]:
    """Donor and views with the tensors that all of them have. What each is left without stands in its `dropped`."""
    every = {each.name: each for each in (donor, *views.values())}
    lacking: dict[str, str] = {}
    for view in every.values():
        for other in every.values():
            lacking |= {name: other.name for name in view.nodes if name not in other.nodes and name not in lacking}

    def kept(view: View) -> View:
        left = {
            name: f"{lacking[name]} lacks it, and tensors: {INTERSECTION}" for name in view.nodes if name in lacking
        }
        nodes = {name: node for name, node in view.nodes.items() if name not in lacking}
        return replace(view, nodes=nodes, dropped={**view.dropped, **left})

    return kept(donor), {name: kept(view) for name, view in views.items()}


def united(donor: View, views: Mapping[str, View], findings: Findings) -> View:
    """The donor with all tensors that any view has. `views` are in the order in which tensors that not all have are taken."""
    further: dict[str, Node] = {}
    copied: dict[tuple[str, str], list[str]] = {}
    for name in dict.fromkeys((*donor.nodes, *(name for view in views.values() for name in view.nodes))):
        owners = [view for view in views.values() if name in view.nodes] or [donor]
        if name not in donor.nodes:
            further[name] = owners[0].nodes[name]
        lacking = next((key for key, view in views.items() if name not in view.nodes), None)
        if lacking is not None and not views[lacking].donor.contents.some:
            copied.setdefault((owners[0].name, views[lacking].name), []).append(name)
    for (owner, lacking), names in copied.items():
        findings.warnings.append(
            f"{len(names)} tensors that {lacking} lacks are copied from {owner} (such as {names[0]!r}), for tensors: {UNION}"
        )
    return extended(donor, further) if further else donor
