"""Results: what each item gave, kept in a file as it comes.

A file holds a line of facts, a line for each item, and a last line once all are there. It is named after the task and after a
hash of model, task and settings, so that the same question is never asked twice; a run that was killed goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.errors import TaskError, Where
from mergery.evaluation.task import Metric
from mergery.report.html import table

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
SUFFIX = ".results.jsonl"

WRITES = "mergery evaluate MODEL --tasks FILE writes them"


@dataclass(frozen=True)
class Outcome:
    """What one item gave, by metric. A metric of the task is the mean of `values` with `weights` (1 where not named)."""

    item: str
    category: str
    values: Mapping[str, float]
    weights: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        weights = {"weights": dict(self.weights)} if self.weights else {}
        return {"item": self.item, "category": self.category, "values": dict(self.values), **weights, **self.details}


@dataclass(frozen=True, repr=False)
class TaskResult:
    """One model's results on one task."""

    model: str
    fingerprint: str  # of the model
    task: str
    task_hash: str
    kind: str
    metrics: tuple[Metric, ...]  # the one to compare by first
    items: tuple[Outcome, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    cached: bool = False  # whether all of it had been computed before
    file: str = ""

    def __repr__(self) -> str:
        return f"<TaskResult: {self.model} on {self.task}, {len(self.items)} items, {in_words(self.scores)}>"

    @cached_property
    def scores(self) -> dict[str, float]:
        """The metrics over all items."""
        return {metric.name: mean(*self.columns(metric.name), metric) for metric in self.metrics}

    def columns(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Values and weights of one metric by item, float64, each of shape (items,)."""
        import numpy as np

        values = np.array([score.values[metric] for score in self.items], np.float64)
        return values, np.array([score.weights.get(metric, 1.0) for score in self.items], np.float64)

    @property
    def cut(self) -> int:
        """Items that were too long for the model, of which a part was left out."""
        return sum(1 for score in self.items if score.details.get("cut"))

    def plain(self) -> dict[str, Any]:
        return {
            "task": self.task, "kind": self.kind, "items": len(self.items), "scores": self.scores, "cut": self.cut,
            "seconds": round(self.seconds, 3), "cached": self.cached, "file": self.file,
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class Evaluation:
    """One model's results on all tasks."""

    model: str
    fingerprint: str
    tasks: tuple[TaskResult, ...]

    def __repr__(self) -> str:
        return f"<Evaluation of {self.model}: {in_words(self.scores)}>"

    def _repr_html_(self) -> str:
        """The scores as a table, for a notebook."""
        rows = [
            (task.task, len(task.items), metric.name, f"{task.scores[metric.name]:.4f}")
            for task in self.tasks
            for metric in task.metrics
        ]
        return table(("task", "items", "metric", self.model), rows)

    @property
    def scores(self) -> dict[str, float]:
        """Every metric by `task.metric`."""
        return {f"{task.task}.{name}": value for task in self.tasks for name, value in task.scores.items()}

    def plain(self) -> dict[str, Any]:
        return {"model": self.model, "fingerprint": self.fingerprint, "tasks": [task.plain() for task in self.tasks]}


def in_words(scores: Mapping[str, float]) -> str:
    """`arc.accuracy 0.7130, code.loss 1.2040`."""
    return ", ".join(f"{name} {score:.4f}" for name, score in scores.items())


def mean(values: np.ndarray, weights: np.ndarray, metric: Metric) -> float:
    """A metric of items: their weighted mean, or a power of it."""
    return link(math.fsum(values * weights) / math.fsum(weights), metric)


def link(value: Any, metric: Metric) -> Any:
    """From a mean in nats or bits to a perplexity, where the metric is one. Takes arrays as well."""
    import numpy as np

    if metric.link == "mean":
        return value
    power = np.exp(value) if metric.link == "exp" else np.exp2(value)
    return power if isinstance(value, np.ndarray) else float(power)


def file_name(task: str, key: str) -> str:
    """The file of one question: the task's name, and the hash of model, task and settings."""
    return f"{_plain_name(task)}-{key[:16]}{SUFFIX}"


def folder_name(model: str, fingerprint: str) -> str:
    """The folder of one model's results."""
    return f"{_plain_name(model)}-{fingerprint[:8]}"


def _plain_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name) or "unnamed"


class Store:
    """The answers to one task: those that its file holds, and those that come. Holds the file's lock while it is open.

    The file begins with the first answers: a run that is refused before leaves neither file nor folder. Without a path nothing
    is kept.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        self.path = path
        self.known: dict[str, Outcome] = {}
        self.last: dict[str, Any] | None = None  # the file's last line, once all answers are there
        self._facts = dict(facts)
        self._begun = True
        self._made: list[Path] = []  # folders that were not there, the innermost first
        self._fd = -1
        if path is None:
            return
        self._made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise TaskError(f"another run is writing {str(path)!r}", hint="wait for it") from None
            if not os.fstat(self._fd).st_nlink:
                raise TaskError(
                    f"another run has just ended beside {str(path)!r}", hint="run the same evaluation again"
                )
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]  # a torn last line never happened
            if whole:
                self.known, self.last = _parse(whole, path, facts["key"])
            os.ftruncate(self._fd, len(whole))
            os.lseek(self._fd, 0, os.SEEK_END)
            self._begun = bool(whole)
        except BaseException:
            self.close()
            raise

    def add(self, scores: Iterable[Outcome]) -> None:
        """Keep what a batch of items gave."""
        scores = list(scores)
        self._append([score.plain() for score in scores])
        self.known.update({score.item: score for score in scores})

    def finish(self, result: TaskResult) -> None:
        """All items are there."""
        self.last = {"done": result.scores, "seconds": round(result.seconds, 3)}
        self._append([self.last])

    def _append(self, lines: list[dict[str, Any]]) -> None:
        if self._fd < 0:
            return
        if not self._begun:
            lines, self._begun = [self._facts, *lines], True
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode(
            "utf-8", "backslashreplace"
        )
        while data:
            data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        if self._fd < 0:
            return
        if self.path is not None and not self._begun:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another run has put something there
                for folder in self._made:
                    folder.rmdir()
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parse(data: bytes, path: Path, key: str | None) -> tuple[dict[str, Outcome], dict[str, Any] | None]:
    """The items of a results file, and its last line where the run was finished."""
    known: dict[str, Outcome] = {}
    last = None
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            if number == 1:
                if row["format"] != FORMAT or (key is not None and row["key"] != key):
                    raise ValueError("of another format, or of another question")
                continue
            if "done" in row:
                last = row
                continue
            details = {
                name: value for name, value in row.items() if name not in ("item", "category", "values", "weights")
            }
            known[row["item"]] = Outcome(
                row["item"], row["category"], {name: float(value) for name, value in row["values"].items()},
                row.get("weights", {}), details,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            why = "it is none that Mergery writes"
            raise TaskError(
                "this line of results is damaged", where=Where(str(path), number, 1), why=why, hint=f"remove {path}"
            ) from None
    return known, last


def read_result(path: Path) -> TaskResult:
    """A results file. Raises TaskError where it is damaged or its run was never finished."""
    data = path.read_bytes()
    known, last = _parse(data[: data.rfind(b"\n") + 1], path, None)
    if last is None:
        raise TaskError("this run was not finished", where=Where(str(path)), hint="run the same evaluation again")
    facts = json.loads(data[: data.find(b"\n")])
    metrics = tuple(Metric(**metric) for metric in facts["metrics"])
    return TaskResult(
        facts["model"], facts["fingerprint"], facts["task"], facts["task_hash"], facts["kind"], metrics,
        tuple(known.values()), facts["settings"], last["seconds"], True, str(path),
    )  # fmt: skip


def read_results(place: Path) -> Evaluation:
    """One model's results from a file, or from the folder that holds those of one model."""
    files = sorted(place.glob(f"*{SUFFIX}")) if place.is_dir() else [place]
    if not files:
        raise TaskError(f"there are no results in {str(place)!r}", hint=WRITES)
    if not files[0].exists():
        raise TaskError(f"there are no results at {str(place)!r}", hint=WRITES)
    results = tuple(read_result(file) for file in files)
    if len({result.fingerprint for result in results}) > 1:
        raise TaskError(f"the results in {str(place)!r} are of several models", hint="give the folder of one model")
    for a, b in itertools.pairwise(sorted(results, key=lambda result: result.task)):
        if a.task == b.task:
            raise TaskError(f"there are two results of {a.task!r}", why=f"{a.file} and {b.file}", hint="give the file")
    return Evaluation(results[0].model, results[0].fingerprint, results)
