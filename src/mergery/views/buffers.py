"""Buffers that follow from a config (positions, frequencies, masks), of which files of one model may hold more or fewer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mergery.architecture import Architecture
from mergery.graph.findings import Findings
from mergery.graph.view import View


def buffers(names: Iterable[str], architecture: Architecture) -> list[str]:
    """Those of some tensors that are such buffers."""
    known = architecture.buffers
    return [name for name in names if name in known] if known else []


def without_buffers(donor: View, view: View, findings: Findings) -> View:
    """The view without the buffers that its donor lacks, or has in another shape. What is left out and copied is noted."""
    if view is donor:
        return view
    own = buffers(view.nodes, view.architecture)
    extra = [name for name in own if name not in donor.nodes]
    other = [name for name in own if name in donor.nodes and donor.nodes[name].shape != view.nodes[name].shape]
    missing = [name for name in buffers(donor.nodes, donor.architecture) if name not in view.nodes]
    for names, words in (
        (missing, f"buffers that {view.name} lacks are copied from {donor.name}"),
        (other, f"buffers that have another shape in {view.name} are copied from {donor.name}"),
    ):
        if names:
            findings.warnings.append(f"{len(names)} {words} (such as {names[0]!r})")
    if not extra and not other:
        return view
    left = {*extra, *other}
    nodes = {name: node for name, node in view.nodes.items() if name not in left}
    reason = f"a buffer that {donor.name} lacks: it is made anew when the model is loaded"
    return replace(view, nodes=nodes, dropped={**view.dropped, **dict.fromkeys(extra, reason)})
