"""A rebase as a plan that a run can carry out: what is moved lies in files beside the output until it is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergery.alignment.demand import aligned_recipe, keep
from mergery.alignment.rebasing.gradfix import masked_files
from mergery.alignment.rebasing.models import Trio, same_tokenizer
from mergery.alignment.rebasing.options import WAYS, RebaseOptions
from mergery.alignment.rebasing.theseus import Theseus
from mergery.calibration.counting import limit_of
from mergery.calibration.data import Row, Texts, inputs_of
from mergery.calibration.model import StreamedModel, Unit
from mergery.calibration.opening import Opened, open_model, opened_checkpoint
from mergery.calibration.passes import Shelf
from mergery.calibration.replacing import as_stored, begin_work, digest_with, with_replaced, write_arrays
from mergery.calibration.running import task_of
from mergery.calibration.sequential.lockstep import Lockstep, Teacher
from mergery.calibration.sources import mark_of, texts_of
from mergery.checkpoints import open_checkpoint
from mergery.errors import CheckpointError, PlanError, Where, listed
from mergery.evaluation.loading import check_transformers, quiet, tokenizer_of
from mergery.evaluation.running import torch_threads
from mergery.planning.plan import Plan, make_plan
from mergery.recipe import Recipe, Source
from mergery.recipe.aligning import Align
from mergery.recipe.reading import load_recipe
from mergery.run.events import Notify, Visited
from mergery.run.output import check_output, place_of
from mergery.views.transforms import read_transform

WORK = ".rebase"  # behind the output folder's name: where what is moved lies until the model is written
MARK = "rebase.json"
WHOLE = 1 << 30  # tokens of a text that is not cut
METHODS = {"shift": "rebase", "transplant": "analogy", "transfusion": "analogy", "gradfix": "analogy"}
"""The method of a recipe for each way that keeps the old base's shapes."""


def base_plan(finetune: str, old: str, new: str, options: RebaseOptions, tokenizer: str | None) -> Plan:
    """The plan from which a rebase starts, from headers alone: of the way itself where that is a method, of a plain transplant
    where the bases have one shape, and of the new base alone where they have not. Raises MergeryError.
    """
    if options.way in METHODS:
        check_widths(old, new, options)
    if options.way in METHODS or _one_shape(old, new):
        return make_plan(_recipe(finetune, old, new, options, tokenizer))
    if tokenizer is not None:
        why = "the new base has other widths, and keeps its own vocabulary"
        raise PlanError("the output cannot have another tokenizer here", why=why, hint="leave out --tokenizer")
    return make_plan({"models": {"new": new}, "merge": {"method": "passthrough", "models": ["new"]}})


def _recipe(finetune: str, old: str, new: str, options: RebaseOptions, tokenizer: str | None) -> Recipe:
    output = {"output": {"tokenizer": tokenizer}} if tokenizer is not None else {}
    models = {"old": old, "new": new, "finetune": finetune}
    method = METHODS.get(options.way, "analogy")
    merge = {"method": method, "base": "new", "models": ["old", "finetune"], "scale": options.scale}
    return load_recipe({"models": models, "merge": merge, **output})


def matched_plan(plan: Plan, notify: Notify) -> Plan:
    """The plan of a transplant with the old base and its fine-tune in the new base's coordinates (arXiv 2505.22697).

    The transform is that of the old base alone, and the same for both: what the fine-tune has learned decides nothing. The
    given plan is closed. Raises PlanError where the bases do not match.
    """
    recipe = plan.recipe
    plan.close()
    made = aligned_recipe(replace(recipe, align=Align("new", models=("old",))), notify)
    matched = made.models["old"]
    assert isinstance(matched, Source)
    found = Path(str(matched.transform))
    shared = found.with_name(f"{found.name}-and-its-fine-tunes")
    if not shared.exists():
        with open_checkpoint(found) as stored:
            transform = read_transform(stored)
        facts = {key: value for key, value in transform.facts.items() if key != "model"}
        keep(replace(transform, facts=facts), shared)
    models = dict(recipe.models)
    for name in ("old", "finetune"):
        source = models[name]
        assert isinstance(source, Source)
        models[name] = replace(source, transform=str(shared))
    return make_plan(replace(recipe, models=models))


def check_widths(old: str, new: str, options: RebaseOptions) -> None:
    """Raise PlanError where a way that adds tensors as they are is asked to go from one width to another."""
    with open_checkpoint(old) as first, open_checkpoint(new) as second:
        shapes = {name: info.shape for name, info in first.tensors.items()}
        unlike = [name for name, info in second.tensors.items() if info.shape[1:] != shapes.get(name, info.shape)[1:]]
        if unlike:
            one, other = list(shapes[unlike[0]]), list(second.tensors[unlike[0]].shape)
            why = f"{unlike[0]!r} is {one} in the old base and {other} in the new one"
            what = f"{WAYS[options.way]} moves between bases of one shape"
            raise PlanError(what, where=Where(new), why=why, hint="--way theseus, which carries to other widths")


def _one_shape(old: str, new: str) -> bool:
    with open_checkpoint(old) as first, open_checkpoint(new) as second:
        return {name: info.shape for name, info in first.tensors.items()} == {
            name: info.shape for name, info in second.tensors.items()
        }


def check_data(options: RebaseOptions, data: str | None) -> None:
    """Raise PlanError where a way lacks its data, or has no use for it."""
    name = WAYS[options.way]
    if options.way == "gradfix" and data is None:
        why = "it keeps what goes down the new base's loss on a few texts"
        raise PlanError(f"{name} needs data", why=why, hint="--data texts.jsonl")
    if options.way not in ("gradfix", "theseus") and data is not None:
        why = f"{name} looks at weights alone"
        raise PlanError("there is nothing to do with the data", why=why, hint="leave out --data, or --way theseus")
    if data is not None:
        mark_of(data, Path(), None)


@contextmanager
def rebased_plan(
    finetune: str,
    old: str,
    new: str,
    options: RebaseOptions,
    *,
    out: Path | None = None,
    data: str | None = None,
    tokenizer: str | None = None,
    notify: Notify,
    replacing: bool = False,
) -> Iterator[Plan]:
    """The plan of a rebase that can be carried out at once. Where `out` is None nothing is moved: the plan says what would be.

    What an interrupted run has moved is taken up. Raises MergeryError, before any work where something is wrong.
    """
    check_data(options, data)
    with ExitStack() as stack:
        plan = base_plan(finetune, old, new, options, tokenizer)
        stack.callback(plan.close)
        if options.way in ("shift", "transplant"):
            yield plan
            return
        if options.way == "transfusion":
            if out is not None:
                plan = matched_plan(plan, notify)
                stack.callback(plan.close)
            yield replace(plan, notes=(_words(options, finetune, old, None), *plan.notes))
            return
        check_transformers("rebasing")
        stack.enter_context(quiet())
        opened = [stack.enter_context(open_model(each)) for each in (old, finetune)]
        opened.append(stack.enter_context(opened_checkpoint(plan.checkpoints["new"])))
        trio = Trio(*(StreamedModel(each.view) for each in opened))
        trio.check()
        texts = _texts(opened, trio, options, data) if options.way == "theseus" and data is not None else None
        told = [
            options.plain(),
            {name: dict(each.mark) for name, each in zip(("old", "finetune", "new"), opened, strict=True)},
            [texts.new.sha256, len(texts.new.rows)] if texts is not None else data and mark_of(data, Path(), None),
        ]
        known = replace(plan, digest=digest_with(plan, told), notes=(_words(options, finetune, old, data), *plan.notes))
        if out is None:
            yield known
            return
        place = place_of(out)
        if check_output(known, place, replace=replacing):
            yield known
            return
        work = place.with_name(place.name + WORK)
        begin_work(work, MARK, [plan.digest, *told])
        with torch_threads(options.threads):
            files, untouched = _moved(trio, plan, options, data, texts, work, notify)
        with ExitStack() as held:
            words = _words(options, finetune, old, data).replace("{", "{{").replace("}", "}}")
            note = f"{words}: {{count}} tensors"
            made = with_replaced(held, plan, files, told, note)
            if untouched and plan.recipe.merge.method == "passthrough":
                left = f"as the new base has them, having no counterpart in the old: {listed(untouched)}"
                made = replace(made, notes=(*made.notes, left))
            yield made
        shutil.rmtree(work, ignore_errors=True)


def _words(options: RebaseOptions, finetune: str, old: str, data: str | None) -> str:
    on = f"texts of {data}" if data is not None else "weights alone"
    return f"{finetune}, a fine-tune of {old}, is moved by {WAYS[options.way]}, on {on}"


def _moved(
    trio: Trio, plan: Plan, options: RebaseOptions, data: str | None, texts: Paired | None, work: Path, notify: Notify
) -> tuple[list[Path], list[str]]:
    """Files with the moved tensors, and the names of parameters that no map fits."""
    if options.way == "gradfix":
        assert data is not None
        return list(masked_files(plan, options, data, work, options.threads, notify)), []
    for model in (trio.old, trio.tuned, trio.new):
        model.prepare(type(model.shared)())
    moving = Theseus(trio, options)
    if texts is None:
        _by_weights(moving, work, notify)
    else:
        _by_texts(moving, texts, work, notify)
    write_arrays(work / "tables.safetensors", _as_stored(trio.new, moving.tables()), {})
    return sorted(work.glob("*.safetensors")), moving.untouched


def _as_stored(model: StreamedModel, found: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> Any:
    return as_stored(model, {**(weights or {}), **found}, found.keys())


def _file(work: Path, model: StreamedModel, unit: Unit) -> Path:
    number = next(number for number, each in enumerate(model.units, 1) if each.name == unit.name)
    return work / f"{number:05d}.safetensors"


def _by_weights(moving: Theseus, work: Path, notify: Notify) -> None:
    """Move every unit by what weights say."""
    model = moving.trio.new
    for number, unit in enumerate(model.units, 1):
        path = _file(work, model, unit)
        if not (unit.layer and path.exists()):
            with model.filled(unit) as weights:
                found = moving.moved(unit, weights)
                if found:
                    write_arrays(path, _as_stored(model, found, weights), {})
        notify(Visited(unit.name, number, len(model.units)))


def _by_texts(moving: Theseus, texts: Paired, work: Path, notify: Notify) -> None:
    """Move every unit by what both bases make of texts, and by what weights say."""
    model = moving.trio.new
    places = {unit.name: number for number, unit in enumerate(model.units, 1)}

    def kept(unit: Unit) -> dict[str, Any] | None:
        return {} if unit.layer and _file(work, model, unit).exists() else None

    def told(unit: Unit, weights: Mapping[str, Any], changed: Any) -> None:
        found, moving.found = moving.found, {}
        if found:
            write_arrays(_file(work, model, unit), _as_stored(model, found, weights), {})

    def visited(unit: Unit) -> None:
        notify(Visited(unit.name, places[unit.name], len(places)))

    moving.interpolated = not texts.alike
    teacher = Teacher("old base", moving.trio.old, texts.passes(moving.trio))
    shelf = Shelf(work, 4 * texts.new.tokens * moving.trio.width * 4)
    Lockstep(model, [teacher], shelf).run(moving, kept=kept, told=told, visited=visited)


@dataclass(frozen=True)
class Paired:
    """Texts in tokens of both bases; row by row the same text."""

    old: Texts
    new: Texts

    @property
    def alike(self) -> bool:
        """Whether both cut texts into the same tokens."""
        return self.old is self.new

    def passes(self, trio: Trio) -> list[Callable[[StreamedModel], None]]:
        """Forward passes over all rows, given the model: many at once, or text by text where tokens differ."""
        if self.alike:
            batches = [(rows, rows) for rows in self.new.batches(task_of(trio.new) == "pairs")]
        else:
            batches = [((a,), (b,)) for a, b in zip(self.old.rows, self.new.rows, strict=True)]

        def one(old: Sequence[Row], new: Sequence[Row]) -> Callable[[StreamedModel], None]:
            return lambda each: each.module(**inputs_of(new if each is trio.new else old, each.config))

        return [one(*rows) for rows in batches]


def _texts(opened: Sequence[Opened], trio: Trio, options: RebaseOptions, data: str) -> Paired:
    """The data in tokens of both bases. Raises MergeryError."""
    longest = min(options.length, *(limit_of(model.config) for model in (trio.old, trio.new)))
    same = same_tokenizer(trio.old.view.donor, trio.new.view.donor)
    if not same and Path(data).suffix != ".jsonl":
        why = "texts are paired item by item, and a plain file has no items"
        hint = "write one text a line as JSON into a .jsonl file, or leave out --data"
        raise PlanError("the bases have different tokenizers", where=Where(data), why=why, hint=hint)
    pair = same and task_of(trio.new) == "pairs"
    found = [
        texts_of(
            data, Path(), model, tokenizer_of(None, own.folder), longest=longest if same else WHOLE,
            limit=options.samples, pair=pair, seed=options.seed,
        )
        for own, model in ([(opened[2], trio.new)] if same else [(opened[0], trio.old), (opened[2], trio.new)])
    ]  # fmt: skip
    texts = Paired(found[0], found[0]) if same else _of_one_text(found[0], found[1], longest)
    for rows, model in ((texts.old, trio.old), (texts.new, trio.new)):
        largest = max(max(row.tokens) for row in rows.rows)
        count = model.module.get_input_embeddings().weight.shape[0]
        if largest >= count:
            why = f"a text has the token {largest}, and {model.view.name} has {count} rows"
            raise CheckpointError("the tokenizer is not the model's", where=Where(model.view.donor.location), why=why)
    return texts


def _of_one_text(old: Texts, new: Texts, longest: int) -> Paired:
    """Rows of the same texts, cut in the same proportion where one is too long. Raises PlanError."""
    if len(old.rows) != len(new.rows):
        why = f"{len(old.rows)} and {len(new.rows)} of its texts have tokens"
        raise PlanError("the two tokenizers take other texts", where=Where(new.file), why=why, hint="mend the data")
    rows: list[tuple[Row, Row]] = []
    for a, b in zip(old.rows, new.rows, strict=True):
        share = min(1.0, longest / max(len(a.tokens), len(b.tokens)))
        cut = [Row((), each.tokens[: max(1, int(share * len(each.tokens)))]) for each in (a, b)]
        rows.append((cut[0], cut[1]))
    first, second = (tuple(pair[side] for pair in rows) for side in (0, 1))
    return Paired(replace(old, rows=first), replace(new, rows=second))
