"""What the comparison of methods found (docs/which-method.md): written by `make zoo`, do not edit."""

from __future__ import annotations

from collections.abc import Mapping

WORLDS = ("sequences", "shared", "adapters", "digits", "real")
SAFE = ("pcb", "della")
"""Methods of seconds to minutes that are least behind where they are worst, and nowhere below the base."""
BELOW: Mapping[str, tuple[str, ...]] = {}
"""Methods that fell below the base with nothing set, and the worlds in which they did."""
RULE: tuple[str, float, str, str] | None = None
"""A measure of `mergery.report.interference`, a bound, the method below it and the one from it on, where such a rule held on
worlds that it was not learnt from."""
