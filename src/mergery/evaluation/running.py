"""Evaluating: each task's items in batches of like length, each item's result kept as it comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.errors import RecipeError, TaskError
from mergery.evaluation.models import DTYPES, Head, Loaded, Subject, open_subject
from mergery.evaluation.reading import load_task
from mergery.evaluation.results import FORMAT, Evaluation, Outcome, Store, TaskResult, file_name, folder_name
from mergery.evaluation.task import PROMPTED, Metric, Task, digest

if TYPE_CHECKING:
    from mergery.evaluation.harness import HarnessTask

ARITHMETIC = 1  # raised when the same question would get another answer: older results are then not used
Notify = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Options:
    """How to run. Only `chat`, `dtype` and `longest` can change a result by more than rounding."""

    batch: int = 32  # rows at once
    chat: bool = False  # put prompts through the tokenizer's chat template
    dtype: str = "float32"  # of the weights; logits are float32 in any case
    longest: int | None = None  # tokens at once; what the model says where None
    threads: int = 0  # of torch; 0 takes one for each core
    device: str = "auto"  # the first GPU where there is one

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("threads", 0), ("longest", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}", why=f"it must be {least} or more")
        if self.dtype not in DTYPES:
            raise RecipeError(f"unknown dtype {self.dtype!r}", hint=f"one of {', '.join(DTYPES)}")

    def plain(self) -> dict[str, Any]:
        """What belongs to the question that is asked."""
        return {"chat": self.chat, "dtype": self.dtype, "longest": self.longest}


def evaluate(
    model: Any,
    tasks: Sequence[str | Path | Task] | str | Path | Task = (),
    *,
    tokenizer: Any = None,
    base: str | Path | None = None,
    name: str | None = None,
    options: Options | None = None,
    results: str | Path | None = None,
    harness: Sequence[str | Path] = (),
    include: str | Path | None = None,
    on_event: Notify | None = None,
) -> Evaluation:
    """Score a model on tasks.

    model:     a model folder, a PEFT adapter's folder, a recipe (merged in memory, never written), a transformers module or
               a `Subject`.
    tasks:     task files (see `mergery.evaluation.reading`) or `Task`s.
    tokenizer: of a module; elsewhere instead of the model's own.
    base:      the folder of an adapter's base, where the adapter does not name it.
    results:   a folder in which results are kept: what has been asked before is not computed again, and a run that was
               killed goes on. None keeps nothing.
    harness:   tasks of lm-eval to run on the same model, by name or as YAML files; `include` is a folder of more of these.

    All files are read and checked before a model is loaded. Raises MergeryError.
    """
    options = options or Options()
    notify = on_event or (lambda event: None)
    listed = [tasks] if isinstance(tasks, (str, Path, Task)) else list(tasks)
    loaded = [load_task(task) for task in listed]
    _check(loaded, harness, options)
    outside: list[HarnessTask] = []
    if harness:
        from mergery.evaluation.harness import find_tasks

        outside = find_tasks(harness, include)
    twice = _twice([task.name for task in [*loaded, *outside]])
    if twice:
        raise TaskError(f"two tasks are named {twice!r}", hint='name one in its first line: {"task": {"name": "..."}}')
    subject = open_subject(model, tokenizer=tokenizer, base=base, name=name)
    for task in loaded:
        if task.kind == "classification":
            from mergery.evaluation.labels import label_numbers

            label_numbers(task, subject.config)
    session = _Session(subject, options, Path(results) if results is not None else None, notify)
    with torch_threads(options.threads):
        done = [session.answer(task) for task in loaded]
        done += [session.answer_outside(task) for task in outside]
    return Evaluation(subject.name, subject.fingerprint, tuple(done))


def _check(tasks: list[Task], harness: Sequence[str | Path], options: Options) -> None:
    if not tasks and not harness:
        raise TaskError("there is no task", hint="mergery evaluate MODEL --tasks FILE.jsonl")
    if options.chat and not harness and not any(task.kind in PROMPTED for task in tasks):
        raise TaskError(
            "--chat changes nothing here", why="no task has prompts: texts and labels are scored as they are"
        )


def _twice(names: list[str]) -> str:
    return next((name for index, name in enumerate(names) if name in names[:index]), "")


@dataclass
class _Session:
    """Where the tasks of one model are answered. The model is loaded when the first answer is not known."""

    subject: Subject
    options: Options
    results: Path | None
    notify: Notify
    models: dict[Head, Loaded] = field(default_factory=dict)

    def model(self, head: Head) -> Loaded:
        if head not in self.models:
            self.notify({"event": "load", "model": self.subject.name})
            self.models.clear()  # one at a time
            loaded = self.subject.load(head, self.options.dtype)
            if self.options.device != "auto" or _has_gpu():
                loaded.module.to("cuda" if self.options.device == "auto" else self.options.device)
            self.models[head] = loaded
        return self.models[head]

    def longest(self, loaded: Loaded) -> int:
        own = min(loaded.longest, int(min(loaded.tokenizer.model_max_length, 1 << 40)))
        return self.options.longest or own

    @contextmanager
    def store(self, task: Task | HarnessTask) -> Iterator[Store | _Memory]:
        settings = self.options.plain()
        key = digest([FORMAT, ARITHMETIC, self.subject.fingerprint, task.hash, settings])
        facts = {
            "format": FORMAT, "key": key, "model": self.subject.name, "fingerprint": self.subject.fingerprint,
            "task": task.name, "task_hash": task.hash, "kind": task.kind, "settings": settings,
            "metrics": [asdict(metric) for metric in task.metrics], "with": _versions(),
        }  # fmt: skip
        if self.results is None:
            yield _Memory()
            return
        folder = self.results / folder_name(self.subject.name, self.subject.fingerprint)
        with Store(folder / file_name(task.name, key), facts) as store:
            yield store

    def answer(self, task: Task) -> TaskResult:
        """A task's results, from the file where all of them are there."""
        with self.store(task) as store:
            known = {item.id: store.known[item.id] for item in task.items if item.id in store.known}
            self.notify({"event": "task", "task": task.name, "items": len(task.items), "resumed": len(known)})
            cached = store.last is not None and len(known) == len(task.items)
            if not cached:
                self.model(head_of(task))
            started = time.perf_counter()
            if not cached:
                for outcomes in self.batches(task, set(known)):
                    store.add(outcomes)
                    known.update({outcome.item: outcome for outcome in outcomes})
                    self.notify({"event": "progress", "task": task.name, "done": len(known), "total": len(task.items)})
            outcomes = tuple(known[item.id] for item in task.items)
            result = self.result(task, task.metrics, outcomes, store, started, cached=cached)
        self.notify({"event": "scores", "model": self.subject.name, **result.plain()})
        return result

    def answer_outside(self, task: HarnessTask) -> TaskResult:
        """A task of lm-eval. Its items are kept once all of them are there."""
        with self.store(task) as store:
            self.notify({"event": "task", "task": task.name, "items": task.items, "resumed": 0})
            cached = store.last is not None
            loaded = None if cached else self.model("language")
            started = time.perf_counter()
            if loaded is not None:
                store.add(task.run(loaded, self.options, self.longest(loaded)))
            result = self.result(task, task.metrics, tuple(store.known.values()), store, started, cached=cached)
        self.notify({"event": "scores", "model": self.subject.name, **result.plain()})
        return result

    def result(
        self,
        task: Task | HarnessTask,
        metrics: tuple[Metric, ...],
        outcomes: tuple[Outcome, ...],
        store: Store | _Memory,
        started: float,
        *,
        cached: bool,
    ) -> TaskResult:
        seconds = float(store.last["seconds"]) if cached and store.last else time.perf_counter() - started
        result = TaskResult(
            self.subject.name, self.subject.fingerprint, task.name, task.hash, task.kind, metrics, outcomes,
            self.options.plain(), seconds, cached, str(store.path or ""),
        )  # fmt: skip
        if not cached:
            store.finish(result)
        return result

    def batches(self, task: Task, known: set[str]) -> Iterator[list[Outcome]]:
        """The items' results, batch by batch. Batches are made of all items, so that a resumed run has the same ones."""
        from mergery.evaluation import answering

        loaded = self.model(head_of(task))
        work = answering.prepare(task, loaded, self.options, self.longest(loaded))
        with _evaluating(loaded.module):
            for batch in answering.batches(work, self.options.batch):
                if not all(piece.item.id in known for piece in batch):
                    yield answering.answer(task, batch, loaded, self.options, self.longest(loaded))


def head_of(task: Task) -> Head:
    """The head that a model needs for a task."""
    return "labels" if task.kind == "classification" else "language"


class _Memory:
    """In place of a `Store` where nothing is kept."""

    path = None

    def __init__(self) -> None:
        self.known: dict[str, Outcome] = {}
        self.last: dict[str, Any] | None = None

    def add(self, outcomes: Sequence[Outcome]) -> None:
        self.known.update({outcome.item: outcome for outcome in outcomes})

    def finish(self, result: TaskResult) -> None:
        """Nothing is kept."""


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
