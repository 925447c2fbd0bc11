"""What happens while a command runs, for whoever listens: a progress bar, a file of JSON lines, a web page.

The word of an event is its class's name in small letters. Bytes, tensors and items are counted from the beginning of the
work, with what an interrupted run had done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

INTERVAL = 0.1  # seconds between two tellings of progress


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    def plain(self) -> dict[str, Any]:
        """The event as a JSON object: its word under `event`, and its facts."""
        return {"event": type(self).__name__.lower(), **asdict(self)}


Notify = Callable[[Event], None]
Doing = Literal["aligning", "measuring", "merging", "packing", "verifying"]


def ignore(event: Event) -> None:
    """Listens to nothing."""


@dataclass(frozen=True)
class Failed(Event):
    """The command was not carried out, or not to its end."""

    problems: Sequence[Mapping[str, Any]]  # each with `what`, and with `where`, `why`, `try` as far as they are known


# --- merging, packing, verifying ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned(Event):
    """What is to be merged, or packed, is known."""

    what: str  # the method and its models
    digest: str  # of the plan
    tensors: int
    bytes_in: int
    bytes_out: int
    notes: Sequence[str]  # what is not simply merged: changed in shape, copied, left out
    warnings: Sequence[str]


@dataclass(frozen=True)
class Noticed(Event):
    """What only the work itself tells: task vectors no larger than rounding, a candidate that is not finite."""

    warnings: Sequence[str]


@dataclass(frozen=True)
class Downloading(Event):
    """A model's files are on their way to this machine."""

    model: str
    bytes: int
    total: int


@dataclass(frozen=True)
class Started(Event):
    """The first tensor is about to be made."""

    tensors: int
    resumed: int  # tensors that an interrupted run had made


@dataclass(frozen=True)
class Compiling(Event):
    """A kernel is being compiled for this processor; later runs load it."""

    kernel: str


@dataclass(frozen=True)
class Statistics(Event):
    """Tensors are about to be read for what a method asks of the whole model."""

    tensors: int
    names: Sequence[str]  # of what is asked


@dataclass(frozen=True)
class Progress(Event):
    """Bytes written, or read where a folder is verified."""

    doing: Doing
    bytes: int
    total: int


@dataclass(frozen=True)
class Joined(Event):
    """A worker of a cluster is ready to make tensors."""

    machine: str
    process: int


@dataclass(frozen=True)
class Lost(Event):
    """A worker of a cluster is gone; its tensors are made elsewhere."""

    worker: str
    reason: str


@dataclass(frozen=True)
class Finished(Event):
    """The folder of a merge is complete."""

    folder: Path
    seconds: float
    already: bool = False  # it was there before, made by the same plan


@dataclass(frozen=True)
class Packed(Event):
    """The folder of packed models is complete."""

    folder: Path
    tasks: Sequence[str]
    bytes_packed: int
    bytes_apart: int  # of the models that it serves, each on its own in float32


@dataclass(frozen=True)
class Verified(Event):
    """A folder has been compared with its lock."""

    folder: Path
    wrong: Sequence[str]  # one line each; none for a sound folder


@dataclass(frozen=True)
class Pushing(Event):
    """Files are on their way to the hub."""

    repo: str
    files: int
    bytes: int
    notes: Sequence[str]


@dataclass(frozen=True)
class Pushed(Event):
    """A model folder is on the hub."""

    repo: str
    address: str  # of the commit, on the web
    commit: str


@dataclass(frozen=True)
class Proved(Event):
    """A folder that any tool wrote has been compared with what a recipe, or an adapter on its base, makes."""

    folder: str
    outcome: str  # proven, within rounding, wrong, inconclusive
    way: str | None  # what made all of it, to the bit
    tensors: Sequence[str]  # one line for each that is not proven


class Tally:
    """Bytes of work done so far. They are told ten times a second at most, and when all are done, one thread at a time."""

    def __init__(self, doing: Doing, total: int, notify: Notify) -> None:
        self.doing: Doing = doing
        self.total, self.notify = total, notify
        self.done = 0
        self._told = 0.0
        self._lock = threading.Lock()

    def add(self, nbytes: int) -> None:
        """So many bytes more."""
        with self._lock:
            self.done += nbytes
            if self.done >= self.total or time.monotonic() - self._told > INTERVAL:
                self._told = time.monotonic()
                self.notify(Progress(self.doing, self.done, self.total))


# --- evaluating ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loading(Event):
    """A model is being loaded into memory."""

    model: str


@dataclass(frozen=True)
class Asked(Event):
    """A task is about to be put to a model."""

    task: str
    items: int
    resumed: int  # items that an earlier run had answered


@dataclass(frozen=True)
class Answered(Event):
    """A model has answered so many items of a task."""

    task: str
    items: int
    total: int


@dataclass(frozen=True)
class Scored(Event):
    """A model's scores on one task."""

    model: str
    task: str
    kind: str
    items: int
    scores: Mapping[str, float]  # by metric
    cut: int  # items of which a part was left out because they are longer than the model takes at once
    seconds: float
    cached: bool  # whether all of it had been computed before
    file: str  # in which the items are kept; empty where they are not


@dataclass(frozen=True)
class Evaluated(Event):
    """A model has been scored on all tasks."""

    model: str
    fingerprint: str
    tasks: Sequence[Mapping[str, Any]]  # as in `Scored`


@dataclass(frozen=True)
class Compared(Event):
    """Models have been compared on the same items."""

    models: Sequence[str]
    parents: Sequence[str]
    scores: Sequence[Mapping[str, Any]]
    pairs: Sequence[Mapping[str, Any]]
    overlaps: Sequence[Mapping[str, Any]]
    optimism: Sequence[Mapping[str, Any]]


# --- calibrating --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Visited(Event):
    """A unit of a model has been run on all data."""

    unit: str
    place: int  # among the units, from 1
    total: int


@dataclass(frozen=True)
class Calibrated(Event):
    """The folder of a model's statistics is complete."""

    folder: Path
    examples: int
    tokens: int
    warnings: Sequence[str]


@dataclass(frozen=True)
class Sized(Event):
    """How much weights are learnt with is known."""

    weights: int
    memory: int  # bytes of the merged model and its gradient
    disk: int  # bytes of what each model adds, which stands in files while it is learnt
    resumed: int  # steps that an interrupted run had taken


@dataclass(frozen=True)
class Learning(Event):
    """So many steps towards weights have been taken, or models read for it."""

    doing: str
    done: int
    total: int
    loss: float | None


@dataclass(frozen=True)
class Learned(Event):
    """What has been learnt is written: a recipe with its weights, or a fused model."""

    file: Path
    objective: str
    steps: int
    before: float
    after: float


@dataclass(frozen=True)
class Refined(Event):
    """Anchors of a block have been found for a model, or the block has been refined on those of all."""

    block: str
    model: str  # empty where the block has been refined
    losses: Sequence[float]  # at the beginning and at the end
    done: int
    total: int


# --- searching ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tried(Event):
    """A candidate of a search has been scored."""

    number: int  # from 1
    most: int  # candidates, at most
    score: float
    best: float  # of the candidates so far
    stopped: bool  # on a part of the items: it was clearly worse
    tensors: int  # that were made for it
    seconds: float


@dataclass(frozen=True)
class Found(Event):
    """A search is over."""

    recipe: Path
    what: str  # of the finalists that was chosen
    scores: Mapping[str, Mapping[str, float]]  # of the finalists on the validation items, by name and metric
