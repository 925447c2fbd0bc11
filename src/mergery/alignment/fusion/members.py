"""The target and its teachers: opened, and all that forbids to fuse them told before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergery.alignment.fusion.mapping import Vocabulary
from mergery.alignment.fusion.pieces import Cutter, cutter_of
from mergery.calibration.opening import open_model
from mergery.errors import CheckpointError, MergeryError, RecipeError, Where, raise_all
from mergery.evaluation.content import tokenizer_mark
from mergery.evaluation.loading import Loaded, read_with, tokenizer_of, window
from mergery.evaluation.models import Subject, open_subject
from mergery.graph.nodes import Stored

LONGEST = 2048  # tokens of a sequence, where nothing is said
HINT = "give a model that writes text, such as a Llama, Qwen or GPT-2"


@dataclass(frozen=True, eq=False)
class Member:
    """A model that takes part.

    parameters: how many it has. longest: tokens that it takes at once. mark: what tells its tokenizer from others.
    """

    source: Any
    subject: Subject
    name: str
    cutter: Cutter
    vocabulary: Vocabulary
    longest: int
    parameters: int
    mark: str
    dtype: str  # of its weights as they are stored, in torch's word

    def load(self, precision: str, device: str) -> Any:
        """The module, on a device. Raises CheckpointError."""
        loaded: Loaded = self.subject.load("language", precision)
        return loaded.module.to(device).eval()


def open_members(target: Any, teachers: Sequence[Any]) -> tuple[Member, list[Member]]:
    """Open the target and the teachers. Raises MergeryError, with all that is wrong with any of them."""
    if not teachers:
        raise RecipeError("there is no teacher", hint="--teachers MODEL, once or several times")
    found: list[Member] = []
    problems: list[MergeryError] = []
    for source in (target, *teachers):
        try:
            found.append(_open(source))
        except MergeryError as error:
            problems.append(error)
    raise_all(problems)
    names: dict[str, int] = {}
    for place, member in enumerate(found):
        names[member.name] = names.get(member.name, 0) + 1
        if names[member.name] > 1:
            found[place] = replace(member, name=f"{member.name}-{names[member.name]}")
    return found[0], found[1:]


def _open(source: Any) -> Member:
    from transformers import AutoConfig

    where = str(source) if isinstance(source, (str, Path)) else "the recipe"
    with open_model(source) as opened:
        plain = opened.view.config.plain()
        check_causal(plain, where)
        config = read_with(AutoConfig, str(opened.folder), where)
        tokenizer = tokenizer_of(None, opened.folder)
        rows = int(getattr(config.get_text_config(), "vocab_size", 1 << 31))
        floating = {id(node): node for node in opened.view.nodes.values() if node.dtype.floating}
        parameters = sum(node.elements for node in floating.values())
        dtype = str(plain.get("dtype") or plain.get("torch_dtype") or "float32")
        sizes: dict[str, int] = {}
        for node in floating.values():
            if isinstance(node, Stored) and "plan" not in opened.mark:
                sizes[node.dtype.torch] = sizes.get(node.dtype.torch, 0) + node.elements
    subject = open_subject(source)
    longest = min(window(config), int(min(tokenizer.model_max_length, 1 << 40)))
    return Member(
        source, subject, subject.name, cutter_of(tokenizer, where, rows), Vocabulary(tokenizer, where, rows), longest,
        parameters, str(tokenizer_mark(tokenizer)), max(sizes, key=lambda name: sizes[name]) if sizes else dtype,
    )  # fmt: skip


def check_causal(config: Mapping[str, Any], where: str) -> None:
    """Refuse a model that does not foretell the next token. Raises CheckpointError."""
    from transformers.models.auto import modeling_auto as auto

    kind, heads = str(config.get("model_type", "")), config.get("architectures") or []
    head = str(heads[0]) if heads else ""
    what, at = "this model does not write text token by token", Where(where)
    if config.get("is_encoder_decoder"):
        raise CheckpointError(what, where=at, why="it is one of an encoder and a decoder", hint=HINT)
    known = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if kind not in known:
        why = f"transformers knows no such head of the kind {kind!r}" if kind else "its config names no model_type"
        raise CheckpointError(what, where=at, why=why, hint=HINT)
    encoder = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder")
    if encoder or (head and head not in known.values()):
        raise CheckpointError(what, where=at, why=f"it is a {head or kind}", hint=HINT)
