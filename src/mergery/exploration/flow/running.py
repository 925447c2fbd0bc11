"""Models in memory whose layers are passed in any order: each layer is there once, however often it is passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from mergery.errors import CheckpointError
from mergery.evaluation.loading import Head, Loaded
from mergery.evaluation.models import Subject
from mergery.evaluation.task import digest
from mergery.exploration.flow.path import Path


class FlowModel:
    """The layers of several models, and the one module that passes them along a path.

    The module is the first model's: its embeddings, last norm, head and tokenizer. Hidden sizes and what a layer is told of
    positions must be the same in all, which the plan of a stack of them checks before anything is loaded.
    """

    def __init__(self, subjects: Mapping[str, Subject], head: Head, dtype: str) -> None:
        """Load all models. Raises CheckpointError where one has no list of layers."""
        self.names = list(subjects)
        self.loaded = {name: subject.load(head, dtype) for name, subject in subjects.items()}
        self.head: Head = head
        self.marks = [subject.fingerprint for subject in subjects.values()]
        self.stacks = {name: _stack_of(each.module, name) for name, each in self.loaded.items()}
        self.layers = {name: list(getattr(*stack)) for name, stack in self.stacks.items()}
        self.types = {name: getattr(_text(each.config), "layer_types", None) for name, each in self.loaded.items()}

    @property
    def depths(self) -> dict[str, int]:
        """The number of layers of each model."""
        return {name: len(layers) for name, layers in self.layers.items()}

    def follow(self, path: Path) -> Loaded:
        """The first model, with its layers those of the path. It is the same module each time."""
        from torch import nn

        own = self.loaded[path.ends]
        owner, name = self.stacks[path.ends]
        hops = [
            _hop_class()(self.layers[hop.model][hop.layer], number, hop.scale) for number, hop in enumerate(path.hops)
        ]
        setattr(owner, name, nn.ModuleList(hops))
        config = _text(own.config)
        for key in ("num_hidden_layers", "n_layer"):
            if key in config.to_dict():
                setattr(config, key, len(hops))
        if self.types[path.ends] is not None:
            config.layer_types = [(self.types[hop.model] or ["full_attention"])[hop.layer] for hop in path.hops]
        return own

    def subject(self, path: Path, name: str) -> Subject:
        """The path as something to evaluate."""
        own = self.loaded[path.ends]
        mark = digest([self.marks, path.plain])
        return Subject(name, mark, own.config.to_dict(), lambda head, dtype: self.follow(path))


def _text(config: Any) -> Any:
    return getattr(config, "text_config", None) or config


def _stack_of(module: Any, name: str) -> tuple[Any, str]:
    """The module that holds the list of layers, and the list's name there. Raises CheckpointError."""
    from torch import nn

    found = [
        (owner, attribute)
        for owner in module.modules()
        for attribute, child in owner.named_children()
        if isinstance(child, nn.ModuleList) and len(child) > 1
    ]
    if len(found) != 1:
        why = f"it has {len(found)} lists of layers" if found else "it has no list of layers"
        hint = "decoders such as Llama, Qwen, Mistral and GPT-2 have one"
        raise CheckpointError(f"paths through {name} cannot be searched", why=why, hint=hint)
    return found[0]


@cache
def _hop_class() -> Any:
    """The class of hops, made when torch is there."""
    from torch import nn

    class HopModule(nn.Module):
        """A layer at a place of a path. Its keys and values are kept under the place, and not under its own number."""

        def __init__(self, layer: Any, place: int, scale: float) -> None:
            super().__init__()
            self._modules["layer"] = layer
            self.place, self.scale = place, scale

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("layer"), name)

        def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            layer: Any = self._modules["layer"]
            for part in layer.modules():
                if hasattr(part, "layer_idx"):
                    part.layer_idx = self.place
            scaled = hidden_states if self.scale == 1.0 else hidden_states * self.scale
            return layer(scaled, *args, **kwargs)

    return HopModule


def logits_of(loaded: Loaded, texts: Sequence[str]) -> Any:
    """The logits of texts, one after the other, flat."""
    import torch

    found = []
    with torch.inference_mode():
        for text in texts:
            ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"].to(loaded.module.device)
            found.append(loaded.module(input_ids=ids).logits.float().cpu().flatten())
    return torch.cat(found)
