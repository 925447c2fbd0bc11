"""Calibrating: a model's statistics on data, block by block, with no more of its weights in memory than one block's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mergery.calibration.adding import add as added_to
from mergery.calibration.adding import addable, remarks
from mergery.calibration.counting import limit_of, places_of, runs_of
from mergery.calibration.crossing import cross, pair
from mergery.calibration.data import Row, Texts, inputs_of
from mergery.calibration.model import StreamedModel, Unit
from mergery.calibration.opening import Opened, open_model
from mergery.calibration.options import CalibrationOptions
from mergery.calibration.passes import Passes, Shelf
from mergery.calibration.sources import texts_of
from mergery.calibration.storing import Store
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.statistics import OF_GRADIENTS, Shared, Statistics
from mergery.errors import CheckpointError, RecipeError, Where
from mergery.evaluation.loading import check_transformers, quiet, tokenizer_of
from mergery.evaluation.running import torch_threads
from mergery.run.events import Calibrated, Notify, Visited, ignore

AT_ONCE = 1 << 30  # bytes that the examples of one sweep for Fisher information may hold


def calibrate(
    model: Any,
    data: str | Path,
    out: str | Path,
    *,
    options: CalibrationOptions = CalibrationOptions(),
    tokenizer: Any = None,
    add: Sequence[str | Path] = (),
    beside: Any = None,
    on_event: Notify = ignore,
) -> Statistics:
    """Measure a model on data, and write the statistics as a checkpoint. See `mergery.api.calibrate`."""
    check_transformers()
    with open_model(model) as opened, contextlib.ExitStack() as stack:
        other = stack.enter_context(open_model(beside)) if beside is not None else None
        more: Any = {"options": options, "tokenizer": tokenizer, "add": add, "beside": other, "on_event": on_event}
        return measure(opened, str(data), out, **more)


def measure(
    opened: Opened,
    data: str,
    out: str | Path,
    *,
    options: CalibrationOptions,
    tokenizer: Any = None,
    add: Sequence[str | Path] = (),
    beside: Opened | None = None,
    folder: Path = Path(),
    on_event: Notify = ignore,
) -> Statistics:
    """Measure a model that is open. `folder` is what the path of the data starts from. Raises MergeryError."""
    check_transformers()
    store = Store(out)
    with contextlib.ExitStack() as stack:
        added = [stack.enter_context(open_checkpoint(each)) for each in add]
        theirs = beside.mark if beside is not None else {}
        before = [addable(each, opened.mark, theirs, options) for each in added]
        stack.enter_context(quiet())
        streamed = StreamedModel(opened.view)
        other = pair(streamed, beside, options)
        task = task_of(streamed)
        words = _tokenizer(streamed, opened, options, tokenizer, task)
        with torch_threads(options.threads):
            texts = _texts(streamed, opened, data, folder, options, words, task)
            runs = runs_of(streamed, texts, options, words, opened)
            done = store.begin([
                opened.mark, texts.sha256, len(texts.rows), texts.tokens, sorted(options.stats), options.longest,
                options.labels, options.seed, [str(each) for each in add], list(options.tokens), theirs,
            ])  # fmt: skip
            streamed.prepare(opened.statistics())
            inputs = _Measuring(streamed, texts, options, store, on_event, done, runs).run(task)
            if other is not None and beside is not None:
                other.prepare(beside.statistics())
                inputs = cross(streamed, other, texts, task == "pairs", store, inputs, on_event)
        if added:
            store.forget()
        for each, statistics in zip(added, before, strict=True):
            inputs = added_to(store, each, statistics, inputs)
        own = {
            "file": Path(texts.file).name,
            "sha256": texts.sha256,
            "examples": len(texts.rows),
            "tokens": texts.tokens,
        }
        found = Statistics(
            tuple(sorted(options.stats)), {"name": opened.name, **opened.mark},
            (*(file for each in before for file in each.data), own),
            inputs,
            options.labels if set(OF_GRADIENTS) & set(options.stats) else "",
            options.tokens,
            {"name": beside.name, **theirs} if beside is not None else {},
        )  # fmt: skip
        store.finish(found)
        on_event(Calibrated(store.out, len(texts.rows), texts.tokens, tuple(remarks(found, streamed))))
    return found


def task_of(model: StreamedModel) -> str:
    """What a model's answer is: `labels`, `pairs` (of prompt and answer), `text`, or empty where it has no likelihood."""
    from transformers.models.auto import modeling_auto as auto

    name = type(model.module).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        return "pairs"
    if name.endswith("ForSequenceClassification"):
        return "labels"
    return "text" if name in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() else ""


def _tokenizer(model: StreamedModel, opened: Opened, options: CalibrationOptions, given: Any, task: str) -> Any:
    """The model's tokenizer, once it is known that what is wanted can be measured. Raises MergeryError."""
    where = Where(opened.view.donor.location)
    if wanted := [stat for stat in OF_GRADIENTS if stat in options.stats]:
        if not task:
            what = f"a {type(model.module).__name__} gives no likelihood of its text"
            hint = f"use gram, activation or square; {wanted[0]} is of language models and classifiers"
            raise CheckpointError(what, where=where, hint=hint)
        if options.labels == "exact" and task != "labels":
            why = "an expectation over all texts has no end"
            raise RecipeError("exact labels are of classifiers", why=why, hint="--labels sampled")
    return tokenizer_of(given, opened.folder)


def _texts(
    model: StreamedModel, opened: Opened, data: str, folder: Path, options: CalibrationOptions, words: Any, task: str
) -> Texts:
    """The data in tokens, once it is known to serve. Raises MergeryError."""
    where = Where(model.view.donor.location)
    longest = min(options.longest, limit_of(model.config))
    texts = texts_of(
        data, folder, model, words, longest=longest, limit=options.limit, pair=task == "pairs", seed=options.seed,
        shared=opened.statistics,
    )  # fmt: skip
    rows = model.module.get_input_embeddings().weight.shape[0]
    largest = max(max(row.tokens) for row in texts.rows)
    if largest >= rows:
        why = f"a text has the token {largest}, and the model has {rows} rows"
        raise CheckpointError("the tokenizer is not the model's", where=where, why=why, hint="--tokenizer FOLDER")
    unlabelled = task == "labels" and any(row.label is None for row in texts.rows)
    if set(OF_GRADIENTS) & set(options.stats) and options.labels == "empirical" and unlabelled:
        hint = 'write {"text": "...", "label": 1}, or say --labels sampled'
        raise RecipeError("empirical labels are those of the data, which has none", hint=hint)
    return texts


class _Measuring:
    """One calibration under way."""

    def __init__(
        self,
        model: StreamedModel,
        texts: Texts,
        options: CalibrationOptions,
        store: Store,
        notify: Notify,
        done: Sequence[Mapping[str, Any]],
        runs: Sequence[Sequence[int]] = (),
    ) -> None:
        self.runs = runs
        self.model, self.texts, self.options, self.store, self.notify = model, texts, options, store, notify
        self.done = [step["note"] for step in done]  # of units that an interrupted run has measured, in their order
        self.table: dict[str, Shared] = {}

    def run(self, task: str) -> dict[str, Shared]:
        stats = set(self.options.stats)
        if of_inputs := stats - {*OF_GRADIENTS, "cross"}:
            self.inputs(frozenset(of_inputs), task)
        if stats & set(OF_GRADIENTS):
            self.gradients([stat for stat in OF_GRADIENTS if stat in stats])
        return self.table

    @property
    def width(self) -> int:
        text = getattr(self.model.config, "text_config", None) or self.model.config
        return int(getattr(text, "hidden_size", 0) or getattr(text, "d_model", 0) or 1)

    def inputs(self, stats: frozenset[str], task: str) -> None:
        """Gram matrices and magnitudes of what weights are multiplied with."""
        import torch

        from mergery.calibration.inputs import OF_HEADS, Inputs

        model, found = self.model, Inputs(self.model, stats)
        shelf = Shelf(self.store.partial, 2 * self.texts.tokens * self.width * 4)
        watch: Any = None
        visits = 0
        batches = threading.local()  # of each pass, the tokens that count

        def call(unit: Unit, ask: Any, args: Any, kwargs: Any) -> Any:
            places = batches.places

            def work() -> Any:
                if watch is not None:
                    watch.next_call()
                found.places = places
                return shelf.keep(unit.forward(*args, **kwargs))

            return ask(work)

        @contextmanager
        def before(unit: Unit, weights: Mapping[str, Any]) -> Iterator[None]:
            nonlocal watch, visits
            visits += 1
            if visits <= len(self.done):
                with torch.no_grad():
                    yield
                self._tell(self.done[visits - 1])
                return
            watch = found.watching(weights)
            with torch.no_grad(), watch:
                yield
            watch = None
            arrays, table = found.finish(unit)
            self.store.step(unit.name, arrays, table)
            self._tell(table)

        def function(rows: Sequence[Row]) -> Any:
            def run() -> None:
                batches.places = places_of(rows, self.runs) if self.runs else None
                with torch.no_grad():
                    model.module(**inputs_of(rows, model.config))

            return run

        passes = Passes(model, call)
        head = bool(OF_HEADS & set(stats))
        passes.run(
            [function(rows) for rows in self.texts.batches(task == "pairs")],
            before=before,
            last=lambda unit: not head and model.is_head(unit),
            told=lambda unit: self.notify(Visited(unit.name, self._place(unit), len(model.units))),
        )

    def _tell(self, table: Mapping[str, Any]) -> None:
        """Take what is known of a unit's weights: whose inputs are theirs, and of how many tokens."""
        for name, (owner, tokens) in table.items():
            earlier = self.table[name].tokens if name in self.table else (0,) * len(tokens)
            self.table[name] = Shared(owner, tuple(a + b for a, b in zip(earlier, tokens, strict=True)))

    def gradients(self, kinds: Sequence[str]) -> None:
        """Sums of gradients, in sweeps of as many examples as may be in memory."""
        from mergery.calibration.fisher import Fisher

        model, found = self.model, Fisher(self.model, kinds)
        passes = Passes(model, found.call)
        longest = max(len(row.tokens) for row in self.texts.rows)
        tied = sum(model.view.nodes[name].elements for name in found.tied)
        each = longest * self.width * 4 * (len(model.units) + 8) + 16 * tied
        size = max(1, AT_ONCE // each)

        @contextmanager
        def before(unit: Unit, weights: Mapping[str, Any]) -> Iterator[None]:
            yield
            self.store.add(f"{unit.name}.fisher", found.take(found.sums))

        rows = self.texts.rows
        labels: Any = self.options.labels
        for start in range(0, len(rows), size):
            numbered = list(enumerate(rows))[start : start + size]
            functions = [found.pass_of(row, labels, self.options.seed + number) for number, row in numbered]
            passes.run(
                functions,
                before=before,
                told=lambda unit: self.notify(Visited(unit.name, self._place(unit), len(model.units))),
            )
        self.store.add("tied.fisher", found.take(found.late))
        written = {name for infos in self.store.files.values() for name in infos}
        for unit in model.units:  # what no example's likelihood rests on
            names = {piece[0] for _, _, name in unit.parameters for piece in model.stored(name)}
            wanted = {f"{name}.{kind}": model.view.nodes[name].shape for name in sorted(names) for kind in kinds}
            idle = {name: np.zeros(shape, np.float32) for name, shape in wanted.items() if name not in written}
            self.store.add(f"{unit.name}.idle", idle)
            written |= idle.keys()

    def _place(self, unit: Unit) -> int:
        return next(number for number, each in enumerate(self.model.units, 1) if each is unit)
