"""Blocks of a model as functions of their weights: what anchors are found for, and what is refined with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mergery.calibration.model import StreamedModel, Unit
from mergery.calibration.passes import Passes
from mergery.engine import Shared
from mergery.errors import CheckpointError, Where

Weights = Mapping[str, Any]  # float32 tensors by their names inside the block
MLPS = ("mlp", "feed_forward", "ffn")


@dataclass(frozen=True)
class Block:
    """A block of a stack of layers, or its MLP alone: a function of rows (anchors, tokens, width), or (anchors, width).

    What else a model gives its blocks is given here too: the mask, which is causal in decoders, and the tokens' positions.
    """

    name: str  # of the module in the model
    module: Any  # without weights
    names: Mapping[str, str]  # of its weights: inside the block, and in the model
    width: int
    whole: bool  # whether it sees several tokens at once
    given: tuple[Any, ...] = ()  # after the rows, for one text of the anchors' length
    named: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, weights: Weights, rows: Any) -> Any:
        """What the block makes of rows with some weights, of the same shape."""
        from torch.func import functional_call
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(SDPBackend.MATH):  # the one that can be differentiated twice
            out = functional_call(self.module, dict(weights), (rows, *self.given), dict(self.named))
        return out[0] if isinstance(out, tuple) else out

    def weights(self, model: StreamedModel, device: Any = None) -> dict[str, Any]:
        """The block's weights in a model of its architecture, read anew."""
        return {own: model.read(name).to(device) for own, name in self.names.items()}

    def on(self, device: Any) -> Block:
        """The block with all that it is given on a device."""
        for part in self.module.modules():
            part._buffers.update({name: _moved(value, device) for name, value in part._buffers.items()})
        return replace(self, given=_moved(self.given, device), named=_moved(dict(self.named), device))


def takes_whole(model: StreamedModel, whole: bool | None = None) -> bool:
    """Whether anchors are of whole blocks: of encoders they are, and of decoders of MLPs, unless `whole` says otherwise."""
    from transformers.models.auto import modeling_auto as auto

    decoder = type(model.module).__name__ in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return not decoder if whole is None else whole


def blocks_of(model: StreamedModel, whole: bool, tokens: int) -> list[Block]:
    """The blocks of a model, whole ones for rows of so many tokens, or their MLPs.

    Raises CheckpointError for models whose blocks cannot be run by themselves.
    """
    name, where = type(model.module).__name__, Where(model.view.donor.location)
    if getattr(model.config, "is_encoder_decoder", False):
        what, hint = "anchors are of encoders and of decoders", "merge a model of both by another method"
        raise CheckpointError(what, where=where, why=f"a {name} is both", hint=hint)
    text = getattr(model.config, "text_config", None) or model.config
    width = int(text.hidden_size)
    layers = [unit for unit in model.units if unit.layer]
    if not layers:
        what = f"a {name} has no stack of layers"
        raise CheckpointError(what, where=where, hint="anchors are found for each layer of a stack")
    if not whole:
        found = [_mlp(model, unit, width) for unit in layers]
    else:
        for unit in layers:
            _refuse_mixture(model, unit.name, unit.module)
        calls = _calls(model, tokens, where)
        found: list[Block] = []
        for unit in layers:
            given, named = calls.get(unit.name, ((), {}))
            found.append(Block(unit.name, unit.module, _names(unit.module, unit.name), width, True, given, named))
    for block in (found[0], found[-1]):
        _try(block, model, where, tokens)
    return found


def _mlp(model: StreamedModel, unit: Unit, width: int) -> Block:
    inside = next((name for name in MLPS if hasattr(unit.module, name)), None)
    if inside is None:
        what = f"{unit.name!r} has no MLP of its own"
        hint = "take whole blocks, if they can be run by themselves"
        raise CheckpointError(what, where=Where(model.view.donor.location), hint=hint)
    path = f"{unit.name}.{inside}"
    part = getattr(unit.module, inside)
    _refuse_mixture(model, path, part)
    return Block(path, part, _names(part, path), width, False)


def _refuse_mixture(model: StreamedModel, path: str, part: Any) -> None:
    if any("expert" in model.roles(piece[0]) for name in _names(part, path).values() for piece in model.stored(name)):
        what, hint = f"{path!r} is a mixture of experts", "merge mixtures by another method"
        why = "which expert gets an anchor is no smooth function of it"
        raise CheckpointError(what, where=Where(model.view.donor.location), why=why, hint=hint)


def _names(module: Any, path: str) -> dict[str, str]:
    return {name: f"{path}.{name}" for name, _ in module.named_parameters()}


def _calls(model: StreamedModel, tokens: int, where: Where) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """What the model gives each of its blocks beside the hidden states, seen while one text of so many tokens passes it.

    Nothing for models that read no tokens: their blocks get hidden states alone.
    """
    import torch

    if getattr(model.module, "main_input_name", "input_ids") != "input_ids":
        return {}
    most = getattr(model.config, "max_position_embeddings", None) or tokens
    if tokens > most:
        what, why = f"anchors of {tokens} tokens are too long", f"the model takes {most} at once"
        raise CheckpointError(what, where=where, why=why, hint=f"at most {most}")
    seen: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def call(unit: Unit, ask: Any, args: Any, kwargs: Any) -> Any:
        if unit.layer:
            rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
            seen[unit.name] = tuple(args[1:]), rest
        return ask(lambda: unit.forward(*args, **kwargs))

    def run() -> None:
        ids = torch.ones(1, tokens, dtype=torch.long)
        with torch.no_grad():
            model.module(input_ids=ids, attention_mask=torch.ones_like(ids))

    model.prepare(Shared())
    passes = Passes(model, call)
    try:
        passes.run([run], last=model.is_head)
    finally:
        for unit in model.units:
            unit.module.forward = unit.forward
    return seen


def _moved(value: Any, device: Any) -> Any:
    """Tensors on a device, in whatever they stand."""
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return value.to(device) if hasattr(value, "untyped_storage") else value


def _try(block: Block, model: StreamedModel, where: Where, tokens: int) -> None:
    """Run the block once, so that one that wants more than rows is refused before any work."""
    import torch

    rows = torch.zeros(2, tokens, block.width) if block.whole else torch.zeros(2, block.width)
    try:
        with torch.no_grad():
            out = block(block.weights(model), rows)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        what, why = f"{block.name!r} cannot be run by itself", str(error).splitlines()[0]
        raise CheckpointError(what, where=where, why=why, hint="take the MLPs alone") from None
    if out.shape != rows.shape:
        what, why = f"{block.name!r} cannot be run by itself", f"it gives {tuple(out.shape)} for {tuple(rows.shape)}"
        raise CheckpointError(what, where=where, why=why, hint="merge this family by another method")
