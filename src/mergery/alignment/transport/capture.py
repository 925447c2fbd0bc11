"""What a model's neurons say on texts, kept in files: the model runs block by block, and a file is read when it is compared.

There is a file of float32 (rows, neurons) for each space of each layer (`parts.SPACES`). A run that was killed goes on behind
the last block that it had finished.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mergery.alignment.transport.parts import SPACES, Part, Parts, find_parts
from mergery.alignment.transport.texts import Tokens
from mergery.calibration.data import ROWS, Row, inputs_of
from mergery.calibration.model import StreamedModel, Unit
from mergery.calibration.passes import Passes, Shelf
from mergery.calibration.products import Products
from mergery.checkpoints.base import TensorInfo
from mergery.dtypes import F32
from mergery.errors import CheckpointError, DataError, Where
from mergery.run.output import write_at_once

JOURNAL = "done.json"
Place = tuple[int, str]  # a layer, and a space or a module


@dataclass
class Activations:
    """The files of one model: its neurons on `rows` rows."""

    folder: Path
    rows: int
    sizes: Mapping[Place, int]  # neurons by layer and space

    def file(self, place: Place) -> Path:
        return self.folder / f"{place[0]:05d} {place[1]}.f32"

    def read(self, place: Place) -> Any:
        """float32 (rows, neurons), in memory."""
        import torch

        return torch.from_numpy(np.fromfile(self.file(place), np.float32).reshape(self.rows, self.sizes[place]))

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return F32.itemsize * self.rows * sum(self.sizes.values())


def sizes_of(parts: Parts, modules: Sequence[str]) -> dict[Place, int]:
    """How many neurons there are in each space of each layer that has the modules."""
    found: dict[Place, int] = {}
    for (layer, module), part in parts.items():
        if module in modules:
            before, after = SPACES[module]
            found[layer, before], found[layer, after] = part.shape[1], part.shape[0]
    return found


def parameters_of(model: StreamedModel) -> dict[str, list[Part]]:
    """The parts in each parameter of a model of transformers."""
    infos = [TensorInfo(name, node.shape, F32) for name, node in model.nodes.items()]
    found: dict[str, list[Part]] = {}
    for part in find_parts(infos, model.view.config).values():
        found.setdefault(part.name, []).append(part)
    return found


def check_tokens(model: StreamedModel, texts: Sequence[Tokens]) -> None:
    """Refuse tokens that a model has no rows for. Raises CheckpointError."""
    rows = model.module.get_input_embeddings().weight.shape[0]
    largest = max(max(text.ids) for text in texts)
    if largest >= rows:
        why = f"a text has the token {largest}, and the model has {rows} rows"
        where = Where(model.view.donor.location)
        raise CheckpointError(
            "the tokenizer is not the model's", where=where, why=why, hint="give the model's own folder"
        )


def capture(
    model: StreamedModel,
    parts: Parts,
    texts: Sequence[Tokens],
    rows: int,
    modules: Sequence[str],
    folder: Path,
    *,
    device: str = "cpu",
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Activations:
    """Run a model on texts, and keep what the neurons of some modules say at the texts' places, or in the mean.

    parts:  the model's own (`find_parts` of its stored tensors).
    told:   called with how many units have been run, and of how many.

    Raises DataError where activations are not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = Activations(folder, rows, sizes_of(parts, modules))
    return _Capture(model, kept, texts, modules, device).run(told)


@dataclass
class _Capture:
    """One capture under way."""

    model: StreamedModel
    kept: Activations
    texts: Sequence[Tokens]
    modules: Sequence[str]
    device: str
    files: dict[Place, np.ndarray] = field(default_factory=dict)  # of the unit at hand
    seen: set[Place] = field(default_factory=set)  # spaces that the batch at hand has told of

    def run(self, told: Callable[[int, int], None]) -> Activations:
        import torch

        firsts = np.cumsum([0, *(len(text.places) or 1 for text in self.texts)])
        self.firsts = firsts.tolist()
        assert self.firsts[-1] == self.kept.rows
        self.parameters = parameters_of(self.model)
        self.watch: _Watch | None = None
        batches = threading.local()  # of each pass: which texts it is of
        tokens = sum(len(text.ids) for text in self.texts)
        text = getattr(self.model.config, "text_config", None) or self.model.config
        width = int(getattr(text, "hidden_size", 0) or getattr(text, "n_embd", 0) or 1)
        shelf = Shelf(self.kept.folder, 2 * tokens * width * F32.itemsize)
        done = self._done()
        visits = 0

        def call(unit: Unit, ask: Any, args: Any, kwargs: Any) -> Any:
            numbers = batches.numbers

            def work() -> Any:
                if self.watch is not None:
                    self.watch.numbers = numbers
                    self.seen.clear()
                given, named = _moved(args, self.device), _moved(kwargs, self.device)
                return shelf.keep(_moved(unit.forward(*given, **named), "cpu"))

            return ask(work)

        @contextmanager
        def before(unit: Unit, weights: Mapping[str, Any]) -> Iterator[None]:
            nonlocal visits
            visits += 1
            with torch.no_grad(), _placed(unit, self.device):
                if unit.name in done:
                    yield
                    return
                self.watch = _Watch(self, weights)
                with self.watch:
                    yield
                self.watch = None
                self._finish(unit, done)

        def function(numbers: Sequence[int]) -> Callable[[], None]:
            def run() -> None:
                batches.numbers = numbers
                given = [Row((), self.texts[number].ids) for number in numbers]
                with torch.no_grad():
                    self.model.module(**inputs_of(given, self.model.config))

            return run

        Passes(self.model, call).run(
            [function(numbers) for numbers in self._batches()],
            before=before,
            last=self.model.is_head,
            told=lambda unit: told(visits, len(self.model.units)),
        )
        return self.kept

    def _batches(self) -> list[list[int]]:
        """Texts of one length together, about 4096 tokens at a time."""
        groups: dict[int, list[int]] = {}
        for number, text in enumerate(self.texts):
            groups.setdefault(len(text.ids), []).append(number)
        found = []
        for length, group in groups.items():
            size = max(1, ROWS // length)
            found += [group[start : start + size] for start in range(0, len(group), size)]
        return found

    def take(self, part: Part, inputs: Any, outputs: Any, numbers: Sequence[int]) -> None:
        """Keep what a module has read and said on a batch."""
        before, after = SPACES[part.module]
        own = outputs if part.outputs is None else outputs[..., part.outputs]
        for space, values in ((before, inputs), (after, own)):
            place = (part.layer, space)
            if place in self.seen or place not in self.kept.sizes:
                continue
            self.seen.add(place)
            values = values.detach().reshape(len(numbers), -1, values.shape[-1])
            file = self._file(place)
            for number, each in zip(numbers, values, strict=True):
                first, places = self.firsts[number], self.texts[number].places
                found = each[list(places)] if places else each.double().mean(0, keepdim=True)
                file[first : first + len(found)] = found.float().cpu().numpy()

    def _file(self, place: Place) -> np.ndarray:
        if place not in self.files:
            shape = (self.kept.rows, self.kept.sizes[place])
            self.files[place] = np.memmap(self.kept.file(place), np.float32, "w+", shape=shape)
        return self.files[place]

    def _finish(self, unit: Unit, done: list[str]) -> None:
        for place, file in self.files.items():
            if not np.isfinite(file).all():
                what = f"what {self.model.view.name} says in layer {place[0]} holds NaN or infinity"
                raise DataError(what, hint="the model overflows on this data")
            file.flush()  # pyright: ignore[reportAttributeAccessIssue] - a memmap
        self.files.clear()
        done.append(unit.name)
        write_at_once(self.kept.folder / JOURNAL, json.dumps(done))

    def _done(self) -> list[str]:
        """The units that an interrupted run has finished."""
        try:
            return list(json.loads((self.kept.folder / JOURNAL).read_text()))
        except (OSError, ValueError):
            return []


class _Watch(Products):
    """Sees every product with a unit's weights, what it is of and what comes of it."""

    def __init__(self, capture: _Capture, weights: Mapping[str, Any]) -> None:
        super().__init__(weights)
        self.capture = capture
        self.numbers: Sequence[int] = ()
        self.products: list[tuple[str, Any]] = []  # of the call at hand

    def found(self, name: str, rows: Any, matrix: Any, turned: bool) -> None:
        """See `Products.found`."""
        self.products.append((name, rows))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products.clear()
        result = super().__torch_function__(func, types, args, kwargs)
        for name, rows in self.products:
            for part in self.capture.parameters.get(name, ()):
                if part.module in self.capture.modules:
                    self.capture.take(part, rows, result, self.numbers)
        return result


@contextmanager
def _placed(unit: Unit, device: str) -> Iterator[None]:
    """A unit on a device; on the processor it stays where it is."""
    if device == "cpu":
        yield
        return
    unit.module.to(device)
    try:
        yield
    finally:
        for module in unit.module.modules():
            module._buffers.update({name: value.cpu() for name, value in module._buffers.items() if value is not None})


def _moved(value: Any, device: str) -> Any:
    """Tensors on a device, in whatever tuples, lists and mappings."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, (tuple, list)):
        kind: Any = type(value)
        moved = [_moved(each, device) for each in list[Any](value)]
        return kind(*moved) if hasattr(value, "_fields") else kind(moved)
    if isinstance(value, dict):
        return type(value)({name: _moved(each, device) for name, each in value.items()})
    return value
