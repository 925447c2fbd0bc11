"""Recipe to plan: an ordered list of independent steps with known names, shapes and bytes, from headers alone."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mergery.checkpoints import Checkpoint, TensorInfo, open_checkpoint
from mergery.dtypes import F64, OUTPUT_DTYPES, DType
from mergery.errors import MergeryError, PlanError, RecipeError, raise_all
from mergery.graph.nodes import Merged, Node, Stored
from mergery.graph.view import Change, View
from mergery.graph.walking import kind_key, leaf_columns, leaves, looked_up
from mergery.planning.builder import Builder
from mergery.planning.layout import Layout, Slot, lay_out
from mergery.planning.nodes import output_dtype, target_of
from mergery.planning.special_cases import remarks
from mergery.recipe import Recipe, Source
from mergery.recipe.reading import load_recipe
from mergery.recipe.values import PARTS, ROLES, Condition, parse_condition
from mergery.views.vocabulary.aligning import Alignment, align_vocabulary, find_lead, stored_source
from mergery.views.vocabulary.writing import choose_chat_template, write_generation

FILES = 1 << 16  # open files wanted at most
ARITHMETIC = 4  # raised when the same recipe would give other bytes: older journals are then refused


class Step(NamedTuple):
    """One output tensor: where its bytes go and the node that makes them."""

    slot: Slot
    node: Node

    @property
    def name(self) -> str:
        return self.slot.info.name


@dataclass(frozen=True)
class Plan:
    """All that a run needs and a reader wants to know beforehand."""

    recipe: Recipe
    checkpoints: Mapping[str, Checkpoint]
    view: View
    steps: tuple[Step, ...]
    kinds: tuple[tuple[Step, ...], ...]  # the steps, those together that are made in the same way and cost the same
    layout: Layout
    config: dict[str, Any] | None
    dtype: DType  # of most of the output's bytes; the config's
    tokenizer: Checkpoint
    dropped: Mapping[str, str]
    warnings: tuple[str, ...]
    digest: str
    only: tuple[str, ...]  # the parts to which the output is restricted; empty for all of it
    stamps: Mapping[str, Any]  # of the inputs' files, when they were opened
    vocabulary: Alignment | None  # None where rows and tokenizer are the donor's own
    template: str | None  # the chat template that is written; None: the tokenizer's own
    generation: bytes | None  # generation_config.json, where its donor's is not right
    changes: tuple[Change, ...] = ()  # of the shape of models: conversions and stacks

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
        checkpoints = open_all(recipe)
        try:
            return _plan(recipe, checkpoints, tuple(only))
        except BaseException:
            for checkpoint in checkpoints.values():
                checkpoint.close()
            raise


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


def allow_files() -> None:
    """Raise this process's limit of open files as far as the system lets it: a hundred sharded models are thousands."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
            most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    except (ImportError, ValueError, OSError):
        pass  # then opening too many says so


def open_all(recipe: Recipe) -> dict[str, Checkpoint]:
    """Open every source. Models under one path share a checkpoint."""
    allow_files()
    opened: dict[str, Checkpoint] = {}
    headers: dict[str, Any] = {}
    problems: list[MergeryError] = []
    for name, model in recipe.models.items():
        if not isinstance(model, Source):
            continue
        try:
            opened[name] = open_checkpoint(
                model.path,
                revision=model.revision,
                task=model.task,
                label=name,
                relative_to=recipe.folder,
                headers=headers,
            )
        except MergeryError as error:
            problems.append(error.at(model.place))
    if problems:
        for checkpoint in opened.values():
            checkpoint.close()
    raise_all(problems)
    return opened


def _plan(recipe: Recipe, checkpoints: dict[str, Checkpoint], only: tuple[str, ...]) -> Plan:
    builder = Builder(recipe, checkpoints)
    builder.alignment = align_vocabulary(builder)
    view = builder.merge("merge", recipe.merge) if not builder.problems else None
    donors = {key: _donor(recipe, builder, key) for key in ("config", "tokenizer")}
    template = choose_chat_template(builder)
    raise_all(builder.problems)
    assert view is not None
    if only:
        view = restrict(view, only)
    stored = donors["config"].tensors
    wanted = OUTPUT_DTYPES[recipe.output.dtype] if recipe.output.dtype else None
    original = _original(view, stored)
    infos = [
        TensorInfo(name, node.shape, output_dtype(node, donor, wanted))
        for (name, node), donor in zip(view.nodes.items(), looked_up(view.nodes, original), strict=True)
    ]
    layout = lay_out(infos, recipe.output.shard_size, {"format": "pt"})
    steps = tuple([Step(slot, view.nodes[slot.info.name]) for slot in layout.slots])
    kinds = _kinds(steps)
    dtype = _main_dtype(kinds)
    config = _output_config(view.config, dtype)
    generation = write_generation(builder, donors["config"])
    warnings = [
        *recipe.notes,
        *builder.warnings,
        *_treated(builder),
        *remarks(view),
        *_warn(kinds),
        *_left_aside(checkpoints),
    ]
    return Plan(
        recipe,
        checkpoints,
        view,
        steps,
        kinds,
        layout,
        config,
        dtype,
        donors["tokenizer"],
        view.dropped,
        tuple(dict.fromkeys(warnings)),
        _digest(recipe, checkpoints, layout, only, builder.alignment),
        only,
        {name: checkpoint.stamp() for name, checkpoint in checkpoints.items()},
        builder.alignment,
        template,
        generation,
        tuple(builder.changes),
    )


def _treated(builder: Builder) -> list[str]:
    """What the builder did by rule, in words."""
    found = {rule: list(dict.fromkeys(names)) for rule, names in builder.treated.items()}
    return [f"{len(names)} tensors {rule} (such as {names[0]!r})" for rule, names in found.items()]


def _donor(recipe: Recipe, builder: Builder, key: str) -> Checkpoint:
    """The checkpoint that gives the config or the tokenizer: the named one, else the recipe's donor."""
    wanted = recipe.wanted_vocabulary
    if key == "tokenizer" and wanted is not None:
        return builder.checkpoints[find_lead(recipe, wanted)]
    return builder.checkpoints[stored_source(recipe, recipe.donor)]


def _original(view: View, stored: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
    """The donor's headers by output name: in a stack, any layer's tensor of the same place stands for all."""
    depth = view.architecture.depth
    if view.architecture.stack is None or all(name in stored for name in view.nodes):
        return stored
    result = dict(stored)
    for name in view.nodes:
        parsed = view.architecture.names.get(name)
        if name not in result and parsed is not None and parsed.layer is not None:
            for layer in range(depth):
                other = view.architecture.rename(name, layer)
                if other in stored:
                    result[name] = stored[other]
                    break
    return result


def _kinds(steps: Sequence[Step]) -> tuple[tuple[Step, ...], ...]:
    """Steps of one likeness, together: there may be 100,000 steps, of few kinds."""
    found: dict[Any, list[Step]] = {}
    for step in steps:
        found.setdefault((step.slot.info.dtype.name, *kind_key(step.node)), []).append(step)
    return tuple(map(tuple, found.values()))


def _main_dtype(kinds: Sequence[Sequence[Step]]) -> DType:
    weight: dict[DType, int] = {}
    for first, *others in kinds:
        info = first.slot.info
        if info.dtype.floating:
            weight[info.dtype] = weight.get(info.dtype, 0) + info.nbytes * (1 + len(others))
    if not weight:
        raise PlanError("there is nothing to merge", why="no tensor holds floating-point numbers")
    return max(weight, key=lambda dtype: weight[dtype])


def _output_config(config: dict[str, Any] | None, dtype: DType) -> dict[str, Any] | None:
    """The donor's config with the dtype of the tensors that are written."""
    if config is None:
        return None
    result = json.loads(json.dumps(config))
    keys = [key for key in ("dtype", "torch_dtype") if key in result] or ["dtype"]
    for key in keys:
        result[key] = dtype.torch
    for section in result.values():
        if isinstance(section, dict):
            for key in ("dtype", "torch_dtype"):
                if isinstance(section.get(key), str):
                    section[key] = dtype.torch
    result.pop("_name_or_path", None)
    return result


def _warn(kinds: Sequence[Sequence[Step]]) -> list[str]:
    warnings = []
    whole = [kind for kind in kinds if isinstance(kind[0].node, Stored) and not kind[0].node.dtype.floating]
    copied = [step for kind in whole for step in kind]
    if copied:
        warnings.append(f"{len(copied)} tensors of integers are copied, not merged (such as {copied[0].name!r})")
    firsts = [first.node for first, *_ in kinds]
    wide = [leaf for node in firsts for leaf in leaves(node) if leaf.info.dtype is F64 and node is not leaf]
    if wide:
        warnings.append(f"float64 inputs are merged in float32 (such as {wide[0].info.name!r} of {wide[0].model!r})")
    nodes = {node.merge: node for node in firsts if isinstance(node, Merged)}
    for node in nodes.values():
        weights = node.settings.get("weight")
        signs = set(np.sign(weights)) if isinstance(weights, np.ndarray) else set()
        if node.settings.get("normalize") and {-1.0, 1.0} <= signs:
            warnings.append("normalize divides by the sum of the weights, and some are negative")
    return warnings


def content_mark(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a fingerprint that speaks of the content; a model may be moved."""
    return {key: value for key, value in fingerprint.items() if key != "location"}


def restrict(view: View, only: tuple[str, ...]) -> View:
    """The part of a view that any of the words names. Raises RecipeError for a word that names nothing."""
    conditions = {word: only_condition(word) for word in only}
    targets = {name: target_of(name, parsed) for name, parsed in view.architecture.names.items()}
    for word, condition in conditions.items():
        if not any(condition.holds(target) for name, target in targets.items() if name in view.nodes):
            depth = view.architecture.depth
            raise RecipeError(f"--only {word} names no tensor", hint=f"the model has layers 0-{depth - 1}")
    kept = {
        name: node
        for name, node in view.nodes.items()
        if any(condition.holds(targets[name]) for condition in conditions.values())
    }
    return replace(view, nodes=kept)


def only_condition(word: str) -> Condition:
    """What `layers.0-1`, `attention.q` or `*.mlp.*` select."""
    if word.startswith("layers."):
        return parse_condition({"layers": word.removeprefix("layers.")})
    return parse_condition({"role": word} if word in ROLES else {"part": word} if word in PARTS else {"name": word})


def _left_aside(checkpoints: Mapping[str, Checkpoint]) -> list[str]:
    """Weight files beside those that are read: nothing is passed over in silence."""
    unread = {name: getattr(checkpoint, "unread", ()) for name, checkpoint in checkpoints.items()}
    return [f"{name}: {', '.join(files)} not read" for name, files in unread.items() if files]


def _digest(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    layout: Layout,
    only: tuple[str, ...],
    alignment: Alignment | None,
) -> str:
    """A hash of all that determines the output's bytes: the resolved recipe, the inputs and the layout."""
    from mergery.version import __version__

    plain = recipe.plain()
    plain.pop("models")
    state = {
        "arithmetic": ARITHMETIC,
        "only": only,
        "mergery": __version__,
        "recipe": plain,
        "conversions": {
            name: dict(model.convert)
            for name, model in recipe.models.items()
            if isinstance(model, Source) and model.convert
        },
        "stages": {name: model.plain_stage() for name, model in recipe.models.items() if not isinstance(model, Source)},
        "inputs": {name: content_mark(checkpoint.fingerprint()) for name, checkpoint in checkpoints.items()},
        "files": [[shard.name, hashlib.sha256(shard.header).hexdigest()] for shard in layout.shards],
    }
    if alignment is not None:
        state["vocabulary"] = alignment.digest()
    text = json.dumps(state, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
