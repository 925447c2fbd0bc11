"""Heads, and the embeddings that stand for them: what a config says of them is held against the bytes.

A model that ties its head to its embeddings stores one tensor for both. A file may hold a copy of it all the same, or a head
that was trained by itself, under a config that still says that it is tied. A trained head is never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from mergery.architecture import read_architecture
from mergery.architecture.roles import is_behind
from mergery.architecture.spelling import HEADS, aliases, canonical_name, canonical_names, scales_if_tied, ties_head
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config
from mergery.graph.equality import same_tensor
from mergery.graph.findings import Findings
from mergery.graph.nodes import Node
from mergery.graph.view import View
from mergery.graph.walking import is_computed


def truly_tied(view: View, findings: Findings) -> View:
    """The view with a config that says of its head what its weights are: a head that is stored and differs is not tied."""
    pair = _stored_pair(view) if ties_head(view.config) else None
    if pair is None or same_tensor(view.nodes[pair[0]], view.nodes[pair[1]]):
        return view
    findings.warnings.append(
        f"{view.name}: {pair[0]!r} differs from {pair[1]!r}, although config.json ties them: it is taken for a head of its own"
    )
    return replace(view, config=_untied(view.config))


def settled(view: View, findings: Findings) -> View:
    """A merged view whose head is tied in truth as its config says: made as its embeddings are, or else said to be its own."""
    pair = _stored_pair(view) if ties_head(view.config) else None
    if pair is None:
        return view
    head, words = (view.nodes[name] for name in pair)
    if same_tensor(head, words):
        return replace(view, nodes={**view.nodes, pair[0]: words}) if is_computed(head) else view
    findings.warnings.append(
        f"the output has a head of its own: {pair[0]!r} is not {pair[1]!r}, and {_said(view.config)}"
    )
    return replace(view, config=_untied(view.config))


def _untied(config: Config) -> Config:
    """The config of a model whose head is its own; as it was, where it says by the same word that outputs are scaled."""
    return config if scales_if_tied(config) else config.with_tied(False)


def _said(config: Config) -> str:
    if scales_if_tied(config):
        return "its config ties them all the same, for it scales by that word: a program that trusts it loses the head"
    return "its config says tie_word_embeddings: false"


def _stored_pair(view: View) -> tuple[str, str] | None:
    """The names of a head and of the embeddings to which it could be tied, where both are stored."""
    stored = {canonical: name for name, canonical in canonical_names(view.nodes, view.config).items()}
    found = aliases(view.config.with_tied(True), stored)
    return next(((stored[head], stored[found[head]]) for head in HEADS if head in stored and head in found), None)


class OtherNames:
    """The other names under which a view stores a tensor: the file shows it, or bytes do, for heads and embeddings."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._groups: dict[str, list[str]] = {}
        for name, other in view.donor.aliases.items():
            self._groups.setdefault(other, [other]).append(name)
        canonical = canonical_names(view.nodes, view.config)
        stored = {each: name for name, each in canonical.items()}
        tied = aliases(view.config, stored)
        self._tied = {stored[alias]: stored[target] for alias, target in tied.items() if alias in stored}
        names = view.architecture.names
        tables = [name for name, node in view.nodes.items() if name in names and len(node.shape) == 2]
        self._heads, self._words = (
            [name for name in tables if names[name].roles[0] == role] for role in ("head", "embed")
        )

    def of(self, name: str) -> Iterator[str]:
        """The other names of a tensor. Bytes are read where neither header nor file tells."""
        group = self._groups.get(self._view.donor.aliases.get(name, name), ())
        yield from (each for each in group if each != name)
        candidates = self._words if name in self._heads else self._heads if name in self._words else []
        candidates = [self._tied[name]] if name in self._tied else candidates
        nodes = self._view.nodes
        for other in candidates:
            if other != name and nodes[other].shape == nodes[name].shape and same_tensor(nodes[name], nodes[other]):
                yield other


def with_heads(donor: View, views: Mapping[str, View], base: str | None, findings: Findings) -> View:
    """The donor with the heads that it lacks and others have. `views` are under the donor's names.

    Where the donor ties its head, its embeddings stand for it. Over a base that has none, the head that one model alone has
    goes along.
    """
    if all(view.nodes.keys() <= donor.nodes.keys() for view in views.values()):
        return donor
    stored = {canonical: name for name, canonical in canonical_names(donor.nodes, donor.config).items()}
    tied = aliases(donor.config, stored)
    found: dict[str, Node] = {}
    owners: dict[str, list[View]] = {}
    config = donor.config
    for view in views.values():
        further = [name for name in view.nodes if name not in donor.nodes]
        others = OtherNames(view) if further else None
        for name in further:
            canonical = canonical_name(name)
            if canonical in tied:
                if others and next(others.of(name), None) is not None:  # a copy of the embeddings
                    continue
                words = stored[tied[canonical]]
                inner = words.startswith("language_model.model.")
                spelled = f"language_model.{canonical}" if inner else canonical if canonical in HEADS else name
                if spelled not in found:
                    head = canonical in HEADS
                    config = _untied(config) if head else config
                    found[spelled] = donor.nodes[words]
                    findings.warnings.append(
                        f"{donor.name} ties {spelled!r} to {words!r}, which stands for it: {view.name} has one of its own, and "
                        f"so has the output{', and ' + _said(config) if head and not scales_if_tied(config) else ''}"
                    )
            elif name in view.architecture.names and is_behind(name, view.architecture.names[name].roles):
                owners.setdefault(name, []).append(view)
    if base is not None:
        found |= {name: have[0].nodes[name] for name, have in owners.items() if len(have) == 1}
    return extended(replace(donor, config=config), found) if found else donor


def standing_for(view: View, name: str) -> str | None:
    """The tensor of a view that stands for one of its donor's: of that name, or the embeddings to which its head is tied."""
    if name in view.nodes:
        return name
    stored = {canonical: each for each, canonical in canonical_names(view.nodes, view.config).items()}
    return stored.get(aliases(view.config, stored).get(canonical_name(name), ""))


def heads_alone(donor: View, views: Mapping[str, View], base: str | None) -> dict[str, str]:
    """The tensors of a head that a base lacks and one model alone has: names, and the model."""
    if base is None:
        return {}
    names = donor.architecture.names
    heads = [
        name
        for name in donor.nodes
        if name not in views[base].nodes and name in names and is_behind(name, names[name].roles)
    ]
    owners = {name: [each for each, view in views.items() if name in view.nodes] for name in heads}
    return {name: have[0] for name, have in owners.items() if len(have) == 1}


def extended(view: View, nodes: Mapping[str, Node]) -> View:
    """The view with further tensors, behind its own."""
    whole = {**view.nodes, **nodes}
    infos = [TensorInfo(name, node.shape, node.dtype) for name, node in whole.items()]
    return replace(view, nodes=whole, architecture=read_architecture(infos, view.config))
