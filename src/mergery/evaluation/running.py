"""Evaluating: each task's items in batches of like length, each item's result kept as it comes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mergery.errors import TaskError
from mergery.evaluation import answering
from mergery.evaluation.harness import HarnessTask, find_tasks
from mergery.evaluation.labels import label_numbers
from mergery.evaluation.loading import Head, Loaded, check_transformers
from mergery.evaluation.models import Subject
from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.reading import load_tasks
from mergery.evaluation.results import FORMAT, Evaluation, Outcome, Store, TaskResult, file_name, folder_name
from mergery.evaluation.task import PROMPTED, Task, digest
from mergery.run.events import Answered, Asked, Evaluated, Loading, Notify, Scored, ignore

ARITHMETIC = 1  # raised when the same question would get another answer: older results are then not used


def read_tasks(
    tasks: Sequence[str | Path | Task] | str | Path | Task,
    options: EvaluationOptions,
    harness: Sequence[str | Path] = (),
    include: str | Path | None = None,
) -> list[Task | HarnessTask]:
    """Task files, and tasks of lm-eval behind them. Raises TaskError for what cannot be asked together."""
    given = [tasks] if isinstance(tasks, (str, Path, Task)) else list(tasks)
    if not given and not harness:
        raise TaskError("there is no task", hint="mergery evaluate MODEL --tasks FILE.jsonl")
    own = load_tasks(given)
    if options.chat and not harness and not any(task.kind in PROMPTED for task in own):
        why = "no task has prompts: texts and labels are scored as they are"
        raise TaskError("--chat changes nothing here", why=why, hint="leave it out")
    outside = find_tasks(harness, include) if harness else []
    names = [task.name for task in [*own, *outside]]
    for index, name in enumerate(names):
        if name in names[:index]:
            hint = 'name one in its first line: {"task": {"name": "..."}}'
            raise TaskError(f"two tasks are named {name!r}", hint=hint)
    return [*own, *outside]


def answer_all(
    subject: Subject,
    tasks: Sequence[Task | HarnessTask],
    options: EvaluationOptions,
    results: str | Path | None = None,
    notify: Notify = ignore,
) -> Evaluation:
    """Put all tasks to a model; see `mergery.api.evaluate`. Labels are checked before the model is loaded."""
    check_transformers()
    for task in tasks:
        if isinstance(task, Task) and task.kind == "classification":
            label_numbers(task, subject.config)
    session = Session(subject, options, Path(results) if results is not None else None, notify)
    with torch_threads(options.threads):
        done = tuple(session.answer(task) for task in tasks)
        evaluation = Evaluation(subject.name, subject.fingerprint, done)
        notify(Evaluated(**evaluation.plain()))
    return evaluation


@dataclass
class Session:
    """One model to which tasks are put. It is loaded when the first answer is not known."""

    subject: Subject
    options: EvaluationOptions
    results: Path | None
    notify: Notify
    models: dict[Head, Loaded] = field(default_factory=dict)

    def model(self, head: Head) -> Loaded:
        if head not in self.models:
            self.notify(Loading(self.subject.name))
            self.models.clear()  # one at a time
            loaded = self.subject.load(head, self.options.dtype)
            if self.options.device != "auto" or _has_gpu():
                loaded.module.to("cuda" if self.options.device == "auto" else self.options.device)
            self.models[head] = loaded
        return self.models[head]

    def store(self, task: Task | HarnessTask) -> Store:
        """Where the answers to a task are kept."""
        settings = self.options.plain()
        key = digest([FORMAT, ARITHMETIC, self.subject.fingerprint, task.hash, settings])
        facts = {
            "format": FORMAT, "key": key, "model": self.subject.name, "fingerprint": self.subject.fingerprint,
            "task": task.name, "task_hash": task.hash, "kind": task.kind, "settings": settings,
            "metrics": [asdict(metric) for metric in task.metrics], "with": _versions(),
        }  # fmt: skip
        if self.results is None:
            return Store(None, facts)
        folder = self.results / folder_name(self.subject.name, self.subject.fingerprint)
        return Store(folder / file_name(task.name, key), facts)

    def answer(self, task: Task | HarnessTask) -> TaskResult:
        """A task's results, from the file where all of them are there."""
        with self.store(task) as store:
            self.notify(Asked(task.name, len(task), len(store.known)))
            cached = store.last is not None and len(store.known) == len(task)
            loaded = None if cached else self.model("labels" if task.kind == "classification" else "language")
            started = time.perf_counter()
            for outcomes in self.batches(task, loaded, set(store.known)) if loaded is not None else ():
                store.add(outcomes)
                self.notify(Answered(task.name, len(store.known), len(task)))
            seconds = float(store.last["seconds"]) if cached and store.last else time.perf_counter() - started
            order = [item.id for item in task.items] if isinstance(task, Task) else list(store.known)
            result = TaskResult(
                self.subject.name, self.subject.fingerprint, task.name, task.hash, task.kind, task.metrics,
                tuple(store.known[item] for item in order), self.options.plain(), seconds, cached, str(store.path or ""),
            )  # fmt: skip
            if not cached:
                store.finish(result)
        self.notify(Scored(self.subject.name, **result.plain()))
        return result

    def batches(self, task: Task | HarnessTask, loaded: Loaded, known: set[str]) -> Iterator[list[Outcome]]:
        """What the items gave, batch by batch. Batches are made of all items, so that a resumed run has the same ones.

        lm-eval gives all items at once.
        """
        own = min(loaded.longest, int(min(loaded.tokenizer.model_max_length, 1 << 40)))
        longest = self.options.longest or own
        if isinstance(task, HarnessTask):
            yield task.run(loaded, self.options, longest)
            return
        work = answering.prepare(task, loaded, self.options, longest)
        with _evaluating(loaded.module):
            for batch in answering.batches(work, self.options.batch):
                if not all(piece.item.id in known for piece in batch):
                    yield answering.answer(task, batch, loaded, self.options, longest)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch have so many threads, one for each core of this process where 0; then as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Without dropout; a module that was being trained goes back to that."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _versions() -> dict[str, str]:
    import torch
    import transformers

    from mergery.version import __version__

    return {"mergery": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
