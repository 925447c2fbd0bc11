"""Parts of files on the hub, fetched by HTTP range requests, and the hub's errors in plain words."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from mergery.checkpoints.byte_files import ByteFile
from mergery.errors import CheckpointError, Where

AHEAD = 100 * 1024  # one request fetches at least this much; most headers fit in it
KEPT = 1 << 20  # no longer piece is kept for a second reader
SKIP_LIMIT = 128 << 20  # a server that ignores ranges is listened to for this long, and no longer
TIMEOUT = 30.0
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


class RemoteFile(ByteFile):
    """A file on the hub that is read by range requests: its header, and few of its weights where a plan rests on them."""

    def __init__(self, url: str, name: str, headers: dict[str, str]) -> None:
        self.name = name
        self._url = url
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._blocks: list[tuple[int, bytes]] = []
        self.size = AHEAD  # until the first answer tells
        self._fetch(0, AHEAD)

    def read_into(self, offset: int, into: memoryview) -> None:
        if offset + len(into) > self.size:
            what = f"the file ended early: {len(into)} bytes at offset {offset} are beyond its {self.size}"
            raise CheckpointError(what, where=Where(self.name), hint="try again")
        done = 0
        while done < len(into):
            begin, data = self._block_at(offset + done, len(into) - done)
            part = data[offset + done - begin :][: len(into) - done]
            into[done : done + len(part)] = part
            done += len(part)

    def _block_at(self, offset: int, length: int) -> tuple[int, bytes]:
        for begin, data in self._blocks:
            if begin <= offset < begin + len(data):
                return begin, data
        start = min(offset, max(0, self.size - AHEAD))  # near the end, where zip archives keep their directory
        return self._fetch(start, max(offset + length - start, AHEAD))

    def _fetch(self, start: int, length: int) -> tuple[int, bytes]:
        from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff

        stop = min(start + length, self.size)
        headers = {**self._headers, "Range": f"bytes={start}-{stop - 1}"}
        with http_stream_backoff(
            "GET", self._url, headers=headers, timeout=TIMEOUT, max_retries=2, follow_redirects=True
        ) as response:
            if response.status_code == 416:  # an empty file has no range
                self.size = 0
                return start, b""
            hf_raise_for_status(response)
            data = self._receive(response, start, stop)
        if len(data) <= KEPT:
            self._blocks.append((start, data))
        return start, data

    def _receive(self, response: Any, start: int, stop: int) -> bytes:
        if response.status_code == 206:
            self.size = int(response.headers["Content-Range"].rpartition("/")[2])
            data = response.read()
        else:
            if start > SKIP_LIMIT:
                what = "this server does not send parts of files"
                hint = "download the model, and name its folder"
                raise CheckpointError(what, where=Where(self.name), hint=hint)
            self.size = int(response.headers["Content-Length"])
            received = bytearray()
            for chunk in response.iter_bytes():
                received += chunk
                if len(received) >= stop:
                    break
            data = bytes(received[start:stop])
        if len(data) != min(stop, self.size) - start:
            what = f"the server sent {len(data)} bytes of the range {start} to {min(stop, self.size) - 1}"
            raise CheckpointError(what, where=Where(self.name), hint="try again")
        return data


class ModelNotFoundError(CheckpointError):
    """The hub has no model of that id, or hides it from those who may not see it."""


class UnreachableError(CheckpointError):
    """The hub was not asked, or did not answer, and the cache has no copy."""


def is_network_failure(error: Exception) -> bool:
    """Whether the hub could not be asked at all, or is down: then a copy in the cache may serve."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    family = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or family in ("httpx", "httpx2", "httpcore", "requests", "urllib3")


def explain(error: Exception, repo: str, revision: str | None) -> Exception:
    """One clear message for whatever the hub's client raised; a fault of the program is returned as it is."""
    from huggingface_hub import errors as hub

    if isinstance(error, CheckpointError):
        return error
    where = Where(f"{repo}@{revision}" if revision else repo)
    if isinstance(error, hub.HFValidationError):
        return CheckpointError(
            "this is no id of a model on the hub", where=where, why=_first_line(error), hint="name it org/name"
        )
    if isinstance(error, hub.GatedRepoError):
        hint = f"accept its terms at https://huggingface.co/{repo}, then {LOGIN}"
        return CheckpointError("access to this model is restricted", where=where, why="its owner gates it", hint=hint)
    if isinstance(error, hub.RepositoryNotFoundError):
        why = "a private model looks the same to those who may not see it"
        hint = f"check the spelling; for a private model, {LOGIN}"
        return ModelNotFoundError(
            "there is no such folder here, and no such model on the hub", where=where, why=why, hint=hint
        )
    if isinstance(error, hub.RevisionNotFoundError):
        hint = f"its branches and commits are listed at https://huggingface.co/{repo}/tree/main"
        return CheckpointError(f"the model has no revision {revision!r}", where=where, hint=hint)
    if isinstance(error, hub.HfHubHTTPError):
        status = error.response.status_code
        hint = LOGIN if status in (401, 403) else "try again later"
        why = error.server_message or _first_line(error)
        return CheckpointError(f"the hub answered with status {status}", where=where, why=why, hint=hint)
    if isinstance(error, hub.OfflineModeIsEnabled):
        hint = "unset HF_HUB_OFFLINE, or name a local folder"
        return UnreachableError("the local cache has no copy, and HF_HUB_OFFLINE is set", where=where, hint=hint)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        hint = "make room, or set HF_HOME to a larger disk"
        return CheckpointError("the disk that holds the hub's cache is full", where=where, hint=hint)
    if is_network_failure(error):
        hint = "check the connection, or name a local folder"
        if Path(repo).parent.is_dir() and Path(repo).parent != Path():  # such as models/typo
            hint = f"{repo!r} is no folder here: check its name, or the connection"
        why = f"{type(error).__name__}: {_first_line(error)}"
        return UnreachableError(
            "the hub cannot be reached, and the local cache has no copy", where=where, why=why, hint=hint
        )
    return error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
