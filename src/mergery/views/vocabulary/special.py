"""Configs that speak of tokens: the number of rows, and ids of special tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from mergery.checkpoints.config import LANGUAGE, Config

_ID = re.compile(r"(_token_ids?|_token_index|_token_indices)$")


def set_rows(config: Config, rows: int) -> dict[str, Any]:
    """A config with another `vocab_size`, wherever it stated that of its language model."""
    result = dict(config)
    before = config.language.get("vocab_size", config.get("vocab_size"))
    for key in LANGUAGE:
        section = config.get(key)
        if isinstance(section, dict) and "vocab_size" in section:
            result[key] = {**section, "vocab_size": rows}
    if "vocab_size" in config and (config["vocab_size"] == before or config.language is config):
        result["vocab_size"] = rows
    return result


def move_ids(
    config: Mapping[str, Any], move: Callable[[int], int | None], stated: Mapping[str, Any], place: str
) -> tuple[dict[str, Any], list[str]]:
    """A config whose ids of special tokens are the output's, and warnings about those that the output lacks.

    `stated` are ids that the config of the vocabulary's own model gives: they count first, for what both configs state.
    `move` gives the new id of a token by its old one, None where the output lacks the token.
    """
    result: dict[str, Any] = {}
    warnings: list[str] = []
    for key, value in config.items():
        if isinstance(value, dict):
            inner = stated.get(key)
            result[key], more = move_ids(value, move, inner if isinstance(inner, dict) else {}, f"{place}: {key}")
            warnings += more
            continue
        result[key] = value
        if not _ID.search(key):
            continue
        if stated.get(key) is not None:
            result[key] = stated[key]
        elif type(value) is int and value >= 0:
            result[key] = move(value)
            if result[key] is None:
                warnings.append(f"{place}: {key} was {value}, a token that the output lacks; it is null now")
        elif isinstance(value, list) and all(type(item) is int for item in value):
            moved = [(item, move(item)) for item in value]
            result[key] = [new for _, new in moved if new is not None]
            lost = [old for old, new in moved if new is None]
            if lost:
                warnings.append(f"{place}: {key} held {lost}, tokens that the output lacks; they are left out")
    return result, warnings
