"""A plan whose output is one GGUF file."""

from __future__ import annotations

from mergery.planning.gguf.importance import check_sizes, imatrix_of
from mergery.planning.gguf.plan import PLAIN, TYPES, GgufPlan, gguf_plan

__all__ = ["PLAIN", "TYPES", "GgufPlan", "check_sizes", "gguf_plan", "imatrix_of"]
