"""A plan whose output is one GGUF file: the same tensors, made in the same way, at other places and in other forms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mergery.architecture.spelling import ties_head
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.gguf.encoding import OutTensor, encode_header
from mergery.checkpoints.gguf.families import FAMILIES, Family
from mergery.checkpoints.gguf.placing import Place, Places, place
from mergery.checkpoints.gguf.stating import Stated
from mergery.checkpoints.gguf.words import words_of
from mergery.checkpoints.memory import TextCheckpoint
from mergery.checkpoints.tokenizer.chat_templates import read_template
from mergery.checkpoints.tokenizer.reading import read_tokenizer
from mergery.dtypes import BF16, F16, F32, DType
from mergery.errors import PlanError, listed
from mergery.planning.digest import digest_of
from mergery.planning.gguf.naming import WITH_TOWERS, in_family, language_of
from mergery.planning.layout import Layout, Shard, Slot
from mergery.planning.plan import Plan
from mergery.planning.steps import Step, kinds_of

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "TQ2_0", "TQ1_0")
"""Types of ggml that the package `gguf` makes of numbers."""
PLAIN: dict[str, DType] = {"F32": F32, "F16": F16, "BF16": BF16}
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class GgufPlan:
    """A plan, where each of its tensors goes in the file, and the file's own tensors that are lists of the config."""

    plan: Plan
    places: Mapping[str, Place]
    targets: Mapping[str, OutTensor]
    lists: Mapping[int, bytes]  # by the byte at which they begin
    notes: tuple[str, ...]
    origins: Mapping[str, str]  # tensors that the family calls otherwise: what the model calls them


def gguf_plan(
    plan: Plan, texts: Mapping[str, bytes], file: str, wanted: str, *, name: str, cutting: str | None = None
) -> GgufPlan:
    """The plan of a model that is written as one file of this name. Raises PlanError where llama.cpp has no such model.

    `texts` are the small files that the model would have in a folder; `wanted` is the type of its matrices; `name` is what
    the file calls the model.
    """
    if plan.adapter is not None:
        raise PlanError(
            "this recipe makes an adapter, not a model", hint="leave out output: adapter, or export MODEL+ADAPTER"
        )
    family, config, towers = _family(plan)
    stated = Stated(family, config)
    steps, left, origins = in_family(plan.steps, family, config, towers=towers)
    steps, tied = _without_tied_head(steps, config, family)
    infos = {step.name: step.slot.info for step in steps}
    heads = {
        "attn_q": config.get("num_attention_heads", 1),
        "attn_k": stated.keys.get("attention.head_count_kv", 1),
    }
    places = place(family, infos, heads, wanted, stated.keys["block_count"])
    targets = {tensor.name: tensor for tensor in places.tensors}
    if not tied and "output.weight" not in targets:
        why = "its head is its own, by the config, and the model has none"
        raise PlanError(
            f"this {family.kind} cannot be written as GGUF", why=why, hint="tie_word_embeddings: true, if they are tied"
        )
    lists = [OutTensor(name, (len(values),), 0) for name, values in stated.lists.items()]
    rows = targets["token_embd.weight"].shape[0]
    words, notes = _words(plan, config, texts, rows, family, cutting)
    if left:
        notes.append(f"the file has the language model alone, without {listed(left)}")
    metadata = {
        "general.architecture": family.architecture, "general.type": "model",
        "general.name": name, "general.file_type": _file_type(wanted),
        "general.quantization_version": 2, "mergery.plan": plan.digest,
        **{f"{family.architecture}.{key}": value for key, value in {"vocab_size": rows, **stated.keys}.items()},
        **words,
    }  # fmt: skip
    header, begins, size = encode_header(metadata, [*places.tensors, *lists])
    at = dict(zip((each.name for each in (*places.tensors, *lists)), begins, strict=True))
    slots = [_slot(step, places, targets, at) for step in steps]
    layout = Layout((Shard(file, header, size),), tuple(slots))
    made = tuple(Step(slot, step.node) for slot, step in zip(slots, steps, strict=True))
    digest = digest_of(plan.recipe, plan.checkpoints, layout, plan.only, plan.vocabulary)
    renewed = replace(plan, steps=made, kinds=kinds_of(made), layout=layout, digest=digest)
    bytes_of = {at[each.name]: _floats(stated.lists[each.name]) for each in lists}
    coarse = [
        f"{len(places.coarse)} matrices are stored in more bits than {wanted} has: their rows fill no whole block"
    ]
    return GgufPlan(
        renewed, places.of, targets, bytes_of, (*stated.notes, *notes, *(coarse if places.coarse else ())), origins
    )


def _family(plan: Plan) -> tuple[Family, Config, bool]:
    """The family, the config of the language model, and whether the model has more than that."""
    family, config, towers = language_of(plan.config)
    if family is None:
        kinds = ", ".join(sorted({*(family.kind for family in FAMILIES), *WITH_TOWERS}))
        what = (
            f"a model of the family {plan.config.family or 'that no config.json names'} cannot be written as GGUF here"
        )
        hint = "write a folder with `mergery merge`, and convert it with llama.cpp's convert_hf_to_gguf.py"
        raise PlanError(what, why=f"these can: {kinds}", hint=hint)
    if plan.only:
        raise PlanError("part of a model cannot be written as GGUF", hint="leave out --only")
    return family, config, towers


def _without_tied_head(steps: list[Step], config: Config, family: Family) -> tuple[list[Step], bool]:
    """The steps without a head that is the embeddings, and whether it is."""
    tied = bool(ties_head(config)) or (config.tied is None and family.kind.startswith(("gemma", "mamba")))
    if family.kind in ("gemma", "gemma2") and not tied:
        raise PlanError(
            f"this {family.kind} cannot be written as GGUF",
            why="llama.cpp ties its head, and the config does not",
            hint="merge it to a folder, for programs that run safetensors",
        )
    return [step for step in steps if not (tied and step.name == HEAD)], tied


def _words(
    plan: Plan, config: Config, texts: Mapping[str, bytes], rows: int, family: Family, cutting: str | None
) -> tuple[dict[str, Any], list[str]]:
    """The keys of the tokenizer and the chat template, and what is to be said of them."""
    files = TextCheckpoint(texts, plan.tokenizer.label)
    tokenizer = read_tokenizer(files)
    if tokenizer is None:
        return {"tokenizer.ggml.model": "none"}, ["the file has no tokenizer, because the model has none"]
    words = words_of(tokenizer, rows, family.kind, cutting=cutting)
    for role in ("bos", "eos"):
        number = config.get(f"{role}_token_id")
        if isinstance(number, int) and 0 <= number < rows:
            words.setdefault(f"tokenizer.ggml.{role}_token_id", number)
    ends = json.loads(texts.get("generation_config.json", b"{}")).get("eos_token_id")
    if isinstance(ends, list):
        others = [each for each in ends if each != words.get("tokenizer.ggml.eos_token_id") and isinstance(each, int)]
        words |= {"tokenizer.ggml.eot_token_id": others[0]} if others else {}
    template = read_template(files)
    if template:
        words["tokenizer.chat_template"] = template
    return words, []


def _slot(step: Step, places: Places, targets: Mapping[str, OutTensor], at: Mapping[str, int]) -> Slot:
    """A tensor's place in the file, and the dtype in which it is made: float32 where it is changed or packed then."""
    from mergery.checkpoints.gguf.file import type_name

    to = places.of[step.name]
    target = targets[to.target]
    elements, nbytes = target.block
    plain = PLAIN.get(type_name(target.kind), F32)
    info = TensorInfo(step.name, step.slot.info.shape, plain)
    return Slot(info, 0, at[to.target] + to.start // elements * nbytes)


def _file_type(wanted: str) -> int:
    from gguf.constants import LlamaFileType

    return int(LlamaFileType["ALL_F32" if wanted == "F32" else f"MOSTLY_{wanted}"])


def _floats(values: list[float]) -> bytes:
    import struct

    return struct.pack(f"<{len(values)}f", *values)
