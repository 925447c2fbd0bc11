"""Files of `torch.save`, read without torch: the zip archives of torch 1.6 and later, and the older form."""

from __future__ import annotations

import hashlib
import io
import struct
import threading
import zipfile
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.byte_files import ByteFile, FileStream, recognise
from mergery.checkpoints.formats.pickles import Storage, StoredTensor, load, loads, show
from mergery.checkpoints.formats.state_dicts import state_dict_of
from mergery.checkpoints.weights import WeightFile
from mergery.errors import CheckpointError, Where

if TYPE_CHECKING:
    import numpy as np

OLD_MAGIC = 0x1950A86A20F9469CFC6C
PICKLE_LIMIT = 256 << 20
DAMAGED = "download or save the file again"


def open_torch_file(file: ByteFile) -> WeightFile:
    """A torch file's headers; the first bytes tell which of the two forms it has."""
    first = file.read_at(0, min(64, file.size))
    if first.startswith(b"PK\x03\x04"):
        return ZipFile(file)
    if first.startswith(b"\x80"):
        return OldFile(file)
    why = f"it begins with {first[:8]!r}" if first else "it is empty"
    return _refuse(file, "this is no file that torch.save wrote", why, recognise(first) or DAMAGED)


class TorchFile(WeightFile):
    """Tensors that are views of storages; a storage's place in the file is the subclass's to tell."""

    def __init__(self, file: ByteFile, top: Any, pickled: bytes) -> None:
        self.bytes = file
        self.header_sha256 = hashlib.sha256(pickled).hexdigest()
        self._stored, self.unread = state_dict_of(top, file.name)
        self.tensors = {name: TensorInfo(name, tensor.shape, tensor.dtype) for name, tensor in self._stored.items()}
        self.aliases = _aliases(self._stored)
        self._lock = threading.Lock()
        self._gathered: tuple[str, np.ndarray] | None = None

    @abstractmethod
    def begin(self, key: str) -> int:
        """The offset in the file of a storage's first byte."""

    def read_range(self, info: TensorInfo, start: int, stop: int, into: memoryview) -> None:
        tensor = self._stored[info.name]
        if tensor.contiguous:
            at = self.begin(tensor.storage.key) + (tensor.offset + start) * tensor.dtype.itemsize
            self.bytes.read_into(at, into)
        else:
            self._gather(info.name, tensor, start, stop, into)

    def _gather(self, name: str, tensor: StoredTensor, start: int, stop: int, into: memoryview) -> None:
        """Elements of a transposed, sliced or expanded tensor, in row-major order.

        The part of the storage that the tensor spans is read once and kept until another such one is read.
        """
        import numpy as np

        itemsize = tensor.dtype.itemsize
        with self._lock:
            if self._gathered is None or self._gathered[0] != name:
                self._gathered = None
                span = np.empty(tensor.reach * itemsize, np.uint8)
                at = self.begin(tensor.storage.key) + tensor.offset * itemsize
                self.bytes.read_into(at, span.data)
                self._gathered = (name, span)
            span = self._gathered[1].view(f"u{itemsize}")
        strides = [stride * itemsize for stride in tensor.stride]
        whole = np.lib.stride_tricks.as_strided(span, tensor.shape, strides, writeable=False)
        row = max(1, whole.size // tensor.shape[0])
        first = start // row
        rows = whole[first : -(-stop // row)].reshape(-1)
        np.frombuffer(into, span.dtype)[:] = rows[start - first * row : stop - first * row]


def _aliases(stored: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Names that are the same view of the same storage as a name before them, which stands for them."""
    first: dict[StoredTensor, str] = {}
    found: dict[str, str] = {}
    for name, tensor in stored.items():
        other = first.setdefault(tensor, name)
        if other != name and tensor.reach:
            found[name] = other
    return found


class ZipFile(TorchFile):
    """The archive of torch 1.6 and later: a member for each storage, and a pickle of what views them."""

    def __init__(self, file: ByteFile) -> None:
        self.bytes = file
        try:
            with zipfile.ZipFile(io.BufferedReader(FileStream(file), 1 << 16)) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            # NotImplementedError is zipfile's word for a compression that it does not know
            _refuse(file, "the archive is damaged", f"{error}; a download that was cut short looks like this")
        self._members = {member.filename: member for member in members}
        if len(self._members) != len(members):
            _refuse(file, "the archive holds two members of one name", "which of them counts cannot be known")
        pickles = [name for name in self._members if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            _refuse(
                file,
                "this zip archive is none of torch's",
                f"it holds {len(pickles)} members named data.pkl",
            )
        self._root = pickles[0][: -len("data.pkl")]
        if f"{self._root}constants.pkl" in self._members:
            _refuse(
                file,
                "this is a TorchScript program, not a state dict",
                hint="save the model's state_dict()",
            )
        order = f"{self._root}byteorder"
        if order in self._members and self._content(order) != b"little":
            _refuse(file, "its numbers are big-endian", hint="save it again on a little-endian machine")
        pickled = self._content(pickles[0])
        super().__init__(file, loads(pickled, file.name), pickled)
        for name, tensor in self._stored.items():
            self._check_storage(name, tensor)

    def begin(self, key: str) -> int:
        return self._begin(f"{self._root}data/{key}")

    def _begin(self, name: str) -> int:
        member = self._members[name]
        local = self.bytes.read_at(member.header_offset, 30)
        if local[:4] != b"PK\x03\x04":
            _refuse(self.bytes, f"the archive is damaged: member {name!r} is not where its directory says")
        names, extra = struct.unpack("<HH", local[26:30])
        begin = member.header_offset + 30 + names + extra
        if begin + member.file_size > self.bytes.size:
            _refuse(self.bytes, f"the archive is damaged: member {name!r} reaches beyond the file")
        return begin

    def _content(self, name: str) -> bytes:
        member = self._members[name]
        self._check_stored(name, member)
        if member.file_size > PICKLE_LIMIT:
            _refuse(
                self.bytes,
                f"member {name!r} has {member.file_size} bytes",
                f"at most {PICKLE_LIMIT} are read",
            )
        return self.bytes.read_at(self._begin(name), member.file_size)

    def _check_stored(self, name: str, member: zipfile.ZipInfo) -> None:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            why = "torch.save stores members as they are; this archive was packed by another program"
            _refuse(
                self.bytes,
                f"member {name!r} is compressed or encrypted",
                why,
                "unpack it and save it with torch",
            )

    def _check_storage(self, name: str, tensor: StoredTensor) -> None:
        storage = tensor.storage
        member = self._members.get(f"{self._root}data/{storage.key}")
        if member is None:
            _refuse(self.bytes, f"tensor {name!r}: its storage {storage.key!r} is not in the archive")
        self._check_stored(member.filename, member)
        if member.file_size < storage.nbytes:
            why = f"the pickle says {storage.nbytes} bytes, the archive holds {member.file_size}"
            _refuse(self.bytes, f"tensor {name!r}: its storage {storage.key!r} is too short", why)


class OldFile(TorchFile):
    """The stream of torch before 1.6: five pickles, then each storage behind its eight bytes of length."""

    def __init__(self, file: ByteFile) -> None:
        with io.BufferedReader(FileStream(file), 1 << 16) as stream:
            if load(stream, file.name) != OLD_MAGIC:
                _refuse(
                    file,
                    "this pickle is no file that torch.save wrote",
                    "it does not begin with torch's mark",
                )
            version, system = load(stream, file.name), load(stream, file.name)
            if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
                _refuse(
                    file,
                    "its numbers are big-endian, or its version is unknown",
                    f"it says {show((version, system))}",
                )
            storages: set[Storage] = set()
            top = load(stream, file.name, storages)
            keys = load(stream, file.name)
            at = stream.tell()
        super().__init__(file, top, file.read_at(0, min(at, PICKLE_LIMIT)))
        self._begins = self._place(keys, at, storages)

    def begin(self, key: str) -> int:
        return self._begins[key]

    def _place(self, keys: Any, at: int, stored: set[Storage]) -> dict[str, int]:
        storages = {storage[:2] for storage in stored}
        sizes = dict(storages)
        if (
            not isinstance(keys, list)
            or any(type(key) is not str for key in keys)
            or len(sizes) != len(storages)
            or sorted(keys) != sorted(sizes)
        ):
            _refuse(self.bytes, "its list of storages does not match its tensors")
        begins: dict[str, int] = {}
        for key in keys:
            begins[key] = at + 8
            at += 8 + sizes[key]
        if at != self.bytes.size:
            why = f"its header describes {at} bytes, it has {self.bytes.size}"
            _refuse(self.bytes, "the file is truncated or padded", why)
        return begins


def _refuse(file: ByteFile, what: str, why: str = "", hint: str = DAMAGED) -> NoReturn:
    raise CheckpointError(what, where=Where(file.name), why=why, hint=hint)
