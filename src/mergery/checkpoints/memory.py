"""Checkpoints that stand in memory: state dicts of torch tensors or numpy arrays, and modules."""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.base import Checkpoint, Contents, TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.weights import byte_view
from mergery.dtypes import BY_TORCH, DType
from mergery.errors import CheckpointError, Where, did_you_mean

if TYPE_CHECKING:
    import numpy as np

MEMORY = "memory"  # the location of all that has none
SAMPLE_ELEMENTS = 4096


class MemoryCheckpoint(Checkpoint):
    """A state dict as a checkpoint. Values are not copied; a read sees them as they are at that moment."""

    def __init__(
        self, state: Mapping[str, Any], label: str | None = None, config: Mapping[str, Any] | None = None
    ) -> None:
        self.label, self.location, self._config = label or "a state dict", MEMORY, Config(config)
        if not state:
            raise CheckpointError("the state dict is empty", where=Where(self.label), hint="give tensors by name")
        self._values = {name: _wrap(name, value, self.label) for name, value in state.items()}
        self._tensors = {name: TensorInfo(name, value.shape, value.dtype) for name, value in self._values.items()}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def config(self) -> Config:
        return self._config

    @property
    def aliases(self) -> Mapping[str, str]:
        first: dict[Any, str] = {}
        found = {name: first.setdefault(value.place, name) for name, value in self._values.items() if value.place}
        return {name: other for name, other in found.items() if other != name}

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        info = self._tensors.get(name)
        if info is None:
            hint = did_you_mean(name, self._tensors)
            raise CheckpointError(f"no tensor {name!r} here", where=Where(self.label), hint=hint)
        if len(byte_view(info, start, stop, into)):
            into.reshape(-1)[:] = self._values[name].read(start, stop)

    def fingerprint(self) -> dict[str, Any]:
        """A hash of all headers and of the first 4096 elements of every tensor."""
        import numpy as np

        digest = hashlib.sha256()
        for name, info in self._tensors.items():
            length = min(SAMPLE_ELEMENTS, info.elements)
            sample = np.empty(length * info.dtype.itemsize, np.uint8)
            self.read(name, 0, length, sample)
            digest.update(f"{name!r}{info.shape}{info.dtype.name}".encode())
            digest.update(sample.data)
        return {"location": self.location, "sample_sha256": digest.hexdigest()}


def from_module(module: Any, label: str | None = None) -> MemoryCheckpoint:
    """A `torch.nn.Module` as a checkpoint, with the config of a transformers model.

    The names are those of its `state_dict()`, which for some architectures differ from those that
    `save_pretrained` writes.
    """
    to_dict = getattr(getattr(module, "config", None), "to_dict", None)
    config: Any = to_dict() if callable(to_dict) else None
    return MemoryCheckpoint(module.state_dict(), label or f"a {type(module).__name__}", config)


class _Value(ABC):
    shape: tuple[int, ...]
    dtype: DType
    place: tuple[Any, ...] | None = None  # in memory: equal for views of the same elements

    @abstractmethod
    def rows(self, first: int, stop: int) -> Any:
        """Rows of dimension 0, flattened."""

    @abstractmethod
    def bytes_of(self, flat: Any) -> np.ndarray: ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """Elements as bytes. Only the rows that the range touches are gathered, whatever the strides."""
        row = 1
        for size in self.shape[1:]:
            row *= size
        first = start // row
        flat = self.rows(first, -(-stop // row))
        return self.bytes_of(flat[start - first * row : stop - first * row])


class _Array(_Value):
    def __init__(self, array: np.ndarray, dtype: DType) -> None:
        self.shape, self.dtype = tuple(array.shape), dtype
        self._array = array if array.ndim else array.reshape(1)

    def rows(self, first: int, stop: int) -> np.ndarray:
        return self._array[first:stop].reshape(-1)

    def bytes_of(self, flat: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.ascontiguousarray(flat, flat.dtype.newbyteorder("<")).view(np.uint8)


class _Tensor(_Value):
    def __init__(self, tensor: Any, dtype: DType) -> None:
        self.shape, self.dtype = tuple(tensor.shape), dtype
        self._tensor = tensor.detach() if tensor.ndim else tensor.detach().reshape(1)
        if tensor.numel() > 1:
            self.place = (str(tensor.device), tensor.data_ptr(), self.shape, tensor.stride(), dtype.name)

    def rows(self, first: int, stop: int) -> Any:
        return self._tensor[first:stop].reshape(-1)

    def bytes_of(self, flat: Any) -> np.ndarray:
        torch = sys.modules["torch"]
        return flat.resolve_conj().resolve_neg().cpu().contiguous().view(torch.uint8).numpy()


def _wrap(name: Any, value: Any, label: str) -> _Value:
    if not isinstance(name, str):
        raise CheckpointError(f"the name {name!r} is not text", where=Where(label), hint="give tensors by name")
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        found, make, refused = str(value.dtype).removeprefix("torch."), _Tensor, _unreadable(value)
    elif numpy is not None and isinstance(value, numpy.ndarray):
        found, make, refused = value.dtype.name, _Array, ""
    else:
        found, make, refused = (
            "",
            _Array,
            f"it is a {type(value).__name__}; only torch tensors and numpy arrays are read",
        )
    dtype = BY_TORCH.get(found)
    if not refused and (dtype is None or dtype.bits % 8):
        refused = f"its dtype is {found}"
    if refused or dtype is None:
        raise CheckpointError(
            f"entry {name!r} cannot be read", where=Where(label), why=refused, hint="give a torch tensor on the CPU"
        )
    return make(value, dtype)


def _unreadable(tensor: Any) -> str:
    if tensor.is_meta:
        return "it stands on the meta device and has no values; load the model's weights first"
    if hasattr(tensor, "full_tensor"):
        return "it is a distributed tensor; gather it first with full_tensor()"
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized:
        return "it is sparse or quantised; only plain dense tensors are weights"
    return ""


class TextCheckpoint(Checkpoint):
    """Small files alone: what a model that is not written yet has beside its weights."""

    def __init__(self, texts: Mapping[str, bytes], label: str) -> None:
        self.label, self.location, self._texts = label, MEMORY, texts

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {}

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        raise CheckpointError(f"no tensor {name!r} here", where=Where(self.label), hint="name one of `tensors`")

    @property
    def contents(self) -> Contents:
        return Contents(tuple(sorted(self._texts)))

    def file(self, name: str) -> bytes:
        return self._texts[name]
