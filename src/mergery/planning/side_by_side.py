"""Models of one architecture, side by side: equal names, equal shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from mergery.checkpoints.config import Config
from mergery.errors import Where, listed
from mergery.graph.findings import Findings
from mergery.graph.nodes import Node
from mergery.graph.view import View
from mergery.graph.walking import looked_up
from mergery.planning.hints import extra_hint, missing_hint
from mergery.planning.nodes import NodeBuilder, target_of
from mergery.planning.treatment import Treatments
from mergery.views.beside import beside
from mergery.views.buffers import buffers, without_buffers
from mergery.views.heads import heads_alone, with_heads
from mergery.views.respelling import respelled
from mergery.views.sets import INTERSECTION, UNION, intersected, united
from mergery.views.vocabulary.comparing import Tokenizers, explain_shapes
from mergery.views.vocabulary.rows import token_tensors


def side_by_side(
    name: str,
    donor: View,
    views: Mapping[str, View],
    treatments: Treatments,
    tensors: str | None,
    tokenizers: Tokenizers,
    findings: Findings,
) -> View | None:
    """The view of a merge under the donor's names; None where the models do not fit together: problems are noted.

    `tensors` is the recipe's word for those that not all models have.
    """
    merge = treatments.own.merge
    first = Findings()
    named = {each: respelled(donor, view, first) for each, view in views.items()}
    whole = with_heads(donor, named, merge.base, findings)
    if whole is donor:
        views = named
        findings.warnings += first.warnings
    else:
        donor, views = whole, {each: respelled(whole, view, findings) for each, view in views.items()}
    views = {each: without_buffers(donor, view, findings) for each, view in views.items()}
    alone = heads_alone(donor, views, merge.base)
    for owner in dict.fromkeys(alone.values()):
        names = [tensor for tensor, each in alone.items() if each == owner]
        findings.warnings.append(f"{owner} alone has {listed(names)}: copied, for {merge.base} has no such head")
    copied: set[str] = {*alone, *buffers(donor.nodes, donor.architecture)}
    if tensors == INTERSECTION:
        donor, views = intersected(donor, views)
    elif tensors == UNION:
        donor = united(donor, {each: views[each] for each in merge.names()}, findings)
        copied = set(donor.nodes)
    fitted = {each: fit(donor, view, copied, merge.place, tokenizers, findings) for each, view in views.items()}
    if any(names is None for names in fitted.values()):
        return None
    nodes: dict[str, Node] = {}
    architecture = donor.architecture
    available = {each: views[each].nodes for each in merge.names()}
    config = next((view.config for view in (donor, *views.values()) if view.config), Config())
    builder = NodeBuilder(treatments, merge.base, merge.models, config, findings)
    rows = zip(*(looked_up(donor.nodes, view) for view in available.values()), strict=True)
    for (tensor, own), row in zip(donor.nodes.items(), rows, strict=True):
        if None in row:  # what may be lacking: a head that one model alone has, a buffer, a part; or all, by the recipe
            nodes[tensor] = next((each for each in row if each is not None), own) if tensors == UNION else own
            continue
        inputs = dict(zip(available, cast("tuple[Node, ...]", row), strict=True))
        nodes[tensor] = builder.node(target_of(tensor, architecture.names[tensor]), inputs, own)
    dropped = {k: v for view in views.values() for k, v in {**view.dropped, **(fitted[view.name] or {})}.items()}
    return View(name, nodes, architecture, donor.config, donor.donor, dropped)


def fit(
    donor: View,
    view: View,
    copied: Collection[str],
    place: Where | None,
    tokenizers: Tokenizers,
    findings: Findings,
) -> dict[str, str] | None:
    """Check that a view has the donor's names and shapes; it may lack what is `copied`. Returns what is dropped, or None with
    problems noted.
    """
    same = donor.nodes.keys() == view.nodes.keys()
    missing = [] if same else [tensor for tensor in donor.nodes if tensor not in view.nodes and tensor not in copied]
    extra = [] if same else [tensor for tensor in view.nodes if tensor not in donor.nodes]
    left_out = beside(donor, view, missing, extra, findings) if missing or extra else None
    if left_out is not None:
        missing, extra = [], []
    depths = [each.config.depth or each.architecture.depth for each in (view, donor)]  # a file may lack layers
    if view.architecture.depth != donor.architecture.depth and depths[0] != depths[1] and (missing or extra):
        findings.fail(
            f"{view.name!r} has {depths[0]} layers and {donor.name!r} has {depths[1]}",
            where=place,
            hint="give layer ranges in a 'stack' to combine models of different depth",
        )
        return None
    if missing:
        findings.fail(
            f"{view.name!r} lacks {listed(missing)}",
            where=place,
            why=f"{donor.name!r} has it",
            hint=missing_hint(missing, extra, view.nodes),
        )
    if extra:
        hint = extra_hint(extra) if not missing else ""
        findings.fail(
            f"{view.name!r} has {listed(extra)}, which {donor.name!r} lacks",
            where=place,
            why="no tensor is lost silently",
            hint=hint,
        )
    if missing or extra:
        return None
    pairs = zip(donor.nodes.items(), looked_up(donor.nodes, view.nodes), strict=True) if view is not donor else ()
    wrong = [tensor for (tensor, own), node in pairs if node is not None and node.shape != own.shape]
    if wrong:
        other_shapes(wrong, donor, view, place, tokenizers, findings)
        return None
    return left_out or {}


def other_shapes(
    tensors: Sequence[str], donor: View, view: View, place: Where | None, tokenizers: Tokenizers, findings: Findings
) -> None:
    """Note tensors whose shapes differ, once for each cause: vocabularies, and all else."""
    tables = [token_tensors(each.nodes, each.architecture) for each in (donor, view)]
    shapes = {each: (donor.nodes[each].shape, view.nodes[each].shape) for each in tensors}
    rows = [
        each for each, (mine, theirs) in shapes.items() if mine[1:] == theirs[1:] and all(each in t for t in tables)
    ]
    rows.sort(key=lambda each: "embed" not in donor.architecture.names[each].roles)
    for names in (rows, [each for each in tensors if each not in rows]):
        if not names:
            continue
        why, hint = "tensors are merged element by element", "merge models of one architecture"
        (mine, theirs), others = shapes[names[0]], names[1:]
        more = f", and {len(others)} more differ" if others else ""
        if names is rows:
            sides = ((donor.name, donor.donor, mine[0]), (view.name, view.donor, theirs[0]))
            why, hint = explain_shapes(tokenizers, *sides)
        what = f"{names[0]!r} is {list(mine)} in {donor.name!r} and {list(theirs)} in {view.name!r}{more}"
        findings.fail(what, where=place, why=why, hint=hint)
