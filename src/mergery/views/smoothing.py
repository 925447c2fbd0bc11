"""Smoothing undone: a model whose numbers stand where those of its base stand, and which computes what it did.

Matrices are multiplied by scales s, column by column, so that what matters is rounded finely, and what makes their inputs is
divided by them: the norm before, or the rows of the matrix before (AWQ: Lin et al. 2024, arXiv 2306.00978; SmoothQuant: Xiao et
al. 2023, arXiv 2211.10438). With the base at hand,

    norms  s = base's norm / its norm, channel by channel; the columns of what reads the norm are divided by s again
    rows   of `up` before `down`, and of `v` before `o` where there are as many: each row is brought to the base's row,
           r = <b, b> / <w, b>, and the columns of what reads it are divided by r

The function stays that of the model for any s and r, so that what they are not exactly costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mergery.dtypes import F32
from mergery.errors import DataError, Where
from mergery.graph.findings import Findings
from mergery.graph.nodes import Computed, Node, Read
from mergery.graph.view import Change, View

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
NORMS = {  # of a layer: which matrices read it
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
PAIRS = {"mlp.up_proj": "mlp.down_proj", "self_attn.v_proj": "self_attn.o_proj"}  # whose rows are whose columns
WHAT = "scales taken back"
PART = 1 << 18  # numbers that are read at once
NO_FAMILY = "of other families it is not known where scales were put"


def unsmoothed(view: View, base: View, place: Where | None, findings: Findings) -> View | None:
    """A decoded model that was smoothed in the numbers of its base; None, with what is wrong noted, where that cannot be."""
    what = f"the scales of {view.name!r} cannot be taken back"
    if view.config.family not in FAMILIES:
        why, hint = NO_FAMILY, f"use its 16-bit version; families that can be undone: {', '.join(FAMILIES)}"
        findings.fail(what, where=place, why=f"it is a {view.config.family}; {why}", hint=hint)
        return None
    nodes: dict[str, Node] = dict(view.nodes)
    stack = view.architecture.stack
    for layer in range(view.architecture.depth):
        prefix = f"{stack}.{layer}."
        names = [f"{prefix}{each}.weight" for each in (*NORMS, *(part for parts in NORMS.values() for part in parts))]
        names += [f"{prefix}{after}.weight" for after in PAIRS.values()]
        odd = [n for n in names if n not in nodes or n not in base.nodes or nodes[n].shape != base.nodes[n].shape]
        if odd:
            why = (
                f"its base {base.name!r} has no {odd[0]!r} of the same shape"
                if odd[0] in nodes
                else f"it has no {odd[0]!r}"
            )
            findings.fail(what, where=place, why=why, hint="name the model that it was fine-tuned from as base")
            return None
        nodes |= _layer(view.nodes, base.nodes, prefix)
    findings.changes.append(Change(view.name, f"{view.donor.smoothed}'s {WHAT}, by the norms and rows of {base.name}"))
    return replace(view, nodes=nodes)


def _layer(nodes: Mapping[str, Node], base: Mapping[str, Node], prefix: str) -> dict[str, Node]:
    """The tensors of a layer that are others."""
    found: dict[str, Node] = {}
    for norm, readers in NORMS.items():
        name = f"{prefix}{norm}.weight"
        for reader in readers:
            own = f"{prefix}{reader}.weight"
            found[own] = _columns(own, nodes[own], nodes[name], base[name])
        found[name] = base[name]
    for before, after in PAIRS.items():
        first, second = f"{prefix}{before}.weight", f"{prefix}{after}.weight"
        if nodes[first].shape[0] != nodes[second].shape[1]:
            continue  # key heads that several query heads share are left alone
        rows, bias = found[first], f"{prefix}{before}.bias"
        found[first] = _scaled(first, rows, rows, base[first], by_rows=True)
        found[second] = _scaled(second, nodes[second], rows, base[first], by_rows=False)
        if bias in nodes:
            found[bias] = _scaled(bias, nodes[bias], rows, base[first], by_rows=True)
    return found


def _columns(name: str, matrix: Node, norm: Node, base: Node) -> Computed:
    """A matrix whose columns are divided by the scales that its norm lacks."""
    width = matrix.shape[1]

    def read(reads: Sequence[Read]) -> Read:
        own, wanted = (each(0, width).astype(np.float64) for each in reads[1:])
        if bool(((own == 0) != (wanted == 0)).any()):
            hint = "name the model that it was fine-tuned from as base"
            raise DataError(f"the norm before {name!r} has zeros where the base has none", hint=hint)
        factors = np.divide(own, wanted, out=np.ones_like(own), where=wanted != 0).astype(np.float32)
        return lambda start, stop: reads[0](start, stop) * factors[np.arange(start, stop) % width]

    memory = 4 * width * F32.itemsize
    return Computed(name, matrix.shape, (matrix, norm, base), read, WHAT, memory, per_element=16, streamed=True)


def _scaled(name: str, tensor: Node, rows: Node, base: Node, *, by_rows: bool) -> Computed:
    """A tensor whose rows are multiplied by what brings `rows` to the base's, or whose columns are divided by it."""
    height, width = rows.shape
    inner = tensor.elements // height if by_rows else height

    def read(reads: Sequence[Read]) -> Read:
        factors = _brought(reads[1], reads[2], height, width)

        def made(start: int, stop: int) -> np.ndarray:
            at = np.arange(start, stop)
            return reads[0](start, stop) * (factors[at // inner] if by_rows else 1 / factors[at % inner])

        return made

    memory = 4 * PART * F32.itemsize + 2 * height * F32.itemsize
    return Computed(name, tensor.shape, (tensor, rows, base), read, WHAT, memory, per_element=16)


def _brought(rows: Read, base: Read, height: int, width: int) -> np.ndarray:
    """<b, b> / <w, b> of each row; 1 where a row does not point the base's way."""
    factors = np.ones(height, np.float32)
    step = max(1, PART // width)
    for low in range(0, height, step):
        high = min(height, low + step)
        own, wanted = (each(low * width, high * width).reshape(-1, width).astype(np.float64) for each in (rows, base))
        common, length = (own * wanted).sum(1), (wanted * wanted).sum(1)
        usable = (common > 0) & (length > 0)
        factors[low:high][usable] = (length[usable] / common[usable]).astype(np.float32)
    return factors
