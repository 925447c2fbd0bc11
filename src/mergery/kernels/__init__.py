"""Arithmetic on chunks: readable torch versions, and compiled ones that give the same bytes.

`kernels()` returns the module to call. Both modules, `mergery.kernels.compiled` and `mergery.kernels.readable`, and the
`DeviceKernels` of `mergery.kernels.device` have the functions `mix`, `consensus`, `convert`, `gram`, `l1_norms`,
`count_high` and `count_low`, and the first two `permute`, which moves bits and has no status; `mergery.kernels.ranks` turns
counts into exact order statistics, and `mergery.kernels.random` holds the keyed generator.

**Inputs.** `raw` is a C-contiguous, writeable uint8 array (rows, capacity), capacity a multiple of 8. Row j
holds, from its start and in little-endian order, `n` elements of the storage type `codes[j]` (int64 array;
see `mergery.dtypes`). With `has_base` 1, row 0 is the base and rows 1..k are the k models; with 0, rows 0..k-1
are. The vectors that are merged are then x_i - base, or x_i. All arithmetic is in float32 (sums in float64
where said), element by element and in model order, each product and sum rounded by itself; float64 inputs are
rounded to float32 first.

**Outputs.** `out` is a writeable uint8 array whose first bytes receive the result, rounded once, to nearest
even, to the storage type `out_code`; NaN is written as the positive quiet NaN with no payload. Every function
returns a status, an int of 64 bits: 0 where all is well, bit j where row j holds a value that is not finite in
float32 (bit 61: row 61 or one behind it), bit 62 where an output value is not finite.

**Threads.** Functions keep no state and may be called from several threads at once; the compiled ones release
the GIL. They are compiled on first use and kept on disk. One compilation serves all calls if the arguments
keep their types: arrays of the dtype said here, C-contiguous and writeable; Python ints and floats for
scalars.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from types import ModuleType

from mergery.errors import MergeryError

BLOCK = 65536
"""Elements over which `gram` and `l1_norms` give one sum. An aligned block's sum does not depend on chunks."""

LANES = 256
"""Within a block, element e is added to lane e % LANES, in order; then one half of the lanes to the other, until one is
left."""

ROW_LANES = 32
"""The same for sums of a single row, which are many and short."""

LAST_ROW = 61
"""The status bit of this row, and of all behind it."""

SLICE = 64 << 20
"""Bytes of float32 that the rows of one slice on a GPU take, about: see `mergery.kernels.device`."""

CHOICES = ("compiled", "readable")


compiling: list[Callable[[str], None]] = []
"""Who is told a kernel's name before it is compiled, which takes seconds, once."""


def kernels() -> ModuleType:
    """The compiled kernels where numba is installed, else the readable ones: see `choice`."""
    return importlib.import_module(f"mergery.kernels.{choice()}")


def choice() -> str:
    """Which kernels are used, `compiled` or `readable`: those that the environment variable MERGERY_KERNELS names, else
    compiled ones where numba is installed. Raises MergeryError for another word."""
    return _choose(os.environ.get("MERGERY_KERNELS", ""))


@cache
def _choose(word: str) -> str:
    if word not in ("", *CHOICES):
        raise MergeryError(f"MERGERY_KERNELS is {word!r}", hint=f"set it to {' or '.join(CHOICES)}, or unset it")
    return word or ("compiled" if importlib.util.find_spec("numba") else "readable")
