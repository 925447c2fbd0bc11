"""A model whose weights come and go: transformers' own classes without weights, and units that are filled as they are run.

A unit is a block of a stack of layers, or a module without parts outside of stacks. What a unit computes is transformers' own
code; its weights are read from the nodes of a view, so that a merge that was never written can be run like a model on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mergery.architecture import read_architecture
from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.checkpoints.config import Config
from mergery.dtypes import BY_TORCH, F32
from mergery.engine import Shared, Workspace, evaluator
from mergery.errors import CheckpointError, Where, listed
from mergery.evaluation.loading import check_transformers, quiet
from mergery.graph.findings import Findings
from mergery.graph.nodes import Gathered, Node, Stored
from mergery.graph.view import View
from mergery.kernels.memory import return_large_blocks
from mergery.views.heads import truly_tied
from mergery.views.respelling import respelled

MEANT = "it can be merged; to calibrate it, transformers must have its class"


@dataclass
class Unit:
    """A part of a model that is filled with its weights to be run, and emptied after."""

    name: str
    module: Any
    parameters: list[tuple[Any, str, str]]  # the module that holds it, its name there, its name in the model
    layer: bool  # whether it is a block of a stack
    forward: Callable[..., Any] = field(init=False)

    def __post_init__(self) -> None:
        self.forward = self.module.forward


class StreamedModel:
    """A model of transformers over a view: units, and the nodes of their weights."""

    def __init__(self, view: View) -> None:
        """Raises CheckpointError where the model cannot be run, or weights of it are missing."""
        return_large_blocks()
        view = truly_tied(view, Findings())
        self.view, self.shared, self.workspace = view, Shared(), Workspace()
        self.module = build(view)
        self.config = self.module.config
        self.nodes = self._find_weights(view)
        self.names = {id(node): name for name, node in view.nodes.items()}
        self.units = list(self._units("", self.module, set()))

    def _find_weights(self, view: View) -> dict[str, Node]:
        """The node of every parameter and stored buffer of the module."""
        tied = dict(getattr(self.module, "all_tied_weights_keys", None) or {})
        state = {name: value for name, value in self.module.state_dict().items() if name not in tied}
        skeleton = _Skeleton(
            {
                name: TensorInfo(name, tuple(value.shape), BY_TORCH[str(value.dtype).removeprefix("torch.")])
                for name, value in state.items()
            }
        )
        wanted: dict[str, Node] = {name: Stored("model", skeleton, info) for name, info in skeleton.tensors.items()}
        donor = View("model", wanted, read_architecture(skeleton.tensors.values(), view.config), view.config, skeleton)
        found = dict(respelled(donor, view, Findings()).nodes)
        missing = [name for name in state if name not in found]
        if missing:
            raise CheckpointError(
                f"a {type(self.module).__name__} cannot be made of {view.name}",
                where=Where(view.donor.location),
                why=f"{listed(missing)} would be random",
                hint="check that the files are complete, and that config.json names their class under architectures",
            )
        wrong = [name for name in state if found[name].shape != tuple(state[name].shape)]
        if wrong:
            shapes = f"{wrong[0]!r} is {list(found[wrong[0]].shape)}, and its config says {list(state[wrong[0]].shape)}"
            raise CheckpointError(
                f"a {type(self.module).__name__} cannot be made of {view.name}",
                where=Where(view.donor.location),
                why=shapes,
                hint="take config.json and weights from one model",
            )
        nodes = {name: found[name] for name in state}
        while tied:
            known = {alias: target for alias, target in tied.items() if target in nodes}
            nodes |= {alias: nodes[target] for alias, target in known.items()}
            tied = {alias: target for alias, target in tied.items() if alias not in known} if known else {}
        return nodes

    def _units(self, prefix: str, module: Any, seen: set[int]) -> Iterator[Unit]:
        from torch import nn

        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if isinstance(child, nn.ModuleList):
                for index, block in enumerate(child):
                    yield self._unit(f"{path}.{index}", block, layer=True)
            elif next(child.children(), None) is not None:
                yield from self._units(f"{path}.", child, seen)
            elif next(child.parameters(), None) is not None and id(child) not in seen:
                seen.add(id(child))
                yield self._unit(path, child, layer=False)

    def _unit(self, path: str, module: Any, *, layer: bool) -> Unit:
        parameters = [
            (inner, own, ".".join(part for part in (path, name, own) if part))
            for name, inner in module.named_modules()
            for own, value in inner._parameters.items()
            if value is not None
        ]
        return Unit(path, module, parameters, layer)

    def prepare(self, shared: Shared) -> None:
        """Load what belongs to no unit: stored buffers, and the few parameters of modules that have parts.

        `shared` holds what the merges below ask of whole models.
        """
        import torch

        self.shared = shared
        inside = {name for unit in self.units for _, _, name in unit.parameters}
        for path, module in self.module.named_modules():
            for own, value in [*module._parameters.items(), *module._buffers.items()]:
                name = f"{path}.{own}" if path else own
                if value is None or name in inside or name not in self.nodes or not self.nodes[name].dtype.floating:
                    continue
                read = self.read(name).to(value.dtype)
                if own in module._parameters:
                    module._parameters[own] = torch.nn.Parameter(read, requires_grad=False)
                else:
                    module._buffers[own] = read

    def read(self, name: str) -> Any:
        """The weights of a parameter: a float32 tensor of its shape. Raises DataError for what is not finite."""
        return self.values(self.nodes[name])

    def values(self, node: Node) -> Any:
        """What a node is: a float32 tensor of its shape. Raises DataError for what is not finite."""
        import torch

        values = np.empty(node.elements, dtype=np.float32)
        making = evaluator(node, self.shared, self.workspace)
        making.prepare()
        for start, stop in making.outputs():
            making.compute(start, stop, values[start:stop].view(np.uint8), F32)
        return torch.from_numpy(values).reshape(node.shape)

    @contextmanager
    def filled(self, unit: Unit) -> Iterator[dict[str, Any]]:
        """The unit with its weights, which are given by name; gone when the context ends."""
        import torch

        empty = {name: holder._parameters[own] for holder, own, name in unit.parameters}
        given = {name: torch.nn.Parameter(self.read(name), requires_grad=False) for _, _, name in unit.parameters}
        try:
            for holder, own, name in unit.parameters:
                holder._parameters[own] = given[name]
            yield given
        finally:
            for holder, own, name in unit.parameters:
                holder._parameters[own] = empty[name]
            given.clear()

    # --- names ----------------------------------------------------------------------------------------------------------

    def stored(self, name: str, start: int = 0, stop: int | None = None) -> list[tuple[str, int, int, int]]:
        """Which elements of the view's tensors make elements [start, stop) of a parameter: (name, first there, first in the
        parameter, length), in the order of the parameter.
        """
        node = self.nodes[name]
        return list(self._below(node, start, node.elements if stop is None else stop, start))

    def _below(self, node: Node, start: int, stop: int, at: int) -> Iterator[tuple[str, int, int, int]]:
        if id(node) in self.names:
            yield self.names[id(node)], start, at, stop - start
        elif isinstance(node, Gathered):
            ends = np.cumsum(node.lengths)
            first = int(np.searchsorted(ends, start, side="right"))
            done = start
            while done < stop:
                end = min(stop, int(ends[first]))
                inside = int(node.starts[first]) + done - int(ends[first] - node.lengths[first])
                if node.which[first] >= 0:
                    source = node.sources[int(node.which[first])]
                    yield from self._below(source, inside, inside + end - done, at + done - start)
                done, first = end, first + 1

    def roles(self, name: str) -> tuple[str, ...]:
        """The roles of one of the view's tensors."""
        return self.view.architecture.names[name].roles

    def is_head(self, unit: Unit) -> bool:
        """Whether a unit gives nothing but the model's answer."""
        if unit.layer:
            return False
        if unit.module is self.module.get_output_embeddings():
            return True  # also where it is stored as the embeddings
        names = [piece[0] for _, _, name in unit.parameters for piece in self.stored(name)]
        return all(self.roles(name)[0] == "head" for name in names)


class _Skeleton(Checkpoint):
    """The names and shapes of a module without weights."""

    label = location = "transformers"

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self._tensors = tensors

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        raise AssertionError(f"{name!r} has no bytes")


# --- the module ---------------------------------------------------------------------------------------------------------


def build(view: View) -> Any:
    """transformers' module for a view's config, in eval mode, its parameters on the meta device. Raises CheckpointError."""
    check_transformers()
    import torch

    where = Where(view.donor.location)
    if not view.config:
        raise CheckpointError("this model has no config.json", where=where, hint="calibration runs the model")
    with quiet():
        config = config_of(view.config, where)
        family = class_of(config, view.config, where)
        with parameters_on_meta():
            module = family._from_config(config, dtype=torch.float32, **_options(family))
    for part in module.modules():
        if hasattr(part, "config"):
            part.config.use_cache = False  # keys and values that are kept would be there when a unit is run again
    return module.eval()


def _options(family: Any) -> dict[str, str]:
    """Experts one by one, as only so it is seen which tokens each gets."""
    able = getattr(family, "_can_set_experts_implementation", None)
    return {"experts_implementation": "eager"} if able is not None and able() else {}


def config_of(config: Config, where: Where) -> Any:
    """transformers' config object. Raises CheckpointError for a model type that it does not know."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config.family
    if kind is None or kind not in CONFIG_MAPPING:
        what = f"transformers knows no model of type {kind!r}" if kind else "config.json has no model_type"
        raise CheckpointError(what, where=where, why="code that comes with a model is never run", hint=MEANT)
    plain = config.plain()
    plain.pop("quantization_config", None)
    return CONFIG_MAPPING[kind].from_dict(plain)


def class_of(config: Any, stated: Config, where: Where) -> Any:
    """The class of transformers that the config names, or that knows its language models. Raises CheckpointError."""
    import transformers
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    for name in stated.get("architectures") or ():
        found = getattr(transformers, str(name), None)
        if found is not None and hasattr(found, "_from_config"):
            return found
    autos = (AutoModelForSeq2SeqLM,) if stated.get("is_encoder_decoder") else (AutoModelForCausalLM,)
    for auto in (*autos, AutoModel):
        if type(config) in auto._model_mapping:
            found = auto._model_mapping[type(config)]
            return found[0] if isinstance(found, (list, tuple)) else found
    raise CheckpointError(f"transformers has no model for a {type(config).__name__}", where=where, hint=MEANT)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules made in this context have parameters without memory; their buffers are real."""
    from torch import nn

    register = nn.Module.register_parameter

    def without_memory(self: Any, name: str, param: Any) -> None:
        register(self, name, param)
        if param is not None:
            self._parameters[name] = nn.Parameter(param.data.to("meta"), requires_grad=False)

    nn.Module.register_parameter = without_memory
    try:
        yield
    finally:
        nn.Module.register_parameter = register
