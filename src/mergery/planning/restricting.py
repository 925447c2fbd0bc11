"""A part of a view: what `--only` names. It is a model of its own, with fewer layers, as far as that can be said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mergery.architecture import read_architecture
from mergery.architecture.depth import Origin, restack_config
from mergery.checkpoints.base import TensorInfo
from mergery.errors import PlanError, RecipeError, listed, ranges
from mergery.graph.view import View
from mergery.planning.nodes import target_of
from mergery.recipe.values import PARTS, ROLES, Condition, parse_condition


@dataclass(frozen=True)
class Fragment:
    """A part of a model's tensors, with the config that it loads by."""

    view: View
    names: Mapping[str, str]  # in the whole model, by those in the fragment
    words: str  # what is in it and what is not


def restrict(view: View, only: tuple[str, ...]) -> Fragment:
    """The part of a view that any of the words names. Raises RecipeError for a word that names nothing."""
    conditions = {word: only_condition(word) for word in only}
    targets = {name: target_of(name, parsed) for name, parsed in view.architecture.names.items()}
    for word, condition in conditions.items():
        if not any(condition.holds(target) for name, target in targets.items() if name in view.nodes):
            layers = f"layers.0-{view.architecture.depth - 1}"
            hint = f"{layers} or some of these, a role such as attention.k, or a pattern such as '*.k_proj.weight'"
            raise RecipeError(f"--only {word} names no tensor", hint=hint)
    kept = [name for name in view.nodes if any(condition.holds(targets[name]) for condition in conditions.values())]
    return renumbered(view, kept)


def renumbered(view: View, kept: list[str]) -> Fragment:
    """The tensors `kept` as a model whose layers are counted from 0, where its config can say so."""
    parsed, depth = view.architecture.names, view.architecture.depth
    layers = sorted({layer for name in kept if (layer := parsed[name].layer) is not None})
    config = None
    if view.config.depth == depth and not view.config.get("is_encoder_decoder"):
        origins = [Origin(view.config.language, layer, depth) for layer in layers]
        try:
            config, _ = restack_config(view.config, origins, depth)
        except PlanError:  # its config cannot say it: the layers keep their numbers
            config = None
    number = {layer: place for place, layer in enumerate(layers)} if config is not None else {}
    names: dict[str, str] = {}
    for name in kept:
        layer = parsed[name].layer
        there = None if layer is None else number.get(layer, layer)
        names[name if there is None or there == layer else view.architecture.rename(name, there)] = name
    nodes = {new: view.nodes[name] for new, name in names.items()}
    fragment = replace(view, nodes=nodes)
    if names.keys() != set(kept):
        infos = [TensorInfo(name, node.shape, node.dtype) for name, node in nodes.items()]
        fragment = replace(fragment, architecture=read_architecture(infos, config or view.config))
    words = f"a fragment of the model, to try a recipe: {len(kept)} of its {len(view.nodes)} tensors"
    if layers and len(layers) < depth:
        here = f", which are layers {ranges(range(len(layers)))} here" if number and layers[-1] >= len(layers) else ""
        words += f", of layers {ranges(layers)} of 0-{depth - 1}{here}"
    present = {*kept}
    lacking = [
        name
        for name in view.nodes
        if name not in present and (parsed[name].layer is None or parsed[name].layer in layers)
    ]
    if lacking:
        words += f"; a program that loads it fills {listed(lacking)} with random numbers"
    return Fragment(replace(fragment, config=config or view.config), names, words)


def only_condition(word: str) -> Condition:
    """What `layers.0-1`, `attention.q` or `*.mlp.*` select."""
    if word.startswith("layers."):
        return parse_condition({"layers": word.removeprefix("layers.")})
    return parse_condition({"role": word} if word in ROLES else {"part": word} if word in PARTS else {"name": word})
