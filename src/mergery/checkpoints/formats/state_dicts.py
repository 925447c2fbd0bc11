"""The state dict in what a pickle holds: as it is, or below the counters and optimizers of a trainer."""

from __future__ import annotations

import re
from typing import Any

from mergery.checkpoints.formats.pickles import SAVE_SAFELY, StoredTensor, show
from mergery.checkpoints.json_files import is_text
from mergery.errors import CheckpointError, Where

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params", "model_state")
DEEPEST = 3  # wrappers in one another
_TRAINING = re.compile(
    r"(^|_)(optim\w*|(lr_)?sched\w*|(grad_|amp_)?scaler|(cuda_)?rng\w*|random_states|callbacks|loops|hyper_parameters|"
    r"extra_state|last_optimizer_state|args|cfg)($|_)",
    re.IGNORECASE,
)
"""Entries that hold state of a training, tensors included: `optimizer_states`, `lr_schedulers`, `callbacks`."""


def state_dict_of(top: Any, file: str) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """The tensors of a pickle by name, and the entries left aside because they hold none, or state of a training.

    Where the tensors stand one level down, under `state_dict`, `model` or the like, that level is taken; then no other
    entry may hold weights, for they would be lost.
    """
    if not isinstance(top, dict):
        raise _refused(file, f"it holds a {type(top).__name__}")
    left: list[str] = []
    for _ in range(DEEPEST):
        wrapped = [key for key in WRAPPERS if isinstance(top.get(key), dict)]
        if not wrapped or any(isinstance(value, StoredTensor) for value in top.values()):
            break
        others = {key: value for key, value in top.items() if key != wrapped[0]}
        beside = [_show(key) for key, value in others.items() if not _of_training(key) and _holds_tensors(value)]
        if beside:
            raise _refused(file, f"tensors stand under {wrapped[0]!r} and also under {', '.join(beside)}")
        left += [key if type(key) is str else _show(key) for key in others]
        top = top[wrapped[0]]
    odd = [f"{_show(name)} ({type(value).__name__})" for name, value in top.items() if not _is_entry(name, value)]
    if odd:
        raise _refused(file, f"{len(odd)} of its entries are no named tensors: {', '.join(odd[:3])}")
    if not top:
        raise _refused(file, "it is empty")
    return top, tuple(left)


def _of_training(key: Any) -> bool:
    return type(key) is str and _TRAINING.search(key) is not None


def _show(key: Any) -> str:
    return repr(key) if type(key) is str else show(key)


def _is_entry(name: Any, value: Any) -> bool:
    return type(name) is str and is_text(name) and isinstance(value, StoredTensor)


def _holds_tensors(value: Any) -> bool:
    pending, seen = [value], set[int]()
    while pending:
        value = pending.pop()
        if isinstance(value, StoredTensor):
            return True
        if isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            pending.extend(value.values() if isinstance(value, dict) else value)
    return False


def _refused(file: str, why: str) -> CheckpointError:
    return CheckpointError("this is not a state dict of named tensors", where=Where(file), why=why, hint=SAVE_SAFELY)
