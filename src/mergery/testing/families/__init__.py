"""Tiny models of every family, made by transformers, or with exactly the names and shapes that a family publishes."""

from __future__ import annotations

from mergery.testing.families.making import build, fine_tune, load, make
from mergery.testing.families.table import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "build", "fine_tune", "load", "make"]
