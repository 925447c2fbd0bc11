"""Models of one architecture, side by side: equal names, equal shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from mergery.errors import SHOWN, Where, did_you_mean, listed
from mergery.graph.nodes import Node
from mergery.graph.view import View
from mergery.graph.walking import looked_up
from mergery.method import find
from mergery.planning.nodes import NodeBuilder, target_of
from mergery.planning.settings import check_model_wide
from mergery.recipe import Merge
from mergery.views.respelling import beside_language, only_heads, respelled
from mergery.views.vocabulary.comparing import explain_shapes
from mergery.views.vocabulary.rows import token_tensors

if TYPE_CHECKING:
    from mergery.planning.builder import Builder


def parallel(builder: Builder, name: str, merge: Merge, views: Mapping[str, View], number: int) -> View | None:
    method = find(merge.method)
    donor = views[builder.recipe.donor] if merge is builder.recipe.merge else views[merge.base or merge.models[0]]
    views = {each: respelled(builder, donor, view) for each, view in views.items()}
    aligned = {each: align(builder, donor, view, merge) for each, view in views.items()}
    if any(names is None for names in aligned.values()):
        return None
    nodes: dict[str, Node] = {}
    architecture = donor.architecture
    available = {each: views[each].nodes for each in merge.names()}
    builder_of_nodes = NodeBuilder(builder, merge, number, merge.base, merge.models)
    rows = zip(*(looked_up(donor.nodes, view) for view in available.values()), strict=True)
    for (tensor, own), row in zip(donor.nodes.items(), rows, strict=True):
        if None in row:  # a part that a plain language model does not have
            nodes[tensor] = own
            continue
        inputs = dict(zip(available, cast("tuple[Node, ...]", row), strict=True))
        nodes[tensor] = builder_of_nodes.node(target_of(tensor, architecture.names[tensor]), inputs, own)
    check_model_wide(method, merge, nodes, number, builder.problems)
    dropped = {k: v for view in views.values() for k, v in {**view.dropped, **(aligned[view.name] or {})}.items()}
    return View(name, nodes, architecture, donor.config, donor.donor, dropped)


def align(builder: Builder, donor: View, view: View, merge: Merge) -> dict[str, str] | None:
    """Check that a view has the donor's names and shapes. Returns what is dropped, or None with problems noted."""
    same = donor.nodes.keys() == view.nodes.keys()
    missing = [] if same else [tensor for tensor in donor.nodes if tensor not in view.nodes]
    extra = [] if same else [tensor for tensor in view.nodes if tensor not in donor.nodes]
    place = merge.place
    beside = beside_language(builder, donor, view, missing, extra) if missing or extra else None
    if beside is not None:
        missing, extra = [], []
    if view.architecture.depth != donor.architecture.depth and (missing or extra):
        builder.fail(
            f"{view.name!r} has {view.architecture.depth} layers and {donor.name!r} has {donor.architecture.depth}",
            where=place,
            hint="give layer ranges in a 'stack' to combine models of different depth",
        )
        return None
    if missing:
        builder.fail(
            f"{view.name!r} lacks {listed(missing)}",
            where=place,
            why=f"{donor.name!r} has it",
            hint=_nearest(missing[0], extra),
        )
    if extra:
        hint = f"name it under 'drop' to leave it out: drop: [{extra[0]!r}]" if not missing else ""
        if not missing and only_heads(extra, donor):
            hint = (
                f"{donor.name!r} ties its head to its embeddings: name {view.name!r} first, or as the base, and these "
                f"embeddings stand for the head"
            )
        builder.fail(
            f"{view.name!r} has {listed(extra)}, which {donor.name!r} lacks",
            where=place,
            why="no tensor is lost silently",
            hint=hint,
        )
    if missing or extra:
        return None
    pairs = zip(donor.nodes.items(), looked_up(donor.nodes, view.nodes), strict=True) if view is not donor else ()
    wrong = [tensor for (tensor, own), node in pairs if node is not None and node.shape != own.shape]
    for tensor in wrong[:SHOWN]:
        shape_problem(builder, tensor, donor, view, place)
    if len(wrong) > SHOWN:
        builder.fail(f"and {len(wrong) - SHOWN} more tensors of {view.name!r} differ in shape", where=place)
    return None if wrong else beside or {}


def shape_problem(builder: Builder, tensor: str, donor: View, view: View, place: Where | None) -> None:
    mine, theirs = donor.nodes[tensor].shape, view.nodes[tensor].shape
    why, hint = "tensors are merged element by element", "merge models of one architecture"
    tables = (token_tensors(each.nodes, each.architecture) for each in (donor, view))
    if all(tensor in table for table in tables) and mine[1:] == theirs[1:]:
        sides = ((donor.name, donor.donor, mine[0]), (view.name, view.donor, theirs[0]))
        why, hint = explain_shapes(builder, *sides)
    builder.fail(
        f"{tensor!r} is {list(mine)} in {donor.name!r} and {list(theirs)} in {view.name!r}",
        where=place,
        why=why,
        hint=hint,
    )


def _nearest(missing: str, extra: list[str]) -> str:
    hint = did_you_mean(missing, extra)
    return hint if hint.startswith("did you mean") else "check that the files are complete"
