"""What happens, in sentences: for a terminal, a notebook, and Python's logging under the name `mergery`."""

from __future__ import annotations

import logging
from typing import NamedTuple

from mergery.errors import size
from mergery.report.words import duration
from mergery.run import events
from mergery.run.events import Event, Notify, ignore

logger = logging.getLogger("mergery")
logger.addHandler(logging.NullHandler())


class Share(NamedTuple):
    """How far something is, in bytes or in items."""

    what: str
    done: int
    total: int
    bytes: bool

    def amount(self, number: float) -> str:
        """So much of it, in words."""
        return size(number) if self.bytes else f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def sentences(event: Event) -> list[str]:
    """What a person is told of an event; nothing of progress, which is a share."""
    match event:
        case events.Planned():
            facts = f"{event.tensors} tensors, {size(event.bytes_in)} in, {size(event.bytes_out)} out"
            return [f"{event.what}: {facts}", *event.notes, *(f"warning: {each}" for each in event.warnings)]
        case events.Noticed():
            return [f"warning: {each}" for each in event.warnings]
        case events.Started(resumed=resumed) if resumed:
            return [f"going on: {resumed} of {event.tensors} tensors are done"]
        case events.Finished(already=True):
            return [f"{event.folder} is already there, made by the same plan"]
        case events.Finished():
            return [f"wrote {event.folder} in {duration(event.seconds)}"]
        case events.Pushing():
            what = f"{event.files} files, {size(event.bytes)}"
            return [f"pushing {what} to {event.repo}", *(f"note: {note}" for note in event.notes)]
        case events.Pushed():
            return [f"pushed to {event.address}"]
        case events.Loading():
            return [f"loading {event.model}"]
        case events.Asked() if 0 < event.resumed < event.items:
            return [f"{event.task}: going on: {event.resumed} of {event.items} items are done"]
        case events.Scored(cut=cut) if cut:
            return [f"{event.task}: {cut} items are longer than the model takes at once, and were cut"]
        case events.Calibrated():
            facts = f"wrote {event.folder}: statistics of {event.tokens} tokens in {event.examples} rows"
            return [facts, *(f"warning: {each}" for each in event.warnings)]
        case events.Sized():
            facts = f"{event.weights} weights; {size(event.memory)} of memory beside activations, {size(event.disk)} of disk"
            return [facts, *([f"going on: {event.resumed} steps are done"] if event.resumed else [])]
        case events.Learned():
            how = f"{event.objective} {event.before:.4g} before, {event.after:.4g} after {event.steps} steps"
            worse = ["warning: it is not less than before: a smaller rate or more data may help"]
            return [f"wrote {event.file}: {how}", *(worse if event.after > event.before else [])]
        case events.Found():
            return [f"wrote {event.recipe}: {event.what}"]
        case events.Lost():
            return [f"the worker {event.worker} is gone ({event.reason}); its tensors are made elsewhere"]
    return []


def details(event: Event) -> list[str]:
    """What only those are told who want to know what happens inside."""
    match event:
        case events.Planned():
            return [f"plan {event.digest}"]
        case events.Started():
            return [f"making {event.tensors - event.resumed} tensors"]
        case events.Compiling():
            return [f"compiling {event.kernel}"]
        case events.Statistics():
            return [f"reading {event.tensors} tensors for {', '.join(event.names)}"]
        case events.Joined():
            return [f"a worker on {event.machine}, process {event.process}"]
        case events.Packed():
            return [f"packed {', '.join(event.tasks)} in {size(event.bytes_packed)}"]
        case events.Scored() if not event.cut:
            scores = ", ".join(f"{name} {score:.4f}" for name, score in event.scores.items())
            return [f"{event.task}: {scores} in {duration(event.seconds)}{', computed before' * event.cached}"]
        case events.Tried():
            how = ", given up on a part of the items" * event.stopped
            facts = f"{event.score:.4f}{how}, best {event.best:.4f}; {event.tensors} tensors made"
            return [f"candidate {event.number}: {facts}, {duration(event.seconds)}"]
    found = share(event)
    return [f"{found.what}: {found.amount(found.done)} of {found.amount(found.total)}"] if found else []


def share(event: Event) -> Share | None:
    """How far something is, where the event tells that."""
    match event:
        case events.Downloading():
            return Share(f"downloading {event.model}", event.bytes, event.total, True)
        case events.Progress():
            return Share(event.doing, event.bytes, event.total, True)
        case events.Asked():
            return Share(event.task, event.resumed, event.items, False)
        case events.Answered():
            return Share(event.task, event.items, event.total, False)
        case events.Refined():
            return Share("finding anchors" if event.model else "refining", event.done, event.total, False)
        case events.Learning():
            return Share(event.doing, event.done, event.total, False)
        case events.Tried():
            return Share(f"searching, best {event.best:.4f}", event.number, event.most, False)
        case events.Visited():
            return Share("calibrating", event.place, event.total, False)
    return None


def log(event: Event) -> None:
    """Hand an event to Python's logging: warnings, what a person is told (info), and the rest (debug)."""
    for text in sentences(event):
        grave = text.startswith("warning: ") or isinstance(event, events.Lost)
        logger.log(logging.WARNING if grave else logging.INFO, text.removeprefix("warning: "))
    for text in details(event):
        logger.debug(text)


def logged(notify: Notify) -> Notify:
    """The listener, with Python's logging listening as well, where that is turned on."""
    if not (logging.root.handlers or len(logger.handlers) > 1):
        return notify  # nobody listens
    if notify is ignore:
        return log

    def both(event: Event) -> None:
        log(event)
        notify(event)

    return both
