"""A plan's digest: equal for plans whose outputs are equal to the byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mergery.checkpoints import Checkpoint
from mergery.planning.layout import Layout
from mergery.recipe import Recipe, Source
from mergery.version import __version__
from mergery.views.vocabulary.unifying import OutputVocabulary

ARITHMETIC = 10  # raised when the same recipe would give other bytes: older journals are then refused


def digest_of(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    layout: Layout,
    only: tuple[str, ...],
    vocabulary: OutputVocabulary | None,
) -> str:
    """A hash of all that determines the output's bytes: the resolved recipe, the inputs and the layout."""
    plain = recipe.plain()
    plain.pop("models")
    plain.get("protect", {}).pop("statistics", None)  # wherever they lie
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
        "stages": {name: model.plain() for name, model in recipe.models.items() if not isinstance(model, Source)},
        "inputs": {name: content_mark(checkpoint.fingerprint()) for name, checkpoint in checkpoints.items()},
        "files": [[shard.name, hashlib.sha256(shard.header).hexdigest()] for shard in layout.shards],
    }
    renames = {
        name: list(model.rename.items())
        for name, model in recipe.models.items()
        if isinstance(model, Source) and model.rename
    }
    if renames:
        state["renames"] = renames
    if vocabulary is not None:
        state["vocabulary"] = vocabulary.digest()
    text = json.dumps(state, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def content_mark(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a fingerprint that speaks of the content; a model may be moved."""
    return {key: value for key, value in fingerprint.items() if key != "location"}
