"""The models and texts of a transport, open, and everything checked that can be before its work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergery.alignment.transport.capture import check_tokens
from mergery.alignment.transport.heads import size_of_heads
from mergery.alignment.transport.options import TransportOptions
from mergery.alignment.transport.parts import GROUPS, Parts, check_modules, find_parts
from mergery.alignment.transport.texts import Paired, pair, texts_in
from mergery.calibration.counting import limit_of
from mergery.calibration.model import StreamedModel
from mergery.calibration.opening import RECIPES, Opened, open_model, opened_checkpoint
from mergery.calibration.sources import drawn
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.base import TensorInfo
from mergery.errors import CheckpointError, RecipeError, Where
from mergery.evaluation.loading import check_transformers, quiet, tokenizer_of
from mergery.recipe.calibrating import SAMPLES, SYNTHETIC

MADE = 1  # raised when the same models, data and options would give other weights


@dataclass(frozen=True)
class Models:
    """The models of a transport, open, and the texts that they are compared on."""

    target: Opened
    source: Opened
    base: Opened | None
    streamed: Mapping[str, StreamedModel]
    parts: Mapping[str, Parts]
    texts: Paired
    mark: Mapping[str, Any]


@contextmanager
def opened(source: Any, into: str | Path, data: str, options: TransportOptions, since: Any) -> Iterator[Models]:
    """Open the models, and check all that is known of them. Raises MergeryError."""
    check_transformers("transport")
    settled = settled_options(options, since)
    with ExitStack() as stack:
        given = {"target": stack.enter_context(_stored(into)), "source": stack.enter_context(open_model(source))}
        if since is not None:
            given["base"] = stack.enter_context(open_model(since))
        stack.enter_context(quiet())
        streamed = {name: StreamedModel(each.view) for name, each in given.items()}
        parts = {name: _parts(each, streamed[name]) for name, each in given.items()}
        modules = options.wanted(parts["target"], parts["source"])
        for name, each in given.items():
            check_modules(modules or GROUPS["attention"], parts[name], f"the {name}", each.view.donor.location)
        if options.heads:
            if not {"q", "k"} <= set(modules):
                why = "their planes are turned alike"
                raise RecipeError("heads are of queries and keys together", why=why, hint="--modules attention")
            size_of_heads(streamed["target"], streamed["source"])
        if "base" in given:
            _check_base(parts["source"], parts["base"], given["base"], modules)
        for name, model in streamed.items():
            if getattr(model.config, "is_encoder_decoder", False):
                where = Where(given[name].view.donor.location)
                why = "a text is read by one stack of blocks"
                raise CheckpointError(
                    f"the {name} has an encoder and a decoder", where=where, why=why, hint="use decoders"
                )
        texts = _texts(given, streamed, data, options, settled)
        for name in ("target", "source"):
            check_tokens(streamed[name], getattr(texts, name))
        mark = {
            "made": MADE,
            **{name: each.mark for name, each in given.items()},
            "texts": texts.sha256,
            "tokenizers": [_digest((texts.target, texts.source)[place]) for place in (0, 1)],
            "options": {"modules": list(modules), **settled},
        }
        yield Models(given["target"], given["source"], given.get("base"), streamed, parts, texts, mark)


def settled_options(options: TransportOptions, since: Any) -> dict[str, Any]:
    """All that decides the weights. What was learnt since is added, as it stands for no weights of its own.

    Raises RecipeError where it is to be anything else.
    """
    if since is not None and options.fusion == "convex":
        why = (
            "what was learnt since is a difference, which is added: nothing stands where the target's weights would go"
        )
        raise RecipeError("--since and --fusion convex do not go together", why=why, hint="leave out --fusion")
    return {**options.settled, **({"fusion": "residual"} if since is not None else {})}


def _digest(texts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


@contextmanager
def _stored(into: str | Path) -> Iterator[Opened]:
    """The target: a stored model, as its config, tokenizer and most of its weights are the output's."""
    if Path(str(into)).suffix in RECIPES:
        why = "the output takes its tensors, config and tokenizer from it"
        raise RecipeError("the target is a recipe", why=why, hint="merge it into a folder first")
    with open_checkpoint(into) as checkpoint, opened_checkpoint(checkpoint) as found:
        yield found


def _parts(given: Opened, model: StreamedModel) -> Parts:
    infos = [TensorInfo(name, node.shape, node.dtype) for name, node in given.view.nodes.items()]
    return find_parts(infos, given.view.config)


def _check_base(source: Parts, base: Parts, given: Opened, modules: Sequence[str]) -> None:
    """Refuse a base of another shape than the source's. Raises CheckpointError."""
    for (layer, module), part in source.items():
        theirs = base.get((layer, module))
        if module in modules and (theirs is None or theirs.shape != part.shape):
            what = (
                f"{given.name} is no base of the source: {module} of layer {layer} has another shape, or is not there"
            )
            hint = "name the model that the source was trained from"
            raise CheckpointError(what, where=Where(given.view.donor.location), hint=hint)


def _texts(
    given: Mapping[str, Opened],
    streamed: Mapping[str, StreamedModel],
    data: str,
    options: TransportOptions,
    settled: Mapping[str, Any],
) -> Paired:
    words = tokenizer_of(None, given["target"].folder), tokenizer_of(None, given["source"].folder)
    longest = [min(options.longest, limit_of(streamed[name].config)) for name in ("target", "source")]
    if data == SYNTHETIC:
        model = streamed["source"]
        model.prepare(given["source"].statistics())
        rows = drawn(model, longest[1], options.limit or SAMPLES, options.seed).rows
        texts = [words[1].decode(row.tokens, skip_special_tokens=True) for row in rows]
    else:
        texts = texts_in(data, options.limit, options.longest)
    return pair(texts, words, (longest[0], longest[1]), settled["rows"], options.most)
