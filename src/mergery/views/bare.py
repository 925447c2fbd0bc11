"""Adapters without their model: what each adds, on zeros, all under the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from mergery.architecture import read_architecture
from mergery.checkpoints.adapted import AdaptedCheckpoint, NoModel
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.lora import LoraAdapter, Update, read_lora
from mergery.dtypes import F32
from mergery.errors import MergeryError, Where, listed
from mergery.graph.findings import Findings
from mergery.graph.gathering import zeros
from mergery.graph.nodes import Node, Stored
from mergery.graph.view import View
from mergery.views.placed import Placed
from mergery.views.products import adapted

NAME_IT = "name its model before it, with a +"


@dataclass(frozen=True)
class Bare:
    """A model of a recipe that is nothing but adapters; with none, a base of zeros for the others."""

    checkpoint: AdaptedCheckpoint
    place: Where | None


def bare_views(models: Mapping[str, Bare], findings: Findings) -> dict[str, View]:
    """The views of models that are adapters alone. Those with problems are missing.

    A module that some lack is zeros there. What was trained whole is taken as it is, where all have it.
    """
    loras: dict[str, list[LoraAdapter]] = {}
    before = len(findings.problems)
    for name, bare in models.items():
        loras[name] = []
        for checkpoint in bare.checkpoint.adapters:
            try:
                loras[name].append(read_lora(checkpoint))
            except MergeryError as error:
                findings.problems.append(error.at(bare.place))
    for name, own in loras.items():
        _refuse(name, own, models[name].place, findings)
    if len(findings.problems) > before:
        return {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, own in loras.items():
        for update in (update for lora in own for update in lora.updates):
            shape = shape_of(update)
            if shapes.setdefault(f"{update.module}.weight", shape) != shape:
                why = f"it is {list(shape)} in {name!r}, and {list(shapes[f'{update.module}.weight'])} in another"
                findings.fail(
                    f"the adapters' module {update.module!r} differs in shape",
                    where=models[name].place,
                    why=why,
                    hint="name the base in the merge: its shapes say which adapter fits",
                )
                return {}
    if not shapes:
        first = next(iter(models.values()))
        findings.fail("there is no adapter among these models", where=first.place, hint=NAME_IT)
        return {}
    base: dict[str, Node] = {name: zeros(name, shape, F32) for name, shape in shapes.items()}
    return {name: _view(name, own, base, models[name].checkpoint) for name, own in loras.items()}


def _refuse(name: str, loras: Sequence[LoraAdapter], place: Where | None, findings: Findings) -> None:
    """Whatever of an adapter means nothing without its model."""
    for lora in loras:
        needing = [update.module for update in lora.updates if update.magnitude is not None or update.experts > 1]
        needing += [
            update.module for update in lora.updates if update.up_bias is not None or len(update.down.shape) != 2
        ]
        needing += [*lora.whole, *lora.tokens]
        if needing:
            why = f"{listed(needing)} is more than a product of two factors (DoRA, experts, biases, modules trained whole)"
            findings.fail(f"the adapter {name!r} means nothing without its model", where=place, why=why, hint=NAME_IT)


def shape_of(update: Update) -> tuple[int, ...]:
    """The shape of the weight that an update is for: [out, in], or [tokens, width] of embeddings."""
    outputs, inputs = update.up.shape[0], update.down.shape[1]
    return (inputs, outputs) if update.embedding else (outputs, inputs)


def _view(name: str, loras: Sequence[LoraAdapter], base: Mapping[str, Node], checkpoint: AdaptedCheckpoint) -> View:
    placed: dict[str, list[Placed]] = {}
    for lora in loras:
        for update in lora.updates:
            down, up = (Stored(lora.label, lora.checkpoint, info) for info in (update.down, update.up))
            alpha = Stored(lora.label, lora.checkpoint, update.alpha) if update.alpha is not None else None
            own = Placed(update, lora.label, down, up, alpha, transposed=update.embedding)
            placed.setdefault(f"{update.module}.weight", []).append(own)
    nodes = {key: adapted(key, node, F32, placed[key], "once") if key in placed else node for key, node in base.items()}
    infos = [TensorInfo(key, node.shape, F32) for key, node in nodes.items()]
    return View(name, nodes, read_architecture(infos, Config()), Config(), checkpoint)


def is_bare(checkpoint: object) -> TypeGuard[AdaptedCheckpoint]:
    """Whether a checkpoint is adapters without their model."""
    return isinstance(checkpoint, AdaptedCheckpoint) and isinstance(checkpoint.base, NoModel)
