"""Recipe to plan: an ordered list of independent steps with known names, shapes and bytes, from headers alone."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from mergery.checkpoints import Checkpoint, Config
from mergery.checkpoints.config import without_scheme
from mergery.checkpoints.file_kinds import is_tokenizer_file
from mergery.dtypes import OUTPUT_DTYPES, DType
from mergery.errors import MergeryError, PlanError, raise_all, size
from mergery.graph.findings import Findings
from mergery.graph.view import Change, View
from mergery.graph.walking import leaf_columns
from mergery.planning.adapter_output import ONE_FILE, AdapterPlan, adapter_plan, with_recorded_base
from mergery.planning.coordinates import in_words, unaligned
from mergery.planning.digest import digest_of
from mergery.planning.layout import Layout
from mergery.planning.measurements import read_measurements
from mergery.planning.models import merged_view, stored_views, unified_views
from mergery.planning.opening import open_all
from mergery.planning.protecting import protected_view
from mergery.planning.remarks import (
    changed_shapes,
    copied,
    copied_and_cut,
    decoded_inputs,
    left_aside,
    left_out,
    merged_as_stored,
    of_settings,
    treated_apart,
)
from mergery.planning.restricting import restrict
from mergery.planning.side_files import check_tokenizer, choose_chat_template, write_generation
from mergery.planning.steps import Step, kinds_of, main_dtype, steps_of
from mergery.recipe import Recipe
from mergery.recipe.reading import load_recipe
from mergery.views.vocabulary.comparing import Tokenizers
from mergery.views.vocabulary.unifying import OutputVocabulary, find_lead, stored_source, unify_vocabularies


class Searched(NamedTuple):
    """What of an output is no longer what its recipe makes: a tensor's values were found by a search."""

    plan: str  # the digest of the recipe's own plan
    tensors: tuple[str, ...]


class Quantised(NamedTuple):
    """How the matrices of an output are written, where they are codes."""

    plan: str  # the digest of the recipe's own plan
    scheme: str
    group: int | None  # numbers of a row that share a scale; None: the row
    matrices: int
    statistics: Mapping[str, Any]  # of GPTQ: what tells them from others


@dataclass(frozen=True, repr=False)
class Plan:
    """All that a run needs and a reader wants to know beforehand. `print(plan)` says it in a few lines."""

    recipe: Recipe
    checkpoints: Mapping[str, Checkpoint]
    view: View
    steps: tuple[Step, ...]
    kinds: tuple[tuple[Step, ...], ...]  # the steps, those together that are made in the same way and cost the same
    layout: Layout
    config: Config
    dtype: DType  # of most of the output's bytes; the config's
    tokenizer: Checkpoint
    dropped: Mapping[str, str]
    notes: tuple[str, ...]  # what is not simply merged: changed in shape, copied, left out
    warnings: tuple[str, ...]
    digest: str
    only: tuple[str, ...]  # the parts to which the output is restricted; empty for all of it
    stamps: Mapping[str, Any]  # of the inputs' files, when they were opened
    vocabulary: OutputVocabulary | None  # None where rows and tokenizer are the donor's own
    template: str | None  # the chat template that is written; None: the tokenizer's own
    generation: bytes | None  # generation_config.json, where its donor's is not right
    changes: tuple[Change, ...] = ()  # of the shape of models: conversions and stacks
    adapter: AdapterPlan | None = None  # where the output is an adapter
    refined: Searched | None = None  # where some tensors are not the recipe's
    quantised: Quantised | None = None  # where matrices are written as codes
    before: tuple[str, ...] = ()  # what has to be done before it can be carried out, in words

    def __repr__(self) -> str:
        return f"<Plan: {self.recipe.title}; {len(self.steps)} tensors, {size(self.bytes_out)} in {self.dtype.torch}>"

    def __str__(self) -> str:
        tensors = (
            f"{len(self.steps)} tensors, {size(self.bytes_out)} in {self.dtype.torch}, reading {size(self.bytes_in)}"
        )
        donors = f"config from {self.recipe.donor}, tokenizer from {self.tokenizer_from}"
        places = [f"  {name}: {checkpoint.source}" for name, checkpoint in self.checkpoints.items()]
        told = [*self.notes, *(f"warning: {warning}" for warning in self.warnings)]
        return "\n".join([self.recipe.title, *places, tensors, donors, *told])

    def _repr_html_(self) -> str:
        """The plan in a few lines, for a notebook."""
        return f"<pre>{escape(str(self))}</pre>"

    @property
    def tokenizer_from(self) -> str:
        """The model whose tokenizer the output gets, in words that say so where it has none."""
        has = any(is_tokenizer_file(name) for name in self.tokenizer.files)
        return self.tokenizer.label if has else f"{self.tokenizer.label}, which has none"

    def changed(self) -> list[str]:
        """Models whose files have been written to since the plan was made."""
        return [name for name, checkpoint in self.checkpoints.items() if checkpoint.stamp() != self.stamps[name]]

    @cached_property
    def bytes_in(self) -> int:
        """Bytes of all stored tensors that the output depends on, each counted once."""
        seen: set[int] = set()
        total = 0
        for kind in self.kinds:
            for column in leaf_columns([step.node for step in kind]):
                new = set(map(id, column)) - seen
                seen |= new
                total += len(new) * column[0].info.nbytes
        return total

    @property
    def bytes_out(self) -> int:
        return self.layout.nbytes

    def check_ready(self) -> None:
        """Raise PlanError where something has to be done before the plan can be carried out."""
        if self.before:
            hint = "merge it into a folder with `mergery merge`, which does that, and name the folder"
            what = "models have to be aligned" if unaligned(self.recipe) else "this recipe's merge needs calibration"
            raise PlanError(what, why=self.before[0], hint=hint)

    def close(self) -> None:
        for checkpoint in self.checkpoints.values():
            checkpoint.close()


def make_plan(source: Recipe | str | Path | Mapping[str, Any], *, only: Sequence[str] = ()) -> Plan:
    """Plan a recipe from headers, configs and side files; no weights are read.

    `only` restricts the output to parts of the model, to try a recipe: `layers.0-1`, a role such as `embed` or
    `attention.q`, or a pattern over whole tensor names. Raises MergeryError, or Problems with everything that is wrong.
    """
    with no_collections():
        recipe = load_recipe(source)
        try:
            checkpoints = open_all(recipe)
            try:
                return plan_recipe(recipe, checkpoints, tuple(only))
            except BaseException:
                for checkpoint in checkpoints.values():
                    checkpoint.close()
                raise
        except MergeryError as error:
            if recipe.say is str:
                raise
            raise error.reworded(recipe.say) from error


@contextmanager
def no_collections() -> Iterator[None]:
    """Keep the garbage collector from looking through a plan that is being made: half of the time of 100,000 tensors."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # else some are frozen on purpose
            gc.freeze()  # all that was made counts as old from now on: it is not looked through at once, either
            gc.unfreeze()
        if enabled:
            gc.enable()


def plan_recipe(recipe: Recipe, checkpoints: Mapping[str, Checkpoint], only: tuple[str, ...]) -> Plan:
    """The plan of a recipe over its checkpoints. Raises MergeryError, or Problems with everything that is wrong."""
    findings, tokenizers = Findings(), Tokenizers()
    stored = stored_views(recipe, checkpoints, findings)
    vocabulary = unify_vocabularies(recipe, checkpoints, stored, tokenizers, findings)
    measurements = read_measurements(recipe, checkpoints, findings)
    unified = unified_views(recipe, stored, vocabulary, findings)
    view = merged_view(recipe, unified, measurements, tokenizers, findings) if not findings.problems else None
    protected: list[str] = []
    if recipe.protect is not None and view is not None and not findings.problems:
        view, protected = protected_view(recipe, view, dict(unified), measurements, findings)
    template = choose_chat_template(recipe, checkpoints, findings)
    raise_all(findings.problems)
    assert view is not None
    config_from, wanted = stored_source(recipe, recipe.donor), recipe.wanted_vocabulary
    donor, tokenizer = checkpoints[config_from], find_lead(recipe, wanted) if wanted else config_from
    if vocabulary is None:
        check_tokenizer(tokenizer, checkpoints, view, tokenizers, findings)
    if only and recipe.output.adapter is not None:
        why = "the layers of a part are counted from 0, and an adapter is for those of its base"
        raise PlanError("a part of a model cannot be an adapter", why=why, hint="leave out --only")
    fragment = restrict(view, only) if only else None
    headers = donor.kept
    if fragment is not None:
        view = fragment.view
        headers = {name: headers[whole] for name, whole in fragment.names.items() if whole in headers}
    dtype, shard = OUTPUT_DTYPES[recipe.output.dtype] if recipe.output.dtype else None, recipe.output.shard_size
    adapter = None
    if recipe.output.adapter is not None:
        adapter = adapter_plan(recipe, view, stored, findings)
        raise_all(findings.problems)
        assert adapter is not None
        adapter = with_recorded_base(adapter, checkpoints, findings)
        view, headers, dtype, shard = adapter.view, adapter.headers, None, ONE_FILE
    layout, steps = steps_of(view, headers, dtype, shard)
    kinds = kinds_of(steps)
    unused = {recipe.align.to} - set(stored) if recipe.align else set()  # a reference that is not merged
    used = [name for name in recipe.models if name not in unused]
    generation = write_generation(recipe, donor, vocabulary, findings)
    warnings = [
        *recipe.notes,
        *findings.warnings,
        *treated_apart(findings.treated),
        *merged_as_stored(view),
        *copied_and_cut(kinds),
        *of_settings(kinds, percentages=recipe.say is str),  # mergekit's files mean what they say
        *decoded_inputs(checkpoints),
        *left_aside({name: checkpoints[name] for name in checkpoints if name in used}, config_from),
    ]
    most = main_dtype(kinds)
    notes = [
        *([f"this is {fragment.words}"] if fragment is not None else []),
        *protected,
        *changed_shapes(findings.changes),
        *copied(kinds, view),
        *left_out(view.dropped),
    ]
    return Plan(
        recipe,
        checkpoints,
        view,
        steps,
        kinds,
        layout,
        _output_config(view.config, most),
        most,
        checkpoints[tokenizer],
        view.dropped,
        tuple(notes),
        tuple(dict.fromkeys(map(recipe.say, warnings))),
        digest_of(recipe, checkpoints, layout, only, vocabulary),
        only,
        {name: checkpoint.stamp() for name, checkpoint in checkpoints.items()},
        vocabulary,
        template,
        generation,
        tuple(findings.changes),
        adapter,
        before=(
            *(f"{in_words(recipe, name)} first" for name in unaligned(recipe)),
            *([f"it is refined by {recipe.refine.method} on data"] if recipe.refine else []),
        ),
    )


def _output_config(config: Config, dtype: DType) -> Config:
    """The donor's config with the dtype of the tensors that are written."""
    if not config:
        return config
    result = without_scheme(json.loads(json.dumps(config.plain())))
    unsaid = [] if "_diffusers_version" in result else ["dtype"]  # diffusers knows no such key
    keys = [key for key in ("dtype", "torch_dtype") if key in result] or unsaid
    for key in keys:
        result[key] = dtype.torch
    for section in result.values():
        if isinstance(section, dict):
            for key in ("dtype", "torch_dtype"):
                if isinstance(section.get(key), str):
                    section[key] = dtype.torch
    result.pop("_name_or_path", None)
    return Config(result)
