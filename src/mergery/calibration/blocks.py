"""Blocks of a model as functions of their weights: what anchors are found for, and what is refined with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mergery.calibration.model import StreamedModel, Unit
from mergery.errors import CheckpointError, Where

Weights = Mapping[str, Any]  # float32 tensors by their names inside the block


@dataclass(frozen=True)
class Block:
    """A block of a stack of layers, or its MLP alone: a function of rows (anchors, tokens, width), or (anchors, width)."""

    name: str  # of the module in the model
    module: Any  # without weights
    names: Mapping[str, str]  # of its weights: inside the block, and in the model
    width: int
    whole: bool  # whether it sees several tokens at once

    def __call__(self, weights: Weights, rows: Any) -> Any:
        """What the block makes of rows with some weights, of the same shape."""
        from torch.func import functional_call
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(SDPBackend.MATH):  # the one that can be differentiated twice
            out = functional_call(self.module, dict(weights), (rows,))
        return out[0] if isinstance(out, tuple) else out

    def weights(self, model: StreamedModel) -> dict[str, Any]:
        """The block's weights in a model of its architecture, read anew."""
        return {own: model.read(name) for own, name in self.names.items()}


def blocks_of(model: StreamedModel, whole: bool | None = None) -> list[Block]:
    """The blocks of a model: whole ones of encoders, and the MLPs of decoders, unless `whole` says otherwise.

    Raises CheckpointError for models whose blocks cannot be run by themselves.
    """
    from transformers.models.auto import modeling_auto as auto

    name, where = type(model.module).__name__, Where(model.view.donor.location)
    if getattr(model.config, "is_encoder_decoder", False):
        what, hint = "anchors are of encoders and of decoders", "merge a model of both by another method"
        raise CheckpointError(what, where=where, why=f"a {name} is both", hint=hint)
    decoder = name in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    wanted = not decoder if whole is None else whole
    text = getattr(model.config, "text_config", None) or model.config
    width = int(text.hidden_size)
    found = [_block(model, unit, width, wanted) for unit in model.units if unit.layer]
    if not found:
        what = f"a {name} has no stack of layers"
        raise CheckpointError(what, where=where, hint="anchors are found for each layer of a stack")
    for block in (found[0], found[-1]):
        _try(block, model, where)
    return found


def _block(model: StreamedModel, unit: Unit, width: int, whole: bool) -> Block:
    if whole:
        return Block(unit.name, unit.module, _names(unit.module, unit.name), width, True)
    inside = next((name for name in ("mlp", "feed_forward", "ffn") if hasattr(unit.module, name)), None)
    if inside is None:
        what = f"{unit.name!r} has no MLP of its own"
        hint = "take whole blocks, if they can be run by themselves"
        raise CheckpointError(what, where=Where(model.view.donor.location), hint=hint)
    path = f"{unit.name}.{inside}"
    part = getattr(unit.module, inside)
    if any("expert" in model.roles(piece[0]) for name in _names(part, path).values() for piece in model.stored(name)):
        what, hint = f"{path!r} is a mixture of experts", "merge mixtures by another method"
        why = "which expert gets an anchor is no smooth function of it"
        raise CheckpointError(what, where=Where(model.view.donor.location), why=why, hint=hint)
    return Block(path, part, _names(part, path), width, False)


def _names(module: Any, path: str) -> dict[str, str]:
    return {name: f"{path}.{name}" for name, _ in module.named_parameters()}


def _try(block: Block, model: StreamedModel, where: Where) -> None:
    """Run the block once, so that one that wants more than rows is refused before any work."""
    import torch

    rows = torch.zeros(1, 2, block.width) if block.whole else torch.zeros(2, block.width)
    try:
        with torch.no_grad():
            out = block(block.weights(model), rows)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        what, why = f"{block.name!r} cannot be run by itself", str(error).splitlines()[0]
        raise CheckpointError(what, where=where, why=why, hint="take the MLPs alone") from None
    if out.shape != rows.shape:
        what, why = f"{block.name!r} cannot be run by itself", f"it gives {tuple(out.shape)} for {tuple(rows.shape)}"
        raise CheckpointError(what, where=where, why=why, hint="merge this family by another method")
