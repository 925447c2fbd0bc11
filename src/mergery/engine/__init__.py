"""Reduce, then map: makes the bytes of one tensor, window by window, in buffers that are used again.

A `Loom` is one worker's memory. A `Reader` brings windows of a node's inputs onto it. A `Merging` is one weave: it runs the
streaming reductions that its method asks for (`reduce.py`), and then maps each window to output bytes. A `Gathering` is one
patchwork: it gathers. A `Computing` calls the function of a derived tensor. Arithmetic is float32, statistics are float64 or
integers, and there is one rounding at the end.

Reductions add up over fixed blocks of the tensor, never over whatever a worker happened to read at once; so a result
does not depend on threads, windows or resumes.
"""

from mergery.engine.merging import Merging, evaluator
from mergery.engine.workspace import CHUNK, STAGE, Shared, Workspace

__all__ = ["CHUNK", "STAGE", "Merging", "Shared", "Workspace", "evaluator"]
