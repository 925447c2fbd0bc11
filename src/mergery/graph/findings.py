"""What is found on the way from a recipe to a view: all problems at once, and what a user is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from mergery.errors import MergeryError, PlanError, Where
from mergery.graph.view import Change


@dataclass
class Findings:
    """Problems, warnings and changes of one plan, in the order in which they are found."""

    problems: list[MergeryError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    treated: dict[str, list[str]] = field(
        default_factory=dict
    )  # names of tensors that a rule treats apart, by the rule
    changes: list[Change] = field(default_factory=list)
    merges: int = 0  # how many numbers are given: see `Merged.merge`

    def fail(self, what: str, *, where: Where | None = None, why: str = "", hint: str = "") -> None:
        """Note a problem."""
        self.problems.append(PlanError(what, where=where, why=why, hint=hint))

    def treat(self, rule: str, name: str) -> None:
        """Note that a rule, in words, treats a tensor apart."""
        self.treated.setdefault(rule, []).append(name)

    def numbers(self, count: int = 1) -> int:
        """The first of so many numbers of merges that nothing else has."""
        first, self.merges = self.merges, self.merges + count
        return first
