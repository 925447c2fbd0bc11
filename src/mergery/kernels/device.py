"""The readable kernels on a device that torch knows: windows go there, and results come back, in slices.

A `DeviceKernels` belongs to one worker and has the functions of `mergery.kernels.readable`, of which it is made. A window
is cut into slices of some megabytes, which take turns on two lanes. A lane has buffers on the device and, on a GPU, a stream;
so the next slice travels while one is computed and the last one's result comes back. Where the host's buffers are pinned
(see `mergery.kernels.devices`), the copies are asynchronous. On the processor, the same code runs without streams.

Every operation is element by element, in float32 or in integers, or a float64 sum in the order that the readable kernels
say; so the bytes are those of the processor as long as the device rounds as IEEE 754 says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergery.kernels import BLOCK, SLICE, kernels, readable

Array = np.ndarray

SMALL = BLOCK  # elements: a smaller window is made sooner than it travels
SIZES = (2, 2, 4, 8)  # bytes of the storage types, in the order of their codes


class Lane:
    """Buffers for one slice on the device, and the stream on which it is copied and computed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.rows = torch.empty(0, dtype=torch.uint8, device=device)
        self.out = torch.empty(0, dtype=torch.uint8, device=device)

    def __call__(self) -> Any:
        """A context in which the device's work goes on this lane."""
        return torch.cuda.stream(self.stream) if self.stream is not None else nullcontext()

    def load(self, raw: Array, codes: Array, start: int, stop: int) -> Tensor:
        """Bring elements [start, stop) of every row to the device: uint8 (rows, capacity)."""
        capacity = -(-(stop - start) * 8 // 64) * 64
        with self():
            if self.rows.numel() < len(codes) * capacity:
                self.rows = torch.empty(len(codes) * capacity, dtype=torch.uint8, device=self.device)
            rows = self.rows[: len(codes) * capacity].view(len(codes), capacity)
            for row, code in enumerate(codes):
                size = SIZES[int(code)]
                stored = torch.from_numpy(raw[row, start * size : stop * size])
                rows[row, : stored.numel()].copy_(stored, non_blocking=True)
        return rows

    def result(self, nbytes: int) -> Tensor:
        """Room for a result on the device: uint8 (nbytes,)."""
        if self.out.numel() < nbytes:
            self.out = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        return self.out[:nbytes]

    def finish(self) -> None:
        """Wait until all that was begun on this lane is done."""
        if self.stream is not None:
            self.stream.synchronize()


class DeviceKernels:
    """The kernels of one worker on one device. Conventions of inputs, outputs and status: see `mergery.kernels`."""

    def __init__(self, device: torch.device, slice_bytes: int = SLICE, small: int = SMALL) -> None:
        self.device, self.slice_bytes, self.small = device, slice_bytes, small
        self.lanes = (Lane(device), Lane(device))
        if (
            self.lanes[0].stream is not None
        ):  # what a method does itself in this worker's thread goes on a stream of its own
            torch.cuda.set_device(device)
            torch.cuda.set_stream(self.lanes[0].stream)

    def slices(
        self, raw: Array, codes: Array, n: int, *, whole: bool = False
    ) -> Iterator[tuple[int, int, Tensor, Lane]]:
        """The window in slices of whole blocks, each loaded while the one before it is computed."""
        size = max(BLOCK, self.slice_bytes // (4 * max(1, len(codes))) // BLOCK * BLOCK)
        starts = range(0, n, n if whole else size) if n else range(1)
        try:
            coming = self.lanes[0].load(raw, codes, 0, min(n, starts.step))
            for number, start in enumerate(starts):
                rows, lane = coming, self.lanes[number % 2]
                after = start + starts.step
                if number + 1 < len(starts):
                    coming = self.lanes[(number + 1) % 2].load(raw, codes, after, min(n, after + starts.step))
                with lane():
                    yield start, min(n, after), rows, lane
        finally:
            for lane in self.lanes:
                lane.finish()

    def mapped(
        self,
        raw: Array,
        codes: Array,
        n: int,
        out: Array,
        out_code: int,
        kernel: Callable[..., int],
        *,
        whole: bool = False,
    ) -> int:
        """A kernel that makes a window: `kernel(rows, start, size, into)` for each slice."""
        status, size = 0, SIZES[out_code]
        for start, stop, rows, lane in self.slices(raw, codes, n, whole=whole):
            made = lane.result((stop - start) * size)
            status |= kernel(rows, start, stop - start, made)
            torch.from_numpy(out[start * size : stop * size]).copy_(made, non_blocking=True)
        return status

    def mix(
        self, raw: Array, codes: Array, n: int, has_base: int, coefficients: Array, out: Array, out_code: int
    ) -> int:
        """See `mergery.kernels.readable.mix`."""
        if n <= self.small:
            return kernels().mix(raw, codes, n, has_base, coefficients, out, out_code)

        def kernel(rows: Tensor, start: int, size: int, into: Tensor) -> int:
            return readable.mix(rows, codes, size, has_base, coefficients, into, out_code)

        return self.mapped(raw, codes, n, out, out_code, kernel, whole=len(coefficients) > 1)

    def consensus(self, raw: Array, codes: Array, n: int, offset: int, keys: Array, *rule: Any) -> int:
        """See `mergery.kernels.readable.consensus`."""
        if n <= self.small:
            return kernels().consensus(raw, codes, n, offset, keys, *rule)
        *settings, out, out_code = rule
        consensus: Callable[..., int] = readable.consensus

        def kernel(rows: Tensor, start: int, size: int, into: Tensor) -> int:
            return consensus(rows, codes, size, offset + start, keys, *settings, into, out_code)

        return self.mapped(raw, codes, n, out, out_code, kernel)

    def convert(self, row: Array, code: int, n: int, out: Array, out_code: int) -> int:
        """See `mergery.kernels.readable.convert`. To send a row there and back would take longer than to convert it here."""
        return kernels().convert(row, code, n, out, out_code)

    def gram(self, raw: Array, codes: Array, n: int, has_base: int, out: Array) -> int:
        """See `mergery.kernels.readable.gram`."""
        if n <= self.small:
            return kernels().gram(raw, codes, n, has_base, out)
        status = 0
        for start, stop, rows, _ in self.slices(raw, codes, n):
            sums = out[start // BLOCK : -(-stop // BLOCK)]
            status |= readable.gram(rows, codes, stop - start, has_base, sums)
        return status

    def l1_norms(self, raw: Array, codes: Array, n: int, offset: int, keys: Array, *thinning: Any) -> int:
        """See `mergery.kernels.readable.l1_norms`."""
        if n <= self.small:
            return kernels().l1_norms(raw, codes, n, offset, keys, *thinning)
        *settings, out = thinning
        l1_norms: Callable[..., int] = readable.l1_norms
        status = 0
        for start, stop, rows, _ in self.slices(raw, codes, n):
            sums = out[start // BLOCK : -(-stop // BLOCK)]
            status |= l1_norms(rows, codes, stop - start, offset + start, keys, *settings, sums)
        return status

    def count_high(self, raw: Array, codes: Array, n: int, has_base: int, counts: Array) -> int:
        """See `mergery.kernels.readable.count_high`."""
        if n <= self.small:
            return kernels().count_high(raw, codes, n, has_base, counts)
        status = 0
        for start, stop, rows, _ in self.slices(raw, codes, n):
            status |= readable.count_high(rows, codes, stop - start, has_base, counts)
        return status

    def count_low(
        self, raw: Array, codes: Array, n: int, has_base: int, first: Array, counts: Array, above: Array
    ) -> int:
        """See `mergery.kernels.readable.count_low`."""
        if n <= self.small:
            return kernels().count_low(raw, codes, n, has_base, first, counts, above)
        status = 0
        for start, stop, rows, _ in self.slices(raw, codes, n):
            status |= readable.count_low(rows, codes, stop - start, has_base, first, counts, above)
        return status
