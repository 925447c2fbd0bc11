"""A plan whose matrices are written as codes: the same tensors, made in the same way, at other places and in another form."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergery.architecture.fused import transposed
from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.checkpoints.config import SCHEME, Config
from mergery.checkpoints.quantised.writing import Scheme
from mergery.checkpoints.statistics import Statistics, model_mark, read_statistics
from mergery.dtypes import F32, F64
from mergery.errors import PlanError, Where, listed, size
from mergery.planning.layout import Slot, lay_out
from mergery.planning.plan import Plan, Quantised
from mergery.planning.steps import Step, kinds_of

OWN = ("falcon", "llama4", "llama4_text", "rwkv", "xlstm")  # whose layers in transformers take codes otherwise, or not
FACTORS = 4 * F64.itemsize  # bytes for each entry of a Gram matrix, while it is inverted
MATRIX = 4 * F32.itemsize  # bytes for each number of a matrix that GPTQ rounds
ROUTERS = r"re:.*\.(router|gate)$"
HEADS = (
    "lm_head",
    r"re:.*(lm_head|predictions)\.decoder$",
)  # one that is the embeddings is no tensor, and still a module


@dataclass(frozen=True)
class QuantisedPlan:
    """A plan, and for each of its matrices that become codes, the places of what is written of it, and its Gram matrix."""

    plan: Plan
    scheme: Scheme
    places: Mapping[str, tuple[Slot, ...]]  # codes, scales, shape
    grams: Mapping[str, str]  # by matrix: the tensor in the statistics
    statistics: Checkpoint | None


def quantised_plan(plan: Plan, scheme: Scheme, statistics: Checkpoint | None) -> QuantisedPlan:
    """The plan of a model that is written in a scheme. Raises PlanError, where it cannot be.

    `statistics` are those of the model's own inputs; GPTQ needs them.
    """
    chosen = check_quantisable(plan, scheme, data=statistics is not None)
    grams = _find_grams(plan, chosen, statistics) if scheme.gptq and statistics is not None else {}
    infos: list[TensorInfo] = []
    parts: dict[str, tuple[TensorInfo, ...]] = {}
    names = {step.name for step in chosen}
    for step in plan.steps:
        info = step.slot.info
        if step.name in names:
            parts[step.name] = scheme.infos(info.name, info.shape, F32 if info.dtype == F64 else info.dtype)
        infos += parts.get(step.name, (info,))
    contents = plan.view.donor.contents
    layout = lay_out(
        infos, plan.recipe.output.shard_size, {"format": "pt"}, stem=contents.stem, modules=contents.modules
    )
    at = {slot.info.name: slot for slot in layout.slots}
    places = {name: tuple(at[info.name] for info in infos) for name, infos in parts.items()}
    steps = tuple(Step(_slot(step, places, at), step.node) for step in plan.steps)
    config = plan.config.plain() | {SCHEME: scheme.config(_left(plan, names))}
    facts = Quantised(plan.digest, scheme.name, scheme.group, len(chosen), _mark(statistics if scheme.gptq else None))
    digest = hashlib.sha256(json.dumps([plan.digest, facts, _headers(layout)], default=str).encode()).hexdigest()
    renewed = replace(
        plan, steps=steps, kinds=kinds_of(steps), layout=layout, config=Config(config), digest=digest, quantised=facts,
        notes=(*plan.notes, *_notes(plan, chosen, scheme, facts)),
    )  # fmt: skip
    return QuantisedPlan(renewed, scheme, places, grams, statistics if scheme.gptq else None)


def check_quantisable(plan: Plan, scheme: Scheme, *, data: bool) -> list[Step]:
    """The matrices that become codes. `data` says whether there are any. Raises PlanError where the scheme cannot be had."""
    if plan.adapter is not None:
        what, hint = "this recipe makes an adapter, not a model", "leave out output: adapter, or export MODEL+ADAPTER"
        raise PlanError(what, hint=hint)
    if not plan.config:
        why = "readers are told there how weights are quantised"
        raise PlanError("this model has no config.json", why=why, hint="name the folder of a model")
    kind = "model of an encoder and a decoder" if plan.config.get("is_encoder_decoder") else plan.config.family
    if kind in OWN or plan.config.get("is_encoder_decoder"):
        why = "transformers computes with its weights in ways that codes do not serve"
        raise PlanError(f"a {kind} is not quantised here", why=why, hint="write it in bfloat16, with `mergery merge`")
    if scheme.gptq and not data:
        why = "GPTQ rounds by what the matrices are multiplied with, which data tell"
        hint = "--data texts.jsonl, or the folder of `mergery calibrate`; w4a16 does without"
        raise PlanError(f"{scheme.name} needs data", why=why, hint=hint)
    if data and not scheme.gptq:
        raise PlanError(f"{scheme.name} needs no data", hint="leave out --data, or take w4a16-gptq")
    chosen = [step for step in plan.steps if _is_linear(step, plan)]
    if not chosen:
        why = "none of its tensors is the matrix of a linear layer of a language model, [out, in]"
        raise PlanError("there is nothing to quantise", why=why, hint="write it as it is, with `mergery merge`")
    _check_shapes(chosen, scheme)
    return chosen


def _is_linear(step: Step, plan: Plan) -> bool:
    """Whether a tensor is the weight of a linear layer whose inputs are a text's: no head, no router, no tower of images.

    State-space layers multiply with their matrices in ways of their own, for which codes will not do.
    """
    info = step.slot.info
    parsed = plan.view.architecture.names.get(step.name)
    return (
        parsed is not None
        and "linear" in parsed.roles
        and "ssm" not in parsed.roles
        and parsed.part == "language"
        and len(info.shape) == 2
        and info.dtype.mergeable
        and info.name.endswith(".weight")
        and not transposed(info.name, info.shape, plan.config)
    )


def _check_shapes(chosen: Sequence[Step], scheme: Scheme) -> None:
    """Refuse rows that no whole groups fill."""
    group = scheme.group
    wrong = [step for step in chosen if group is not None and step.slot.info.shape[1] % group]
    if not wrong or group is None:
        return
    able = [each for each in (128, 64, 32, 16, 8) if not any(step.slot.info.shape[1] % each for step in chosen)]
    raise PlanError(
        f"rows cannot be cut into groups of {group}",
        why=f"{listed([step.name for step in wrong])} have rows of {wrong[0].slot.info.shape[1]}",
        hint=f"--group {able[0]}" if able else "--scheme w8a16, which has a scale for each row",
    )


def _find_grams(plan: Plan, chosen: Sequence[Step], statistics: Checkpoint) -> dict[str, str]:
    """The Gram matrix of each matrix, once the statistics are known to be this model's. Raises PlanError."""
    where = Where(statistics.location)
    said = read_statistics(statistics)
    if said is None:
        raise PlanError("these are no statistics", where=where, hint="name a folder that `mergery calibrate` wrote")
    if not _is_of(said, plan):
        why = f"they are of {said.model.get('name')}, as it was then"
        hint = "calibrate what is exported: `mergery calibrate` takes the same model or recipe"
        raise PlanError("these are statistics of another model", where=where, why=why, hint=hint)
    found: dict[str, str] = {}
    for step in chosen:
        shared, width = said.inputs.get(step.name), step.slot.info.shape[1]
        gram = f"{shared.of}.gram" if shared is not None else ""
        if gram in statistics.tensors and statistics.tensors[gram].shape == (width, width):
            found[step.name] = gram
    lacking = [step.name for step in chosen if step.name not in found]
    if lacking:
        why = f"there is none for {listed(lacking)}, or of another shape"
        hint = "calibrate with --stats gram" if "gram" not in said.kinds else "--scheme w4a16, which needs none"
        raise PlanError("Gram matrices are missing", where=where, why=why, hint=hint)
    return found


def _is_of(said: Statistics, plan: Plan) -> bool:
    mark = {key: value for key, value in said.model.items() if key != "name"}
    if mark == {"plan": plan.digest}:
        return True
    alone = list(plan.checkpoints.values())
    return len(alone) == 1 and mark == model_mark(alone[0])


def _slot(step: Step, places: Mapping[str, tuple[Slot, ...]], at: Mapping[str, Slot]) -> Slot:
    """Where a tensor goes; one that becomes codes is made in float32."""
    if step.name not in places:
        return at[step.name]
    codes = places[step.name][0]
    return Slot(TensorInfo(step.name, step.slot.info.shape, F32), codes.shard, codes.offset)


def _left(plan: Plan, chosen: set[str]) -> list[str]:
    """Modules that may be linear layers and are not quantised: by name, or as patterns where programs name them otherwise."""
    names = plan.view.architecture.names
    masked = any("ForMaskedLM" in str(each) for each in plan.config.get("architectures") or ())
    left: dict[str, None] = dict.fromkeys(HEADS if masked else HEADS[:1])
    for step in plan.steps:
        name, parsed = step.name.removesuffix(".weight"), names[step.name]
        if step.name in chosen or parsed.roles[0] == "embed" or len(step.slot.info.shape) != 2 or name == step.name:
            continue
        if parsed.part != "language":
            words = [word for word in name.split(".") if word != "model"]
            left[f"re:.*{re.escape(words[0])}.*"] = None
        else:
            left[name] = None
            left |= dict.fromkeys([ROUTERS] if parsed.roles[0] == "router" else [])
    return list(left)


def _mark(statistics: Checkpoint | None) -> dict[str, Any]:
    """What tells statistics from others, and of which data they are."""
    if statistics is None:
        return {}
    said = read_statistics(statistics)
    files = [dict(each) for each in said.data] if said is not None else []
    return {"data": files, **{key: value for key, value in model_mark(statistics).items() if key != "data"}}


def _headers(layout: Any) -> list[list[str]]:
    return [[shard.name, hashlib.sha256(shard.header).hexdigest()] for shard in layout.shards]


def _notes(plan: Plan, chosen: Sequence[Step], scheme: Scheme, facts: Quantised) -> list[str]:
    """What is to be known: how much is quantised, what is not, and what GPTQ holds."""
    infos = [step.slot.info for step in chosen]
    groups = "one scale a row" if scheme.group is None else f"groups of {scheme.group}"
    data = [f"{each['file']} ({each['tokens']} tokens)" for each in facts.statistics.get("data", ())]
    told = f", rounded by what they are multiplied with on {' and '.join(data)}" if data else ""
    notes = [f"{len(infos)} matrices become {scheme.words}, {groups}{told}; the layout is that of compressed-tensors"]
    names = plan.view.architecture.names
    known = {info.name for info in infos}
    stacks = [
        s.name
        for s in plan.steps
        if "linear" in names[s.name].roles and s.name not in known and names[s.name].part == "language"
    ]
    if stacks:
        notes.append(
            f"{len(stacks)} tensors of linear layers stay as they are, being no matrices [out, in]: {stacks[0]!r}"
        )
    if scheme.gptq:
        most = max(info.elements * MATRIX + info.shape[1] ** 2 * FACTORS for info in infos)
        notes.append(f"GPTQ holds up to {size(most)} in each worker; --threads 1 has one of them")
    return notes
