"""`protect`: text on which a merge is to do as one of its models does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mergery.errors import Where, did_you_mean
from mergery.recipe.reader import RecipeReader

KEYS = ("data", "tokens", "statistics", "model", "energy", "rest")
RESTS = ("base", "merge")
EXAMPLE = "protect: {data: traces.jsonl, tokens: ['<think>', '</think>']}"


@dataclass(frozen=True)
class Protect:
    """What is protected, and how far.

    data:       a file of texts; tokens: which of their tokens, all where there are none.
    statistics: the folder of the model's Gram matrices at these tokens, measured before or when the recipe is run.
    model:      whose behaviour is kept; the base of the merge where empty.
    energy:     the share of the protected inputs' energy whose directions the merge may not use.
    rest:       what tensors get that are no matrices of attention and MLPs: the model's own (`base`), or the merge's (`merge`).
    """

    data: str = ""
    tokens: tuple[str, ...] = ()
    statistics: Any = ""  # the path of a folder, or a checkpoint
    model: str = ""
    energy: float = 1.0
    rest: str = RESTS[0]
    place: Where | None = field(default=None, compare=False)

    def measured(self, statistics: Any) -> Protect:
        """The same with its statistics: a folder, or a checkpoint."""
        return replace(self, statistics=statistics)

    def plain(self) -> dict[str, Any]:
        """What is protected, as plain data."""
        said = {"data": self.data, "tokens": list(self.tokens), "statistics": str(self.statistics), "model": self.model}
        more = {"energy": (self.energy, 1.0), "rest": (self.rest, RESTS[0])}
        return {key: value for key, value in said.items() if value} | {
            key: value for key, (value, usual) in more.items() if value != usual
        }


def read_protect(reader: RecipeReader, data: Any, models: Mapping[str, Any], base: str | None) -> Protect | None:
    """`protect`: a file, or a mapping."""
    path = ("protect",)
    if data is None:
        return None
    said = {"data": data} if isinstance(data, str) else data
    if not isinstance(said, dict) or not (said.get("data") or said.get("statistics")):
        reader.fail("protect names a file of text", path, hint=EXAMPLE)
        return None
    reader.only(said, path, KEYS)
    for key in ("data", "statistics"):
        if key in said and (not isinstance(said[key], str) or not said[key]):
            reader.fail(f"{key} is {said[key]!r}", (*path, key), why="it must be a path", hint=EXAMPLE)
    tokens = said.get("tokens", [])
    tokens = [tokens] if isinstance(tokens, str) else tokens
    if not isinstance(tokens, list) or not all(isinstance(each, str) and each for each in tokens):
        reader.fail("tokens must be a list of texts", (*path, "tokens"), hint="tokens: ['<think>', '</think>']")
        tokens = []
    model = said.get("model", base)
    if "model" in said and not reader.name(said["model"], (*path, "model"), models):
        model = None
    elif model is None:
        why = "the merge has no base whose behaviour would be kept"
        reader.fail("protect does not say which model", path, key=True, why=why, hint="model: <a model's name>")
    energy = said.get("energy", 1.0)
    if not isinstance(energy, (int, float)) or isinstance(energy, bool) or not 0.0 <= energy <= 1.0:
        reader.fail(f"energy is {energy!r}", (*path, "energy"), why="it must be from 0 to 1", hint="energy: 0.99")
        energy = 1.0
    rest = said.get("rest", RESTS[0])
    if rest not in RESTS:
        reader.fail(f"rest is {rest!r}", (*path, "rest"), hint=did_you_mean(str(rest), RESTS))
    given = (str(said.get("data", "")), tuple(tokens), str(said.get("statistics", "")), str(model or ""))
    return Protect(*given, float(energy), str(rest), reader.document.where(path, key=True))


def protect_schema() -> dict[str, Any]:
    """`protect`, for editors: a file, or a mapping that has one, or statistics of it."""
    text = {"type": "string", "minLength": 1}
    said = {
        "data": {**text, "description": "A file of texts: a task file (.jsonl), or plain text."},
        "tokens": {
            "type": "array",
            "items": text,
            "description": "Those that are protected; all where nothing is said.",
        },
        "statistics": {**text, "description": "The folder of the model's Gram matrices on them, if they are there."},
        "model": {**text, "description": "Whose behaviour is kept; the merge's base where nothing is said."},
        "energy": {"type": "number", "minimum": 0, "maximum": 1, "default": 1.0},
        "rest": {"enum": list(RESTS), "default": RESTS[0]},
    }
    given = {"anyOf": [{"required": ["data"]}, {"required": ["statistics"]}]}
    mapping = {"type": "object", "properties": said, "additionalProperties": False, **given}
    return {
        "description": "Text on which the output does as one of its models.",
        "if": {"type": "string"},
        "then": {"minLength": 1},
        "else": mapping,
    }
