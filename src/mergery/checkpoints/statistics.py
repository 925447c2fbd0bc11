"""Statistics of a model on data, as `mergery calibrate` writes them: a checkpoint whose tensors are named after weights.

`q_proj.weight.gram` is the Gram matrix of what `q_proj.weight` is multiplied with. Sums over data are kept, not means, so that
statistics of several files add up; `statistics.json` says over how many tokens and examples, and which weights share an input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.json_files import parse_object
from mergery.errors import CheckpointError, Where

FILE = "statistics.json"
FORMAT = 1
OF_GRADIENTS = ("fisher", "gradient", "sign")
KINDS = ("gram", "activation", "square", *OF_GRADIENTS, "cross")


@dataclass(frozen=True)
class Shared:
    """Whose statistics of inputs are a weight's own, and of how many tokens: a number for each matrix of a stack."""

    of: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Statistics:
    """What is known of a checkpoint of statistics beside its tensors."""

    kinds: tuple[str, ...]
    model: Mapping[str, Any]  # name and content of the model
    data: tuple[Mapping[str, Any], ...]  # of each file: its name, SHA-256, examples, tokens
    inputs: Mapping[str, Shared] = field(default_factory=dict)  # by weight
    labels: str = ""  # of gradients: sampled, empirical or exact
    only: tuple[str, ...] = ()  # texts of the tokens that count; empty for all
    beside: Mapping[str, Any] = field(default_factory=dict)  # of cross-moments: name and content of the other model

    @property
    def examples(self) -> int:
        return sum(int(file["examples"]) for file in self.data)

    @property
    def tokens(self) -> int:
        return sum(int(file["tokens"]) for file in self.data)

    def text(self) -> str:
        """The content of `statistics.json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def model_mark(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tells a model's content from others, wherever it lies."""
    return {key: value for key, value in checkpoint.fingerprint().items() if key != "location"}


def read_statistics(checkpoint: Checkpoint) -> Statistics | None:
    """What a checkpoint says of its statistics; None for one that is no statistics. Raises CheckpointError."""
    if FILE not in checkpoint.files:
        return None
    where = f"{checkpoint.location}/{FILE}"
    data = parse_object(checkpoint.file(FILE), where)
    if data.get("format") != FORMAT:
        what, why = "these statistics cannot be read", f"they are of format {data.get('format')!r}, not {FORMAT}"
        raise CheckpointError(what, where=Where(where), why=why, hint="calibrate again with this version")
    try:
        inputs = {
            str(name): Shared(str(each["of"]), tuple(map(int, each["tokens"]))) for name, each in data["inputs"].items()
        }
        files = tuple({"file": str(each["file"]), "sha256": str(each["sha256"]), "examples": int(each["examples"]),
                       "tokens": int(each["tokens"])} for each in data["data"])  # fmt: skip
        only = tuple(map(str, data.get("only", ())))
        own = (tuple(map(str, data["kinds"])), dict(data["model"]), files, inputs, str(data["labels"]), only)
        return Statistics(*own, dict(data.get("beside", {})))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"this {FILE} is damaged", where=Where(where), why=why, hint="calibrate again") from None
