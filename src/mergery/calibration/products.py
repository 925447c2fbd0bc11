"""Products of torch with a unit's weights, seen while it runs: whatever module they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.overrides import TorchFunctionMode


class Products(TorchFunctionMode):
    """A context in which every product with one of some weights is told of, matrix by matrix.

    weights: by name; what is multiplied may be a part of one, such as one expert of a stack.
    """

    def __init__(self, weights: Mapping[str, Any]) -> None:
        super().__init__()
        self.weights = {value.untyped_storage().data_ptr(): name for name, value in weights.items()}

    def found(self, name: str, rows: Any, matrix: Any, turned: bool) -> None:
        """Told of each product: the weight's name, the rows (any, in), the matrix, and whether this is stored [in, out]."""
        raise NotImplementedError

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _PRODUCTS and self.weights:
            self._look(name, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _look(self, name: str, args: Any, kwargs: Any) -> None:
        rows, weight = (kwargs.get(key, args[at] if len(args) > at else None) for key, at in _PRODUCTS[name])
        if not all(hasattr(each, "untyped_storage") for each in (rows, weight)) or weight.dim() < 2:
            return
        known = self.weights.get(weight.untyped_storage().data_ptr())
        if known is None:
            return
        stack = list(zip(rows, weight, strict=True)) if weight.dim() == 3 else [(rows, weight)]
        for each, matrix in stack:
            self.found(known, each, matrix, _turned(name, weight, matrix))


def _turned(name: str, weight: Any, matrix: Any) -> bool:
    """Whether a matrix is stored [in, out]: `linear` multiplies with its transpose, all others with what they are given,
    which may be a transposed view.
    """
    if name == "linear":
        return False
    return not (matrix.dim() == 2 and matrix.stride(0) == 1 and matrix.stride(1) != 1)


_PRODUCTS = {
    "linear": (("input", 0), ("weight", 1)),
    "addmm": (("mat1", 1), ("mat2", 2)),
    "matmul": (("input", 0), ("other", 1)),
    "__matmul__": (("input", 0), ("other", 1)),
    "mm": (("input", 0), ("mat2", 1)),
    "bmm": (("input", 0), ("mat2", 1)),
    "baddbmm": (("batch1", 1), ("batch2", 2)),
}
"""Functions of torch that multiply rows of inputs with a matrix: where those stand, by keyword and by place."""
