"""A checkpoint under other names: as a recipe asks for, or without what training code puts before every name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.adapters import find_mark
from mergery.checkpoints.base import Checkpoint, Contents, TensorInfo
from mergery.checkpoints.config import Config
from mergery.errors import CheckpointError, Where, did_you_mean

if TYPE_CHECKING:
    import numpy as np

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module", "_forward_module")
_INNER = re.compile(rf"(?:^|(?<=\.))({'|'.join(_WRAPPERS)})\.")
_OUTER = ("module.", "base_model.model.")
_SAVED = re.compile(r"\.modules_to_save\.\w+(?=\.)")
_ORIGINAL = re.compile(r"\.original_module(?=\.)")


class RenamedCheckpoint(Checkpoint):
    """Another checkpoint under other names. `names` has each new name and the checkpoint's own; others are left out.

    `remarks` say, in words, why.
    """

    def __init__(self, inner: Checkpoint, names: Mapping[str, str], remarks: tuple[str, ...] = ()) -> None:
        self.label, self.location = inner.label, inner.location
        self._inner, self._names, self._remarks = inner, names, remarks

    @property
    def names(self) -> Mapping[str, str]:
        """By new name, the checkpoint's own."""
        return self._names

    @cached_property
    def _tensors(self) -> Mapping[str, TensorInfo]:
        infos = self._inner.tensors
        return {name: infos[own]._replace(name=name) for name, own in self._names.items()}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        self._inner.read(self._names.get(name, name), start, stop, into)

    def glance(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        self._inner.glance(self._names.get(name, name), start, stop, into)

    @property
    def remarks(self) -> tuple[str, ...]:
        return (*self._inner.remarks, *self._remarks)

    @property
    def stored(self) -> Checkpoint:
        """The same under its own names."""
        return self._inner

    @property
    def config(self) -> Config:
        return self._inner.config

    @property
    def contents(self) -> Contents:
        return self._inner.contents

    @property
    def aliases(self) -> Mapping[str, str]:
        new = {own: name for name, own in self._names.items()}
        pairs = self._inner.aliases.items()
        return {new[name]: new[other] for name, other in pairs if name in new and other in new}

    @property
    def kept(self) -> Mapping[str, TensorInfo]:
        infos = self._inner.kept
        return {name: infos[own]._replace(name=name) for name, own in self._names.items()}

    @property
    def decoded(self) -> str:
        return self._inner.decoded

    @property
    def smoothed(self) -> str:
        return self._inner.smoothed

    @property
    def lost(self) -> float:
        return self._inner.lost

    def file(self, name: str) -> bytes:
        return self._inner.file(name)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        self._inner.prepare(progress)

    def fingerprint(self) -> dict[str, Any]:
        return self._inner.fingerprint()

    def stamp(self) -> dict[str, list[int]]:
        return self._inner.stamp()

    def close(self) -> None:
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)  # what only some checkpoints have, such as `hash_contents`


def renamed(checkpoint: Checkpoint, rules: Mapping[str, str]) -> Checkpoint:
    """The checkpoint with the names that the first rule that fits gives to each: `*` in a pattern stands for any text, and in
    the new name for what stood there. Raises CheckpointError for a rule that fits nothing, and for two tensors of one name.
    """
    patterns = [(re.compile("(.*)".join(map(re.escape, old.split("*")))), new.split("*")) for old, new in rules.items()]
    used: set[int] = set()
    names: dict[str, str] = {}
    for own in checkpoint.tensors:
        name = own
        for number, (pattern, pieces) in enumerate(patterns):
            if match := pattern.fullmatch(own):
                used.add(number)
                name = "".join(text for pair in zip(pieces, (*match.groups(), ""), strict=True) for text in pair)
                break
        if name in names:
            why = f"rename gives it to {names[name]!r} and {own!r}"
            hint = "a pattern that fits one of them alone, before the other"
            raise CheckpointError(
                f"two tensors would be called {name!r}", where=Where(checkpoint.label), why=why, hint=hint
            )
        names[name] = own
    for number, old in enumerate(rules):
        if number not in used:
            shadowed = any(patterns[number][0].fullmatch(own) for own in checkpoint.tensors)
            why = "all that it fits, fit a rule before it" if shadowed else ""
            hint = "" if shadowed else did_you_mean(old, checkpoint.tensors)
            raise CheckpointError(
                f"rename: {old!r} fits no tensor", where=Where(checkpoint.label), why=why, hint=hint or "leave it out"
            )
    count = sum(name != own for name, own in names.items())
    such = next((f" (such as {own!r}, now {name!r})" for name, own in names.items() if name != own), "")
    return RenamedCheckpoint(checkpoint, names, (f"{count} tensors are renamed by the recipe{such}",))


def unwrapped(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without what torch.compile, DDP, FSDP, Lightning and peft put into its names; itself where there is
    nothing of it, where two tensors would get one name, and where it is an adapter, whose names are peft's own.
    """
    names = checkpoint.tensors
    text = "\n".join(names)  # looked through at once: there may be 100,000
    found: dict[str, None] = {}
    new = dict(zip(names, names, strict=True))
    if any(f"{wrapper}." in text for wrapper in _WRAPPERS):
        found.update(dict.fromkeys(f"{match}." for name in names for match in _INNER.findall(name)))
        new = {name: _INNER.sub("", name) for name in names}
    while (prefix := _outer(new.values())) is not None:
        found[prefix] = None
        new = {name: each.removeprefix(prefix) for name, each in new.items()}
    remarks = [f"taken without {', '.join(map(repr, found))} in its names, which wrappers put there"] if found else []
    if "base_model.model." in found and find_mark(names) is not None:
        return checkpoint
    if ".modules_to_save." in text and _SAVED.search(text):
        left = {name: None for name, each in new.items() if _ORIGINAL.search(each)}
        remarks.append(f"{len(left)} tensors as they were before peft trained them are left out{_such([*left])}")
        new = {name: _SAVED.sub("", each) for name, each in new.items() if name not in left}
    if not remarks or len(set(new.values())) < len(new):
        return checkpoint
    return RenamedCheckpoint(checkpoint, {each: name for name, each in new.items()}, tuple(remarks))


def _such(names: Sequence[str]) -> str:
    return f" (such as {names[0]!r})" if names else ""


def _outer(names: Iterable[str]) -> str | None:
    """What stands before every name and is none of the model's own."""
    names = [*names]
    if not names:
        return None
    ends = min(names), max(names)  # what both begin with, all do
    for prefix in _OUTER:
        if all(name.startswith(prefix) for name in ends):
            return prefix
    whole = all(name.startswith("model.") for name in ends)  # a module of Lightning's, called model
    return "model." if whole and any(name.startswith("model.model.") for name in names) else None
