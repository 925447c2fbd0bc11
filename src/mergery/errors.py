"""One family of errors: what is wrong, where, why, and what to try.

Everything a user can meet is a `MergeryError`; the command line prints it without a traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Where:
    """A place in a file that the user wrote. Lines and columns count from one."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        parts = [self.file]
        if self.line is not None:
            parts.append(str(self.line))
            if self.column is not None:
                parts.append(str(self.column))
        return ":".join(parts)


class MergeryError(Exception):
    """A mistake that the user can mend.

    `what` is one sentence; `where` a place in a file; `why` the fact behind it; `hint` what to try next.
    """

    def __init__(self, what: str, *, where: Where | None = None, why: str = "", hint: str = "") -> None:
        self.what, self.where, self.why, self.hint = what, where, why, hint
        super().__init__(str(self))

    def at(self, where: Where | None) -> MergeryError:
        """The same error with a place, where it has none of its own."""
        return self if self.where else type(self)(self.what, where=where, why=self.why, hint=self.hint)

    def named_in(self, where: Where | None) -> MergeryError:
        """The same error at the place where a recipe names the model or file; one inside the file, with its line, as it is."""
        if self.where is None:
            return self.at(where)
        if where is None or where.line is None or self.where.line is not None:
            return self
        return type(self)(f"{self.where}: {self.what}", where=where, why=self.why, hint=self.hint)

    def reworded(self, say: Callable[[str], str]) -> MergeryError:
        """The same error with its hint as `say` puts it, in the language of the file at hand."""
        return type(self)(self.what, where=self.where, why=self.why, hint=say(self.hint))

    def plain(self) -> list[dict[str, Any]]:
        """The error for other programs: one object for each problem, with what is known under `what`, `where`, `why`, `try`."""
        where = None
        if self.where:
            where = {"file": self.where.file, "line": self.where.line, "column": self.where.column}
        facts = {"what": self.what, "where": where, "why": self.why, "try": self.hint}
        return [{name: fact for name, fact in facts.items() if fact}]

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        lines = [head]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)


class RecipeError(MergeryError):
    """The recipe does not say something that can be done."""


class CheckpointError(MergeryError):
    """A model's files are missing, broken or of a kind that cannot be read."""


class PlanError(MergeryError):
    """The models do not fit together, or the output cannot be written."""


class DataError(MergeryError):
    """A tensor's values cannot be merged: NaN or infinity, in an input or made by the settings."""


class TaskError(MergeryError):
    """A task, or the results of one, does not say something that can be measured."""


class Problems(MergeryError):
    """Several errors found in one look, shown together."""

    def __init__(self, errors: Iterable[MergeryError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))

    def at(self, where: Where | None) -> MergeryError:
        return Problems(error.at(where) for error in self.errors)

    def named_in(self, where: Where | None) -> MergeryError:
        return Problems(error.named_in(where) for error in self.errors)

    def reworded(self, say: Callable[[str], str]) -> MergeryError:
        return Problems(error.reworded(say) for error in self.errors)

    def plain(self) -> list[dict[str, Any]]:
        return [problem for error in self.errors for problem in error.plain()]


def raise_all(errors: Sequence[MergeryError]) -> None:
    """Raise what was found: one error as itself, several as `Problems`; nothing where there is none."""
    if errors:
        raise errors[0] if len(errors) == 1 else Problems(errors)


MOST = 80  # names listed in a hint where none is near


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, or lists what is known where nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    more = f" and {len(known) - MOST} more" if len(known) > MOST else ""
    return f"known here: {', '.join(sorted(known)[:MOST])}{more}" if known else ""


SHOWN = 5  # names listed in a message before "and N more"


def listed(names: Sequence[str]) -> str:
    """`'a', 'b'`: the first names in quotes, and how many there are beside them."""
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def ranges(numbers: Iterable[int]) -> str:
    """`0-3, 7`: rising numbers, with those that follow one another together."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def size(nbytes: float) -> str:
    """Bytes: `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} TB"
