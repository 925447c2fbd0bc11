"""Pickled state dicts, read as data. Nothing of a pickle is run.

An unpickler calls what the pickle names, and changes objects as the pickle says. The one here answers the
few names that a state dict needs by objects of this module that cannot be changed, and refuses all others. It
never imports torch.
"""

from __future__ import annotations

import io
import math
import pickle
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, ClassVar, NamedTuple

from mergery.dtypes import BY_TORCH, DType
from mergery.errors import CheckpointError, Where

SAVE_SAFELY = "save its state dict alone, best with safetensors: safetensors.torch.save_file(model.state_dict(), path)"
ELEMENTS_LIMIT = 1 << 48  # an expanded view can claim any size; this is 256 Ti


@dataclass(frozen=True)
class StorageKind:
    """A storage class of torch; an untyped one has no dtype and counts bytes."""

    dtype: DType | None


class Storage(NamedTuple):
    """A run of bytes in the file. Tensors that are tied share one."""

    key: str
    nbytes: int
    dtype: DType | None


class StoredTensor(NamedTuple):
    """A view of a storage; `offset` and `stride` count elements."""

    storage: Storage
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != step:
                return False
            step *= size
        return True

    @property
    def reach(self) -> int:
        """Elements from `offset` to just behind the last one that is used."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))


class _RefusedError(Exception):
    """What a pickle asked for and will not get: `what`, `why`."""


class _Answer:
    """What a pickle gets for a name: it can be called, and cannot be changed."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, *arguments: Any) -> Any:
        return self.value(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("a pickle that wants to change the program that reads it", "it gives new state to a name")


class _Dict(dict[Any, Any]):
    """An ordered dict of the pickle; attributes that hang on it (`_metadata`) are not weights."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Note(dict[Any, Any]):
    """What stands for an object that is no tensor and holds none that counts: settings, paths, times. It keeps nothing."""

    __slots__ = ()

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def load(stream: IO[bytes], file: str, storages: set[Storage] | None = None) -> Any:
    """One pickle from the stream, which is left just behind it. What is no data is a `CheckpointError`.

    All storages to which it refers are put into `storages`.
    """
    try:
        return _Unpickler(stream, storages).load()
    except _RefusedError as error:
        raise CheckpointError(error.args[0], where=Where(file), why=error.args[1], hint=SAVE_SAFELY) from None
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can fail in any of its opcodes
        why = f"{type(error).__name__}: {str(error)[:200]}"
        hint = "download or save the file again"
        raise CheckpointError("its pickle is damaged", where=Where(file), why=why, hint=hint) from None


# The one in Python. The one in C can be made to take gigabytes by ten bytes, or to hash a tuple for years.
_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(_PythonUnpickler):
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, stream: IO[bytes], storages: set[Storage] | None) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storages: set[Storage] = set() if storages is None else storages

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        known = GLOBALS.get(f"{module_name}.{global_name}")
        if known is not None:
            return known
        if f"{module_name}.{global_name}".startswith(("torch._utils._rebuild", "torch.complex", "torch.Complex")):
            what = f"it holds a kind of tensor that cannot be read: {module_name}.{global_name}"
            raise _RefusedError(what, "only plain dense tensors are weights")
        what = f"a pickle that wants code: it asks for `{module_name}.{global_name}`"
        raise _RefusedError(what, "only tensors are taken from a pickle, and nothing of it is run")

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        _check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        _check_keys(self.stack)
        super().load_frozenset()

    def load_newobj(self) -> None:
        """An object of a class is made by calling what is answered for the class, as by any other way."""
        arguments = self.stack.pop()
        self.stack.append(self.stack.pop()(*arguments))

    for _name in ("SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET", "NEWOBJ"):
        dispatch[getattr(pickle, _name)[0]] = locals()[f"load_{_name.lower()}"]
    for _name in ("BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"):
        dispatch.pop(getattr(pickle, _name)[0])

    def persistent_load(self, pid: Any, /) -> Storage:
        if type(pid) is not tuple or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _Answer):
            raise _RefusedError("it refers to something other than a storage", f"its reference reads {show(pid)}")
        kind, key, elements = pid[1].value, pid[2], pid[4]
        if not isinstance(kind, StorageKind) or type(key) is not str or type(elements) is not int or elements < 0:
            raise _RefusedError("a reference to a storage is malformed", f"it reads {show(pid[2:])}")
        if len(pid) > 5 and pid[5] is not None:
            raise _RefusedError(
                "it holds views of storages in a form that torch left in 2017", "their offsets are unknown"
            )
        itemsize = kind.dtype.itemsize if kind.dtype else 1
        storage = Storage(key, elements * itemsize, kind.dtype)
        self.storages.add(storage)
        return storage


def _check_keys(keys: Iterable[Any]) -> None:
    """Keys are words and numbers. A tuple of tuples can be small and take years to hash."""
    for key in keys:
        parts = key if type(key) is tuple and len(key) <= 16 else (key,)
        if not all(part is None or type(part) in _KEYS for part in parts):
            raise _RefusedError("a key that is no word or number", f"it reads {show(key)}")


def _make_set(items: Any = ()) -> set[Any]:
    _check_keys(items)
    return set(items)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    return _tensor(storage, storage.dtype if isinstance(storage, Storage) else None, offset, shape, stride)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> StoredTensor:
    return _tensor(storage, dtype.value if isinstance(dtype, _Answer) else None, offset, shape, stride)


def _tensor(storage: Any, dtype: Any, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    if not isinstance(storage, Storage) or not isinstance(dtype, DType) or dtype.bits % 8:
        raise _RefusedError("a tensor without a known storage and dtype", f"its dtype is {show(dtype)}")
    why = f"offset {show(offset)}, shape {show(shape)}, stride {show(stride)} of {dtype}"
    if len(shape) != len(stride) or any(type(number) is not int or number < 0 for number in (offset, *shape, *stride)):
        raise _RefusedError("a tensor's shape and strides do not fit", why)
    tensor = StoredTensor(storage, dtype, offset, tuple(shape), tuple(stride))
    if tensor.reach and (offset + tensor.reach) * dtype.itemsize > storage.nbytes:
        raise _RefusedError("a tensor reaches beyond its storage", f"{why}; the storage has {storage.nbytes} bytes")
    if math.prod(shape) > ELEMENTS_LIMIT:
        raise _RefusedError("a tensor is larger than any that there is", why)
    return tensor


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _rebuild_from_type(rebuild: Any, kind: Any, args: Any, *_: Any) -> Any:
    """A tensor with Python attributes: the tensor counts, the attributes do not."""
    if not isinstance(rebuild, _Answer) or rebuild.value not in _REBUILDS or kind is not _PLAIN:
        raise _RefusedError("it holds a tensor of a class that cannot be read", "only plain dense tensors are weights")
    return rebuild(*args)


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "utf-8")


def _device(*_: Any) -> str:
    return "a device"


_KEYS = (str, int, float, bool, bytes)
_PLAIN = _Answer("tensor")
_REBUILDS: tuple[Callable[..., Any], ...] = (_rebuild_tensor, _rebuild_tensor_v3, _rebuild_parameter)
_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": tuple,
    "torch.device": _device,
    "collections.OrderedDict": _Dict,
    "_codecs.encode": _encode,
    "builtins.set": _make_set,
    "__builtin__.set": _make_set,
}
_NOTES = (
    "argparse.Namespace", "datetime.timedelta", "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath",
    "pathlib.WindowsPath", "pathlib._local.PosixPath", "numpy.dtype", "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar", "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
)  # fmt: skip
"""What trainers store beside the weights. None of it is made: a note that holds nothing stands for it."""

GLOBALS: dict[str, _Answer] = {
    **{name: _Answer(function) for name, function in _FUNCTIONS.items()},
    **{f"torch.{name}": _Answer(dtype) for name, dtype in BY_TORCH.items()},
    **{f"torch.{name}": _Answer(StorageKind(BY_TORCH[dtype])) for name, dtype in _STORAGES.items()},
    **{name: _Answer(_Note) for name in _NOTES},
    "torch.storage.UntypedStorage": _Answer(StorageKind(None)),
    "torch.Tensor": _PLAIN,
    "torch.nn.parameter.Parameter": _PLAIN,
    "torch.nn.parameter.Buffer": _PLAIN,
}


def show(value: Any) -> str:
    """A hostile value may be too large, or too long a number, to print."""
    try:
        return reprlib.repr(value)
    except ValueError:
        return f"a huge {type(value).__name__}"


def loads(data: bytes, file: str) -> Any:
    """One pickle from bytes."""
    return load(io.BytesIO(data), file)
