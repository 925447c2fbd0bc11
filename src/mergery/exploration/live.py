"""A model in memory that follows a recipe from candidate to candidate: only tensors that a change touches are made again."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergery.checkpoints.base import Checkpoint
from mergery.dtypes import BF16, BF16_IN_F32, BY_TORCH, F32, DType
from mergery.engine import Held
from mergery.errors import PlanError, size
from mergery.evaluation.loading import Head, Loaded, assembled, quiet, tokenizer_of
from mergery.evaluation.models import Subject
from mergery.evaluation.task import digest
from mergery.exploration.keys import Keys
from mergery.planning.coordinates import transform_of
from mergery.planning.layout import Slot
from mergery.planning.measurements import statistics_of
from mergery.planning.opening import open_all
from mergery.planning.plan import Plan, no_collections, plan_recipe
from mergery.planning.steps import Step
from mergery.recipe import Recipe, Source
from mergery.report.files import side_files
from mergery.report.machine import available_memory
from mergery.run.estimate import machine_memory
from mergery.run.events import Notify, Planned, ignore
from mergery.run.merging import merge_to_memory, prepare
from mergery.run.workers import Options, Run

if TYPE_CHECKING:
    from torch import Tensor


class LiveModel:
    """One transformers model, whose parameters become those of one recipe after another.

    The checkpoints are opened once. The first recipe is merged in memory and loaded as `mergery evaluate` loads a recipe; of
    each later one the tensors that are made of something else are written over the old ones, window by window, so nothing
    is held twice. A candidate of another shape or config, and one whose module keeps weights in another form than its files,
    is loaded anew. A score is what evaluating the merged folder would give.
    """

    def __init__(
        self,
        recipe: Recipe,
        head: Head,
        *,
        dtype: str = "float32",
        tokenizer: Any = None,
        sources: str = "",
        threads: int = 0,
        room: int | None = None,
    ) -> None:
        """Opens the models of a recipe, and says what is wrong with it. Nothing is computed yet. Raises MergeryError.

        sources: what tells the models apart from others, where that is known: files are not hashed again.
        threads: to merge with; 0 takes one for each core.
        room: bytes of inputs that are kept in memory from candidate to candidate; None: half of what is free.
        """
        self.head: Head = head
        self.dtype, self.tokenizer = dtype, tokenizer
        self.options = Options(threads=threads)
        self.checkpoints: Mapping[str, Checkpoint] = open_all(recipe)
        self.models = set(recipe.models)
        beside = {
            statistics_of(name, other): name
            for name, model in recipe.models.items()
            for other in (model.measured if isinstance(model, Source) else ())
        }
        beside |= {transform_of(name): name for name in recipe.models}
        self.owners = {name: beside.get(name, name) for name in self.checkpoints}  # the model that each belongs to
        self.room, self.inputs = room, Held(0)
        self.loaded: Loaded | None = None
        self.keys: dict[str, bytes] = {}  # of the tensors that the module holds
        self.held = ""  # the digest of the plan that the module holds
        self.places: frozenset[str] = frozenset()  # the merged tensors that it takes as they are
        self.whole = False  # whether the module must be made anew for every candidate
        self.made = 0  # tensors that the last step made
        try:
            plan = self.plan(recipe)
            if plan.adapter is not None:
                raise PlanError(
                    "a search is for models, and this recipe makes an adapter", hint="leave out output: adapter"
                )
            if not plan.config:
                why, hint = "none of its models brings a config.json", "name one of them by a folder that has it"
                raise PlanError("the merged model has no config", why=why, hint=hint)
        except BaseException:
            self.close()
            raise
        sizes = [math.prod(step.slot.info.shape) for step in plan.steps]
        self.bytes_loaded = sum(sizes) * F32.itemsize + plan.bytes_out
        self.facts = (plan.recipe.title, plan.digest, len(plan.steps), plan.bytes_in, plan.bytes_out)
        self.hold()
        self.shape: Any = None  # of the model that the module is: its config and its tensors
        self.stamps = plan.stamps
        self.sources = sources or digest({name: _content(checkpoint) for name, checkpoint in self.checkpoints.items()})

    def hold(self, workers: int = 1, notify: Notify = ignore) -> int:
        """Settle how many bytes of inputs each of so many models like this one keeps in memory, at most, and tell.

        Where it is not said, that is half of what is free beside the models and the merges that they are made of.
        """
        free = available_memory()
        each = (machine_memory() if free is None else free) // workers - self.bytes_loaded
        self.inputs.room = max(0, each // 2) if self.room is None else self.room
        whose = f" by each of {workers} workers" if workers > 1 else ""
        note = f"what is read of the models is kept in memory, {size(self.inputs.room)} of it at most{whose}"
        notify(Planned(*self.facts, [note], []))
        return self.inputs.room

    def plan(self, recipe: Recipe) -> Plan:
        """The plan of a candidate, over the models that are open. Raises MergeryError."""
        idle = self.models - recipe.models.keys()
        used = {name: each for name, each in self.checkpoints.items() if self.owners[name] not in idle}
        with no_collections():
            plan = plan_recipe(recipe, used, ())
        plan.check_ready()
        return plan

    def subject(self, recipe: Recipe, name: str) -> Subject:
        """A candidate as something to evaluate: the model follows it when it is asked."""
        plan = self.plan(recipe)

        def load(head: Head, dtype: str) -> Loaded:
            if head != self.head or dtype != self.dtype:
                why = f"it was opened for {self.head} in {self.dtype}"
                raise PlanError(
                    f"the model has no {head} head in {dtype} here", why=why, hint="search with tasks of one kind"
                )
            return self.follow(plan)

        return Subject(name, digest([self.sources, plan.digest]), plan.config.plain(), load)

    def follow(self, plan: Plan) -> Loaded:
        """Give the module the tensors of a plan. Raises MergeryError."""
        if self.loaded is not None and self.held == plan.digest:  # each portion of the items asks for the model
            return self.loaded
        if any(checkpoint.stamp() != self.stamps[name] for name, checkpoint in self.checkpoints.items()):
            raise PlanError("the models have changed since the search began", hint="begin a new search")
        shape = (
            plan.config.plain(),
            {step.name: (step.slot.info.shape, step.slot.info.dtype.name) for step in plan.steps},
        )
        keys, known = Keys(plan), self.keys
        self.inputs.begin(keys.of)
        wanted = {step.name: keys.of(step.node) for step in plan.steps}
        if self.loaded is None or self.whole or shape != self.shape:
            self.loaded, self.made, self.shape = self._load(plan), len(plan.steps), shape
        else:
            same = {name: "" for name, key in wanted.items() if known.get(name) == key}
            # Where the merge fails half way, the others are of no recipe.
            self.keys, self.held = {name: known[name] for name in same}, ""
            state = self.loaded.module.state_dict(
                keep_vars=True
            )  # asked anew: on another device they are other tensors
            places = {name: state[name].detach().view(-1) for name in self.places}
            sink = ParameterSink(places, same)
            Run(plan, sink, self.options, ignore, hashed=False, held=self.inputs).execute()
            self.made = len(plan.steps) - len(same)
        self.keys, self.held = wanted, plan.digest
        return self.loaded

    def _load(self, plan: Plan) -> Loaded:
        """Merge the whole in memory, and make transformers' model of it."""
        if self.loaded is None:
            prepare(plan, ignore, self.options)
        self.loaded = None  # one at a time
        merged = merge_to_memory(plan, self.options, ignore, self.inputs)
        with quiet(), tempfile.TemporaryDirectory(prefix="mergery-") as folder:
            for file, content in side_files(plan).items():
                place = Path(folder, file)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            module = assembled(merged, Path(folder), self.head, self.dtype, "merge")
            loaded = Loaded(module.eval(), tokenizer_of(self.tokenizer, Path(folder)))
        self.places = _places(module, merged)
        self.whole = not self.places
        return loaded

    def let_go(self) -> None:
        """Free the memory of the module, and of what was read for it."""
        self.loaded, self.keys, self.held = None, {}, ""
        self.inputs.clear()

    def close(self) -> None:
        """Close the models' files, and let go of the module."""
        self.let_go()
        for checkpoint in self.checkpoints.values():
            checkpoint.close()


def _places(module: Any, merged: Mapping[str, Tensor]) -> frozenset[str]:
    """The merged tensors that the module has under their names; none where it keeps some of them in another form.

    Every value is compared, so that what is written over later is what was read. Merged tensors that the module does not
    take have no place.
    """
    import torch

    state = dict(module.state_dict(keep_vars=True))
    held = {tensor.data_ptr() for name, tensor in state.items() if name in merged}
    if any(tensor.data_ptr() not in held for tensor in state.values() if tensor.numel()):
        return frozenset()
    places: list[str] = []
    for name, tensor in merged.items():
        own = state.get(name)
        if own is None:
            continue
        if own.shape != tensor.shape or not torch.equal(own.detach().cpu(), tensor.to(own.dtype)):
            return frozenset()
        places.append(name)
    return frozenset(places)


class ParameterSink:
    """Writes tensors over a module's own, in its dtype."""

    def __init__(self, places: Mapping[str, Tensor], done: Mapping[str, str]) -> None:
        self.places = places
        self.done: dict[str, str] = dict(done)

    def write(self, slot: Slot, start: int, data: np.ndarray) -> None:
        """`data` are bytes in the tensor's own dtype, from byte `start` of it on."""
        import torch

        place = self.places.get(slot.info.name)
        if place is None:
            return
        values = torch.from_numpy(data).view(getattr(torch, slot.info.dtype.torch))
        first = start // slot.info.dtype.itemsize
        place[first : first + values.numel()].copy_(values)

    def memory(self, slot: Slot) -> tuple[np.ndarray, DType] | None:
        """See `mergery.run.workers.Run.memory`: the parameter's own, where it holds what the kernels write."""
        import torch

        place, dtype = self.places.get(slot.info.name), slot.info.dtype
        if place is None or place.device.type != "cpu":
            return None
        own = BY_TORCH[str(place.dtype).removeprefix("torch.")]
        kind = BF16_IN_F32 if (dtype, own) == (BF16, F32) else dtype
        return (place.view(torch.uint8).numpy(), kind) if kind.torch == own.torch else None

    def finished(self, steps: Sequence[Step], digests: Mapping[str, str]) -> None:
        """Tensors are whole."""
        self.done.update(digests)


def _content(checkpoint: Checkpoint) -> Any:
    from mergery.evaluation.content import content_of

    return content_of(checkpoint)
