"""The kernels, compiled by numba. Same functions and same bytes as `mergery.kernels.readable`.

Work goes by steps of 2048 elements, small enough for the first-level cache: each input is decoded to float32,
and everything else happens on those buffers, in loops that the compiler vectorises.
"""

from mergery.kernels.compiled.counts import count_high, count_low
from mergery.kernels.compiled.fused import mix
from mergery.kernels.compiled.maps import consensus, convert
from mergery.kernels.compiled.places import permute
from mergery.kernels.compiled.sums import gram, l1_norms

__all__ = ["consensus", "convert", "count_high", "count_low", "gram", "l1_norms", "mix", "permute"]
