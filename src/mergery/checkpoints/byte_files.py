"""Where bytes come from: a file that is read by offset, without ever being loaded or mapped as a whole."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from mergery.errors import CheckpointError, Where

READ_LIMIT = 1 << 30  # one system call moves at most this much (Linux caps at 2 GiB, macOS refuses more)


class ByteFile(ABC):
    """A file of known size whose bytes are read by offset. Reading never moves a shared position."""

    name: str  # what messages call it: a path, or a file of a hub model
    size: int

    @abstractmethod
    def read_into(self, offset: int, into: memoryview) -> None:
        """Fill `into` from `offset` on. Safe to call from several threads at once."""

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on."""
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def stamp(self) -> list[int]:
        """Size and time of the last change; empty where bytes cannot change."""
        return []

    def close(self) -> None:
        """Release the file handle."""


class LocalFile(ByteFile):
    """A file on this machine, opened once and read by `preadv`, so that threads share one descriptor."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
                raise CheckpointError(
                    "this is not a regular file", where=Where(self.name), hint="name a file or a folder"
                )
            handle = open(path, "rb", buffering=0)  # noqa: SIM115 - held until `close`
        except OSError as error:
            raise _cannot_open(path, error) from None
        self.size = os.fstat(handle.fileno()).st_size
        self._handle = handle
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, handle.close)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read_into(self, offset: int, into: memoryview) -> None:
        wanted, done = len(into), 0
        while done < wanted:
            try:
                got = self._read_some(offset + done, into[done : done + READ_LIMIT])
            except (OSError, OverflowError) as error:  # OverflowError: an offset beyond any file
                raise CheckpointError(
                    f"reading {wanted} bytes at offset {offset} failed",
                    where=Where(self.name),
                    why=getattr(error, "strerror", None) or str(error),
                    hint="check the disk or the network mount that holds this file",
                ) from None
            if got == 0:
                raise CheckpointError(
                    f"the file ended early: of {wanted} bytes at offset {offset}, {done} were there",
                    where=Where(self.name),
                    why=f"it held {self.size} bytes when it was opened and has been changed since",
                    hint="do not write to a model while it is being read; start again",
                )
            done += got

    def _read_some(self, offset: int, into: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._handle.fileno(), [into], offset)
        with self._lock:  # Windows has no positioned read
            self._handle.seek(offset)
            return self._handle.readinto(into) or 0

    def stamp(self) -> list[int]:
        now = os.fstat(self._handle.fileno())
        return [now.st_size, now.st_mtime_ns]

    def close(self) -> None:
        self._close()


class FileStream(io.RawIOBase):
    """A file as a seekable stream, for readers such as `zipfile` that want one."""

    def __init__(self, file: ByteFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "seek before the start of the file")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._file.size - self._position))
        if length:
            self._file.read_into(self._position, view[:length])
        self._position += length
        return length


def recognise(first: bytes) -> str:
    """What a file that begins with these bytes is in truth, as a hint; empty where nothing is recognised."""
    if first.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the weights: run `git lfs pull` in the model's folder"
    if first.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "this is a web page, not the weights: download the file itself"
    if first.startswith(b"PK\x03\x04"):
        return "this is a zip archive, as torch.save writes them: name it .bin or .pt"
    if first.startswith(b"GGUF"):
        return "this is a GGUF file: name it .gguf"
    if first[8:9] == b"{" and int.from_bytes(first[:8], "little") < 1 << 32:
        return "this looks like a safetensors file: name it .safetensors"
    return ""


def _cannot_open(path: Path, error: OSError) -> CheckpointError:
    why, hint = error.strerror or str(error), ""
    if isinstance(error, FileNotFoundError):
        hint = "check the path"
        if path.is_symlink():
            why = f"it is a symbolic link to {path.readlink()}, which does not exist"
            hint = "download the model again: its cache entry is damaged"
    elif isinstance(error, PermissionError):
        hint = "check the file's permissions"
    elif error.errno == errno.EMFILE:
        hint = "raise the limit of open files: `ulimit -n 4096`"
    return CheckpointError("this file cannot be opened", where=Where(str(path)), why=why, hint=hint)
