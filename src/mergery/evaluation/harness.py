"""Tasks of lm-eval, run in this process on a model that is already in memory. Nothing is ever downloaded."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergery.errors import RecipeError, TaskError, Where, did_you_mean
from mergery.evaluation.loading import Loaded
from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.results import Outcome
from mergery.evaluation.task import Link, Metric, digest

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
RATIOS: Mapping[str, tuple[Link, float]] = {  # metrics that lm-eval gives as a log-likelihood and a count
    "bits_per_byte": ("mean", math.log(2)),
    "byte_perplexity": ("exp", 1.0),
    "word_perplexity": ("exp", 1.0),
}
SEED = 1234  # lm-eval's own, of the examples that it draws and of tasks that sample
MEANS = ("mean", "nanmean")


@dataclass(frozen=True)
class HarnessTask:
    """One task of lm-eval."""

    name: str
    hash: str
    metrics: tuple[Metric, ...]
    size: int  # items
    task: Any  # lm-eval's own object
    kind: str = "lm-eval"

    def __len__(self) -> int:
        return self.size

    def run(self, loaded: Loaded, options: EvaluationOptions, longest: int) -> list[Outcome]:
        """Every item's values. Raises TaskError where lm-eval gives an item no number."""
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        make: Any = HFLM
        evaluate: Any = lm_eval.evaluate
        with _offline(), _own_randomness():
            model = make(
                pretrained=loaded.module, tokenizer=loaded.tokenizer, batch_size=options.batch, max_length=longest,
                device=str(next(loaded.module.parameters()).device),
            )  # fmt: skip
            self.task.set_fewshot_seed(seed=SEED)
            if self.task.get_config("num_fewshot") is None:
                self.task.set_config(key="num_fewshot", value=0)
            found = evaluate(
                lm=model, task_dict={"tasks": {self.name: self.task}, "groups": {}, "group_map": {}}, bootstrap_iters=0,
                log_samples=True, apply_chat_template=options.chat, fewshot_as_multiturn=options.chat,
            )  # fmt: skip
        return [self.outcome(sample) for sample in found["samples"][self.name]]

    def outcome(self, sample: Mapping[str, Any]) -> Outcome:
        values, weights = {}, {}
        for metric in self.metrics:
            given = sample[metric.name]
            if metric.name in RATIOS:
                total, count = given
                values[metric.name] = -float(total) / RATIOS[metric.name][1] / count
                weights[metric.name] = float(count)
            else:
                values[metric.name] = float(given)
        return Outcome(str(sample["doc_id"]), "", values, weights)


def find_tasks(names: Sequence[str | Path], include: str | Path | None = None) -> list[HarnessTask]:
    """lm-eval's tasks by name, or from YAML files; `include` is a folder of more YAML files.

    Their data are read from this machine. Raises TaskError for what is not here.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise RecipeError("--harness needs lm-eval", hint="pip install 'mergery[harness]'") from None
    files = [Path(name) for name in names if str(name).endswith((".yaml", ".yml"))]
    for file in files:
        if not file.is_file():
            hint = "check the path; a task of lm-eval's own goes by its name, such as arc_easy"
            raise TaskError("there is no such task file", where=Where(str(file)), hint=hint)
    wanted = [str(name) for name in names if Path(name) not in files]
    folders = [str(folder) for folder in ([include] if include else []) + [file.parent for file in files]]
    with _offline():
        manager = TaskManager(include_path=list(dict.fromkeys(folders)) or None, include_defaults=False)
        wanted += [_name_of(file, manager) for file in files]
        if any(name not in manager.all_tasks for name in wanted):  # lm-eval's own are some ten thousand files
            manager = TaskManager(include_path=list(dict.fromkeys(folders)) or None, include_defaults=True)
        for name in wanted:
            if name not in manager.all_tasks:
                raise TaskError(f"lm-eval has no task {name!r}", hint=did_you_mean(name, manager.all_tasks))
        try:
            loaded = manager.load(wanted)["tasks"]
        except Exception as error:  # lm-eval and datasets raise whatever they like
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            hint = "nothing is downloaded: bring the task's data to this machine first"
            if own := [str(name) for name in names if Path(name) not in files]:
                place = f" --include_path {include}" if include else ""
                hint += f", as with `lm_eval --model dummy --tasks {','.join(own)} --limit 1{place}`"
            raise TaskError(f"lm-eval cannot load {', '.join(map(str, names))}", why=why, hint=hint) from None
        return [_described(name, task) for name, task in loaded.items()]


def _name_of(file: Path, manager: Any) -> str:
    """The name of the task that a YAML file describes."""
    for name, entry in manager.task_index.items():
        if entry.yaml_path is not None and Path(entry.yaml_path).resolve() == file.resolve():
            return name
    raise TaskError("lm-eval finds no task in this file", where=Where(str(file)), hint="it needs a line `task: NAME`")


def _described(name: str, task: Any) -> HarnessTask:
    """A loaded task with the metrics that can be averaged over items, and a hash of its config and its documents."""
    aggregations, higher = task.aggregation(), task.higher_is_better()
    metrics = []
    for metric, aggregation in aggregations.items():
        if metric in RATIOS:
            metrics.append(Metric(metric, higher=False, link=RATIOS[metric][0]))
        elif getattr(aggregation, "__name__", "") in MEANS:
            metrics.append(Metric(metric, higher=bool(higher.get(metric, True))))
    if not metrics:
        why = f"it has {', '.join(aggregations)}, which are no means over items"
        hint = "metric_list: [{metric: acc, aggregation: mean}] in its file"
        raise TaskError(f"no metric of lm-eval's task {name!r} can be compared", why=why, hint=hint)
    documents = list(task.eval_docs)
    config = task.dump_config() if hasattr(task, "dump_config") else {}
    marked = digest([str(config), [str(document) for document in documents]])
    return HarnessTask(name, marked, tuple(metrics), len(documents), task)


@contextmanager
def _offline() -> Iterator[None]:
    """Let no library reach for the network, and keep lm-eval's log to errors."""
    import datasets
    import huggingface_hub.constants as hub
    from datasets import config
    from datasets.utils.tqdm import are_progress_bars_disabled

    before = {name: os.environ.get(name) for name in OFFLINE}
    states = [(config, "HF_HUB_OFFLINE"), (config, "HF_DATASETS_OFFLINE"), (hub, "HF_HUB_OFFLINE")]
    kept = [(place, name, getattr(place, name)) for place, name in states if hasattr(place, name)]
    levels = {name: logging.getLogger(name).level for name in ("lm_eval", "datasets")}
    hidden = are_progress_bars_disabled()
    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    datasets.disable_progress_bars()
    for place, name, _ in kept:
        setattr(place, name, True)
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        for place, name, value in kept:
            setattr(place, name, value)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if not hidden:
            datasets.enable_progress_bars()


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Seed the generators of the whole process as lm-eval does; they go on afterwards as if nobody had."""
    import random

    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(0)
            np.random.seed(SEED)
            torch.manual_seed(SEED)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
