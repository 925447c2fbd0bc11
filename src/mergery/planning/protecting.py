"""A merge that does as one of its models does on protected text: what it changes of a matrix is without the directions of the
inputs that the matrix has there.

    out = m + (x - m) (I - U U^T)

m is the protected model's matrix, x the merge's, and the columns of U are the leading directions of the Gram matrix of m's
inputs at protected tokens: what the matrix makes of them stays. This is the first step of RAIN-Merging (arXiv 2602.22538), for
any merge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mergery.architecture.fused import transposed
from mergery.graph.findings import Findings
from mergery.graph.nodes import Node, Read, made_whole, read_matrices
from mergery.graph.view import View
from mergery.planning.measurements import Measurements
from mergery.recipe import Recipe, Source
from mergery.recipe.protecting import Protect
from mergery.views.respelling import respelled

FLOAT32 = 2.0**-21  # of the largest eigenvalue: what is below it is noise of statistics kept in float32
NOT_MEASURED = "the text that it protects has not been looked at"


def protected_view(
    recipe: Recipe, view: View, models: dict[str, View], measurements: Measurements, findings: Findings
) -> tuple[View, list[str]]:
    """The output with what it changes of a model made inert on protected text, and what is told of it. Problems are noted."""
    said = recipe.protect
    assert said is not None
    source = recipe.models.get(said.model)
    if not isinstance(source, Source) or said.model not in models:
        why = "it is made by a merge of the recipe" if source is not None else "there is no such model"
        hint = "write it to a folder first" if source is not None else "model: <a model's name>"
        findings.fail(f"{said.model!r} cannot be protected", where=said.place, why=why, hint=hint)
        return view, []
    merge = recipe.merge
    if merge.stack or merge.growth or recipe.output.adapter is not None:
        kind = "an adapter" if recipe.output.adapter is not None else "a stack"
        why = "each matrix of the output is compared with the model's own"
        hint = "merge into a folder without 'protect', or protect a merge of whole models"
        findings.fail(f"{kind} cannot be protected", where=said.place, why=why, hint=hint)
        return view, []
    own = respelled(view, models[said.model], Findings())
    nodes: dict[str, Node] = dict(view.nodes)
    matrices, others, few, wrong, lacking = 0, 0, [], [], []
    for name, node in view.nodes.items():
        parsed, kept = view.architecture.names[name], own.nodes.get(name)
        if not node.dtype.floating or kept is node or (kept is None and "linear" not in parsed.roles):
            continue
        if kept is None or kept.shape != node.shape:
            wrong.append(name)
        elif "linear" in parsed.roles and len(node.shape) in (2, 3):
            flip = transposed(name, node.shape, view.config)
            gram, tokens = measurements.protected(name, kept, read_matrices(node.shape, conv=False, transposed=flip))
            if gram is None:
                lacking.append(name)
                continue
            matrices += 1
            into = gram.shape[-1]
            if tokens >= into:
                few.append((name, tokens, into))
            nodes[name] = _inert(name, node, kept, gram, said, flip=flip)
        elif said.rest == "base":
            others += 1
            nodes[name] = kept
    where = said.place
    if wrong:
        hint = "protect a model whose shapes the output has"
        findings.fail(f"{said.model!r} has no {wrong[0]!r} of the output's shape", where=where, hint=hint)
    if lacking:
        why = f"its statistics have no Gram matrix of it, nor of {len(lacking) - 1} others"
        hint = f"mergery calibrate {source.path} --data texts.jsonl --stats gram OUT, and protect: {{statistics: OUT}}"
        findings.fail(f"{lacking[0]!r} cannot be protected", where=where, why=why, hint=hint)
    if few and said.energy == 1.0:
        name, tokens, into = max(few, key=lambda each: each[1] / each[2])
        findings.warnings.append(
            f"the protected text has more tokens than {len(few)} matrices have inputs, such as {name!r} with {tokens} tokens "
            f"and {into} inputs: little or nothing of the merge may be left there; protect fewer tokens, or energy: 0.99"
        )
    rest = f", and {others} other tensors are its own" if others else ""
    return replace(view, nodes=nodes), [f"on protected text {matrices} matrices do as those of {said.model}{rest}"]


def _inert(name: str, merged: Node, own: Node, gram: Node, said: Protect, *, flip: bool) -> Node:
    """The merge's matrix, or stack of them, that does as the model's own on protected inputs."""
    shape, into = merged.shape, gram.shape[-1]

    def make(reads: Sequence[Read]) -> np.ndarray:
        import torch

        sizes = (shape, shape, gram.shape)
        new, old, moments = (
            torch.from_numpy(np.array(read(0, math.prod(size)))).reshape(size).double()
            for read, size in zip(reads, sizes, strict=True)
        )
        change = (new - old).mT if flip else new - old
        stacks = zip(change.reshape(-1, *change.shape[-2:]), moments.reshape(-1, into, into), strict=True)
        kept = torch.stack(
            [each - (each @ basis) @ basis.mT for each, moment in stacks for basis in [leading(moment, said.energy)]]
        )
        kept = kept.reshape(change.shape)
        return (old + (kept.mT if flip else kept)).float().numpy()

    largest = math.prod(shape[-2:])
    memory = 8 * (4 * math.prod(shape) + 5 * into * into) + 8 * largest
    words = f"what {said.model} makes of protected text kept"
    return made_whole(name, shape, (merged, own, gram), make, words, memory, torch=True)


def leading(gram: Any, energy: float) -> Any:
    """Orthonormal columns (in, k): the fewest eigenvectors of a Gram matrix (in, in) that hold a share of its energy.

    With energy 1, all whose eigenvalues float32 tells from zero.
    """
    import torch

    values, vectors = torch.linalg.eigh(gram)
    values = values.flip(0).clamp(min=0.0)
    vectors = vectors.flip(1)
    total = float(values.sum())
    if total <= 0.0 or energy <= 0.0:
        return vectors[:, :0]
    told = int((values > FLOAT32 * values[0]).sum())
    if energy >= 1.0:
        return vectors[:, :told]
    wanted = int((values.cumsum(0) < energy * total * (1.0 - 1e-12)).sum()) + 1
    return vectors[:, : min(wanted, told)]
