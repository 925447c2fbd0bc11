"""Classification heads: which label a text is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mergery.errors import TaskError, Where, did_you_mean, raise_all
from mergery.evaluation.loading import Loaded
from mergery.evaluation.task import Task

if TYPE_CHECKING:
    import numpy as np


def label_numbers(task: Task, config: Mapping[str, Any]) -> list[int]:
    """The number of every item's label. Raises TaskError, or Problems, for labels that the model does not have."""
    names = {
        str(name): int(number) for number, name in (config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}).items()
    }
    problems, numbers = [], []
    for item in task.items:
        label = item.fields["label"]
        number = names.get(label, -1) if isinstance(label, str) else label
        if not 0 <= number < len(names):
            near = did_you_mean(label, names) if isinstance(label, str) else ""
            others = f"one of its names, or a number from 0 to {len(names) - 1}"
            hint = near if near.startswith("did you mean") else others
            problems.append(
                TaskError(
                    f"the model has no label {label!r}",
                    where=Where(task.file, item.line),
                    why=f"it has {len(names)}: {', '.join(list(names)[:10])}",
                    hint=hint,
                )
            )
        numbers.append(number)
    raise_all(problems[:20])
    return numbers


def label_tokens(texts: Sequence[str], loaded: Loaded, longest: int) -> list[dict[str, list[int]]]:
    """Each text as the model takes it: ids and what goes with them, the end of a long text left out."""
    return [dict(loaded.tokenizer(text, truncation=True, max_length=longest)) for text in texts]


def label_logs(inputs: Sequence[dict[str, list[int]]], loaded: Loaded) -> np.ndarray:
    """Log-probabilities of all labels, float64, shape (texts, labels). One forward pass over all inputs."""
    import numpy as np
    import torch

    module = loaded.module
    pad = getattr(module.config, "pad_token_id", None)
    if pad is None and len(inputs) > 1:  # a decoder then cannot tell where a padded text ends
        return np.concatenate([label_logs([one], loaded) for one in inputs])
    width = max(len(one["input_ids"]) for one in inputs)
    device = next(module.parameters()).device
    given = {
        name: torch.tensor(
            [one[name] + [pad if name == "input_ids" else 0] * (width - len(one[name])) for one in inputs],
            device=device,
        )
        for name in inputs[0]
    }
    with torch.inference_mode():
        return torch.log_softmax(module(**given).logits.double(), dim=-1).cpu().numpy()
