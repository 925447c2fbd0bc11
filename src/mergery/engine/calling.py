"""Calling methods, and the functions of their asks, on float32 torch tensors of one piece, on the worker's device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mergery.dtypes import F32, DType
from mergery.engine.reader import Reader, check
from mergery.graph.nodes import Merged
from mergery.kernels import LAST_ROW
from mergery.kernels.random import KeyedUniform
from mergery.method.asks import Given
from mergery.method.evaluating import call_by_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mergery.kernels.spectral import Factored

OUTPUT_STATUS = 1 << 62


def piece_shape(reader: Reader, size: int) -> tuple[int, ...]:
    """How a method sees a piece: flat, as a matrix of whole rows, whole in the tensor's own shape, or as it is stored of
    matrices.
    """
    if reader.node.matrices is not None:
        each = reader.node.matrices
        count = size // (each.rows * each.columns)
        return (each.rows, each.columns) if each.count == 1 else (count, each.rows, each.columns)
    if reader.node.method.unit == "tensor":
        return reader.node.shape
    if reader.by_row:
        return (size // reader.columns, reader.columns)
    return (size,)


def decode(reader: Reader, window: int, start: int, stop: int) -> list[Tensor]:
    """Elements [start, stop) of every row as float32, from the buffers, whose window begins at `window`."""
    import torch

    shape = piece_shape(reader, stop - start)
    place = reader.workspace.device.place or torch.device("cpu")
    tensors = []
    for row, node in enumerate(reader.rows):
        size = node.dtype.itemsize
        stored = torch.from_numpy(reader.raw[row, (start - window) * size : (stop - window) * size])
        tensor = stored.view(getattr(torch, node.dtype.torch)).to(place).to(torch.float32, copy=True).reshape(shape)
        if not tensor.isfinite().all():
            reader.check(1 << min(row, LAST_ROW), F32)
        tensors.append(turned(reader, tensor))
    return tensors


def turned(reader: Reader, tensor: Tensor) -> Tensor:
    """Matrices that are stored the other way round as [out, in], and the other way round."""
    each = reader.node.matrices
    return tensor if each is None or not each.transposed else tensor.mT.contiguous()


def call(
    reader: Reader,
    function: Callable[..., Any],
    known: Mapping[str, Any],
    keys: np.ndarray,
    window: int,
    start: int,
    stop: int,
) -> Any:
    """Call a method, or an ask's `of`, on one piece, with what its parameters name."""
    method = reader.node.method
    tensors = decode(reader, window, start, stop)
    base = tensors[0] if reader.node.base is not None else None
    models, measured = vectors_of(reader, tensors), statistics_of(reader, tensors, start, stop)
    place, shape = reader.workspace.device.place, piece_shape(reader, stop - start)
    random = KeyedUniform(keys, shape, start=start, place=place, view=partial(turned, reader))
    dtypes = [row.dtype.torch for row in reader.node.inputs]
    given = Given(reader.node.shape, base, random, models, dtypes, measured)
    taken = {name: ask.take(given) for name, ask in method.asks if not ask.streamed}
    if reader.deltas and base is not None and method.takes != "models":
        models = [model.sub_(base) for model in models]
    result = call_by_name(function, {**known, **taken, "models": models, "deltas": models, method.first: models})
    if function is not method.function:
        return result
    if method.takes == "deltas":
        assert base is not None
        result = base + result
    return turned(reader, result)


def call_factored(
    node: Merged, deltas: list[Factored], keys: np.ndarray, number: int, place: torch.device
) -> Tensor | Factored:
    """Call a method on task vectors that are factors, of one of a tensor's matrices."""
    each = node.matrices
    assert each is not None
    first, shape = number * each.rows * each.columns, (each.rows, each.columns)

    def view(stream: Tensor) -> Tensor:
        return stream.mT.contiguous() if each.transposed else stream

    random = KeyedUniform(keys, shape, start=first, place=place, view=view)
    exact = [F32.torch] * len(deltas)  # no rounding has gone into them that could be told
    given = Given(node.shape, None, random, [delta.left for delta in deltas], exact)
    taken = {name: ask.take(given) for name, ask in node.method.asks}
    known = {**node.settings, **taken, node.method.first: deltas}
    return call_by_name(node.method.function, known)


def vectors_of(reader: Reader, tensors: list[Tensor]) -> list[Tensor]:
    """Those of the models, among all that is read."""
    first = int(reader.node.base is not None)
    return tensors[first : first + reader.k]


def statistics_of(reader: Reader, tensors: list[Tensor], start: int, stop: int) -> dict[str, list[Tensor]]:
    """The statistics of elements [start, stop), by kind: those read with the models, and those of their matrices."""
    found: dict[str, list[Tensor]] = {}
    at = len(reader.node.vectors)
    for each in reader.node.statistics:
        places = range(at, at + len(each.nodes))
        at += len(each.nodes)
        if each.aligned:
            found[each.kind] = [tensors[place] * factor for place, factor in zip(places, each.factors, strict=True)]
        else:
            found[each.kind] = [
                matrices_beside(reader, place, start, stop) * factor
                for place, factor in zip(places, each.factors, strict=True)
            ]
    return found


def matrices_beside(reader: Reader, place: int, start: int, stop: int) -> Tensor:
    """See `Reader.matrices_of`: one matrix, or several, as the method sees those that it merges."""
    import torch

    values = torch.from_numpy(reader.matrices_of(place, start, stop)).to(reader.workspace.device.place or "cpu")
    assert reader.node.matrices is not None
    return values[0] if reader.node.matrices.count == 1 else values


def spanned(reader: Reader, window: int, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
    """What a Gram method mixes of a piece of whole rows, float32 (k, rows, columns): models, or deltas; and the base."""
    import torch

    tensors = decode(reader, window, start, stop)
    base = tensors[0] if reader.node.base is not None else None
    models = tensors if base is None else tensors[1:]
    return torch.stack([model - base for model in models] if reader.deltas and base is not None else models), base


def row_gram(vectors: Tensor) -> np.ndarray:
    """Inner products of the rows of some matrices (k, rows, columns): float64 (rows, k, k)."""
    import torch

    wide = vectors.to(torch.float64)
    return torch.einsum("irc,jrc->rij", wide, wide).cpu().numpy()


def column_gram(reader: Reader) -> np.ndarray:
    """Inner products of the columns of the whole tensor, read window by window: float64 (columns, k, k).

    Rows are added up in blocks of `reader.block` elements, by halves, then block after block: in one order, whatever the
    windows, the processor or the device.
    """
    import torch

    place = reader.workspace.device.place or torch.device("cpu")
    total = torch.zeros(reader.k, reader.k, reader.columns, dtype=torch.float64, device=place)
    for window, end in reader.windows():
        reader.load(window, end)
        for start, stop in reader.slices(window, end):
            vectors, _ = spanned(reader, window, start, stop)
            for block in vectors.split(reader.block // reader.columns, dim=1):
                wide = block.to(torch.float64)
                for model in range(reader.k):
                    total[model, model:] += sum_of_rows(wide[model] * wide[model:])
    for model in range(reader.k):
        total[model + 1 :, model] = total[model, model + 1 :]
    return total.permute(2, 0, 1).cpu().numpy()


def sum_of_rows(values: Tensor) -> Tensor:
    """The sum over the rows of (..., rows, columns), one half of them added to the other again and again: (..., columns)."""
    import torch

    while values.shape[-2] > 1:
        half, odd = divmod(values.shape[-2], 2)
        folded = values[..., :half, :] + values[..., half : 2 * half, :]
        values = torch.cat([folded, values[..., 2 * half :, :]], dim=-2) if odd else folded
    return values[..., 0, :]


def mix_vectors(reader: Reader, vectors: Tensor, base: Tensor | None, shares: np.ndarray) -> Tensor:
    """Mix the rows or the columns of a piece (k, rows, columns), each by shares of its own, (rows or columns, k)."""
    import torch

    factors = torch.from_numpy(np.ascontiguousarray(shares.T, dtype=np.float32)).to(vectors.device)
    factors = factors[:, None, :] if reader.scope == "column" else factors[:, :, None]
    result = torch.zeros_like(vectors[0])
    for model in range(reader.k):
        result += factors[model] * vectors[model]
    return base + result if reader.deltas and base is not None else result


def store(node: Merged, result: Tensor, out: np.ndarray, dtype: DType) -> None:
    """Write a result, rounded once, as bytes."""
    import torch

    values = result.detach().reshape(-1)
    if dtype.rounded:
        values = values.to(getattr(torch, dtype.rounded))
    stored = values.to(getattr(torch, dtype.torch)).contiguous()
    if not stored.isfinite().all():
        check(node, OUTPUT_STATUS, dtype)
    torch.from_numpy(out).copy_(stored.view(torch.uint8))
