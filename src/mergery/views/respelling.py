"""Brings a view to the names of another: two spellings of one model are merged as if they were one.

Where the names are equal nothing is done. Else both are read under their canonical names, and each tensor of the donor
is found in the other view: whole, as a part of a stack of experts, gathered from experts that are stored one by one, or under
the alias of a tied tensor, as the config or the file tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mergery.architecture import ParsedName
from mergery.architecture.fused import FusedPart, fused_parts
from mergery.architecture.spelling import aliases, canonical_names
from mergery.graph.findings import Findings
from mergery.graph.fused import from_parts, take_part
from mergery.graph.nodes import Node
from mergery.graph.view import View
from mergery.views.heads import OtherNames

_EXPERT = re.compile(r"expert (\d+)(?: (gate|up))?$")
_STACK = re.compile(r"(gate_up_proj|down_proj)$")


@dataclass
class _Index:
    """A view's tensors under canonical names, and the parts of its stacks of experts."""

    whole: dict[str, str]  # canonical name -> name
    parts: dict[str, tuple[str, FusedPart]] = field(default_factory=dict)


def respelled(donor: View, view: View, findings: Findings) -> View:
    """The view under the donor's names; what the donor lacks keeps its own."""
    if view is donor or view.nodes.keys() == donor.nodes.keys():
        return view
    own = canonical_names(view.nodes, view.config or donor.config)
    wanted = canonical_names(donor.nodes, donor.config or view.config)
    if set(own.values()) != set(wanted.values()):
        own, wanted = _by_prefix(donor, view) or (own, wanted)
    if not own or not wanted:
        return view
    index = _index(view, own)
    tied = aliases(view.config, index.whole)
    nodes: dict[str, Node] = {}
    used: set[str] = set()
    respelt: list[str] = []
    for name, node in donor.nodes.items():
        found = _find(view, index, tied, name, wanted[name], node, donor)
        if found is not None:
            nodes[name], sources = found
            used.update(sources)
            if sources != {name}:
                respelt.append(name)
    theirs, others = OtherNames(donor), OtherNames(view)
    for name in [name for name in donor.nodes if name not in nodes]:
        twin = next((each for each in theirs.of(name) if each in nodes), None)
        if twin is not None:
            nodes[name] = nodes[twin]
    dropped = dict(view.dropped)
    for name in [name for name in view.nodes if name not in used and name not in nodes]:
        twin = next((each for each in others.of(name) if each in used), None)
        if twin is None:
            nodes[name] = view.nodes[name]
        else:
            dropped[name] = f"{view.name} stores it and {twin!r} as one tensor, and {donor.name} under that name alone"
    if respelt and view.name != donor.name:
        findings.warnings.append(
            f"{view.name} is respelled with the names of {donor.name}: {len(respelt)} tensors (such as {respelt[0]!r})"
        )
    return replace(view, nodes=nodes, dropped=dropped)


def _by_prefix(donor: View, view: View) -> tuple[dict[str, str], dict[str, str]] | None:
    """The names of view and donor, each with what stands for both, where all of them differ by one prefix; else None."""
    if len(donor.nodes) != len(view.nodes):
        return None
    for short, long in ((donor, view), (view, donor)):
        first = next(iter(short.nodes))
        for name in long.nodes:
            prefix = name.removesuffix(first)
            if name.endswith(f".{first}") and all(prefix + each in long.nodes for each in short.nodes):
                plain, named = ({before + each: each for each in short.nodes} for before in ("", prefix))
                return (named, plain) if short is donor else (plain, named)
    return None


def _index(view: View, own: Mapping[str, str]) -> _Index:
    index = _Index({canonical: name for name, canonical in own.items()})
    for name, node in view.nodes.items():
        for key, part in expert_parts(view, name, own[name], node):
            index.parts[key] = (name, part)
    return index


def expert_parts(view: View, name: str, canonical: str, node: Node) -> list[tuple[str, FusedPart]]:
    """Canonical names of the matrices in a stack of experts. Stacks that are stored transposed cannot be taken apart so."""
    if not _STACK.search(canonical) or len(node.shape) != 3:
        return []
    parsed: ParsedName | None = view.architecture.names.get(name)
    found = []
    for each in fused_parts(name, node.shape, parsed.roles if parsed else ("expert",), view.config) or ():
        match = _EXPERT.fullmatch(each.key)
        if match is None or each.transposed:
            return []
        word = f"{match[2]}_proj" if match[2] else "down_proj"
        found.append((_STACK.sub(f"{match[1]}.{word}.weight", canonical), each))
    return found


def _find(
    view: View, index: _Index, tied: Mapping[str, str], name: str, canonical: str, node: Node, donor: View
) -> tuple[Node, set[str]] | None:
    """The node for one of the donor's tensors, and the names that it is made of."""
    if name in view.nodes:
        return view.nodes[name], {name}
    if canonical in index.whole:
        own = index.whole[canonical]
        return view.nodes[own], {own}
    if canonical in index.parts:
        own, part = index.parts[canonical]
        return take_part(name, view.nodes[own], part), {own}
    parts = expert_parts(donor, name, canonical, node)
    if parts and all(key in index.whole for key, _ in parts):
        names = [index.whole[key] for key, _ in parts]
        pieces = [view.nodes[each] for each in names]
        if all(piece.shape == part.shape for piece, (_, part) in zip(pieces, parts, strict=True)):
            return from_parts(name, node.shape, [part for _, part in parts], pieces), set(names)
    if canonical in tied:
        own = index.whole[tied[canonical]]
        return view.nodes[own], {own}
    return None
