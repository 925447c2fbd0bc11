"""Which tokens of texts count, where not all do: those of some words, and the token before each, which foretells it; and how
many a model takes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mergery.calibration.data import Row, Texts
from mergery.calibration.model import StreamedModel
from mergery.calibration.opening import Opened
from mergery.calibration.options import CalibrationOptions
from mergery.errors import CheckpointError, RecipeError, Where
from mergery.evaluation.likelihood import encode


def places_of(rows: Sequence[Row], wanted: Sequence[Sequence[int]]) -> Any:
    """Where rows of equal length have one of some runs of tokens, and the token before each: bool (rows, tokens)."""
    import torch

    found = torch.zeros(len(rows), len(rows[0].tokens), dtype=torch.bool)
    for number, row in enumerate(rows):
        for run in wanted:
            for start in range(len(row.tokens) - len(run) + 1):
                if row.tokens[start : start + len(run)] == tuple(run):
                    found[number, max(0, start - 1) : start + len(run)] = True
    return found


def runs_of(
    model: StreamedModel, texts: Texts, options: CalibrationOptions, words: Any, opened: Opened
) -> list[list[int]]:
    """The tokens that count, as runs of ids. Raises MergeryError where these cannot be told, or no text has any."""
    if not options.tokens:
        return []
    where = Where(opened.view.donor.location)
    if getattr(model.config, "is_encoder_decoder", False):
        why = "an encoder and a decoder have tokens of their own"
        raise CheckpointError("--tokens are of models with one stack", where=where, why=why, hint="leave out --tokens")
    names = [name for unit in model.units for _, _, name in unit.parameters]
    if any("expert" in model.roles(piece[0]) for name in names for piece in model.stored(name)):
        why = "which tokens an expert gets is not kept"
        raise CheckpointError("--tokens are of models without experts", where=where, why=why, hint="leave out --tokens")
    runs = [encode(words, each, special=False) for each in options.tokens]
    for text, run in zip(options.tokens, runs, strict=True):
        if not run or not any(bool(places_of([row], [run]).any()) for row in texts.rows):
            hint = "write them as the data have them"
            raise RecipeError(f"no text has the tokens of {text!r}", where=Where(texts.file), hint=hint)
    return runs


def limit_of(config: Any) -> int:
    """Tokens that a model takes at once, as far as its config says; without a say, as many as are wanted."""
    text = getattr(config, "text_config", None) or config
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        if isinstance(getattr(text, key, None), int) and getattr(text, key) > 0:
            return getattr(text, key)
    return 1 << 30
