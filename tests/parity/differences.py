"""Where mergekit 0.1.5 is wrong or silent: each claim is run, with both programs on the same files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from tests.parity.compare import Tensors

if TYPE_CHECKING:
    from tests.parity.__main__ import Session

Outcome = tuple[str, str, bool]  # what mergekit did, what Mergery did, whether both are as claimed
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Difference:
    """A claim, by the name that `docs/mergekit.md` gives it, and how to see it."""

    name: str
    see: Callable[[Bench], Outcome]


@dataclass
class Bench:
    """A fresh folder, both programs and the tiny models."""

    session: Session
    folder: Path
    python: Path

    def theirs(self, text: str, family: str = "llama", dtype: str = "float32") -> Path:
        return self.session.theirs(self.folder, "mergekit", text, family, dtype)

    def mine(self, text: str, family: str = "llama", dtype: str = "float32") -> Path:
        return self.session.mine(self.folder, text, family, dtype)

    def complaint(self, run: Callable[[], object]) -> str:
        """The message with which a program refuses; empty where it does not."""
        try:
            run()
        except ValueError as error:
            return str(error)
        return ""

    def member(self, name: str, family: str = "llama", dtype: str = "float32") -> Path:
        return self.session.members(family, dtype)[name]

    def variant(self, name: str, change: Callable[[Tensors], Tensors], of: str = "base") -> Path:
        """A copy of a member of the float32 Llamas with other weights."""
        copy = self.folder / name
        shutil.copytree(self.member(of), copy)
        save_file(change(load_file(copy / WEIGHTS)), copy / WEIGHTS, {"format": "pt"})
        return copy


def difference(name: str) -> Callable[[Callable[[Bench], Outcome]], Difference]:
    return lambda see: Difference(name, see)


def claims(*modules: ModuleType) -> list[Difference]:
    """The claims of modules, in the order in which they stand there."""
    return [claim for module in modules for claim in vars(module).values() if isinstance(claim, Difference)]


def check(session: Session, claim: Difference, python: Path) -> tuple[list[str], str | None]:
    """The cells of the table, and what does not hold."""
    folder = session.fresh()
    try:
        theirs, mine, holds = claim.see(Bench(session, folder, python))
    except (ValueError, KeyError, OSError) as error:
        return [claim.name, "", ""], f"{type(error).__name__}: {error}"
    if holds:
        shutil.rmtree(folder)
    return [claim.name, theirs, mine], None if holds else "not as claimed"


def brief(message: str) -> str:
    """The first line of a refusal, without the folder's name."""
    if not message:
        return "accepts it"
    line = message.removeprefix("Mergery fails: ").splitlines()[0]
    return "refuses: " + re.sub(r"(?<![\w.])/\S*/", "", line).removeprefix("mergery: ")
