"""Reduce, then map: makes the bytes of one tensor, window by window, in buffers that are used again.

A `Workspace` is one worker's memory. An `Evaluator` makes one node on it: `Copying` a stored tensor, `Merging` a merged one,
`Gathering` one of ranges of others, `Computing` one that a function gives. A `Merging` reads windows of its inputs by a
`Reader`, runs the streaming reductions that its method asks for (`reductions.py`), and then maps each window to output bytes.
Arithmetic is float32, statistics are float64 or integers, and there is one rounding at the end.

Reductions add up over fixed blocks of the tensor, never over whatever a worker happened to read at once; so a result
does not depend on threads, windows or resumes.
"""

from mergery.engine.computing import Computing
from mergery.engine.copying import Copying
from mergery.engine.evaluator import Evaluator, evaluator
from mergery.engine.factored import Factoring, merging
from mergery.engine.gathering import Gathering
from mergery.engine.held import Held
from mergery.engine.merging import Merging
from mergery.engine.workspace import CHUNK, STAGE, Shared, Workspace

__all__ = [
    "CHUNK", "STAGE", "Computing", "Copying", "Evaluator", "Factoring", "Gathering", "Held", "Merging", "Shared",
    "Workspace", "evaluator", "merging",
]  # fmt: skip
