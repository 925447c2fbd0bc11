"""The tiny models of the evaluation's tests, and texts that one of them writes better than the other."""

from __future__ import annotations

from tests.evaluation.conftest import one_core, write, zoo

__all__ = ["one_core", "write", "zoo"]
