"""What a run has finished, kept beside its output, so that a killed run goes on where it stopped.

A line is written only after the bytes it speaks of are on the disk, so a journal is true even after a power cut.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergery.errors import PlanError

NAME = "journal.jsonl"
RESTART = "say --restart to begin anew"
BESIDES = {"inputs", "device"}  # facts that are known before any work


def finished_tensors(folder: Path, digest: str) -> int:
    """How many tensors of a plan an interrupted run has finished; nothing is changed. Raises PlanError as a run would."""
    if not (folder / NAME).exists():
        return 0
    journal = Journal(folder, digest, look=True)
    journal.close()
    return len(journal.done)


class Journal:
    """An append-only file of finished steps under one plan's digest. Holds a lock while it is open.

    With `restart` it begins anew; with `look` it is only read.
    """

    def __init__(self, folder: Path, digest: str, *, restart: bool = False, look: bool = False) -> None:
        self.path = folder / NAME
        self.digest = digest
        self.done: dict[str, str] = {}
        self.facts: dict[str, Any] = {}
        access = os.O_RDONLY if look else os.O_RDWR | os.O_CREAT
        self._fd = os.open(self.path, access | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise PlanError(
                f"another run is writing {str(folder)!r}", hint="wait for it, or choose another output folder"
            ) from None
        try:
            if restart:
                os.ftruncate(self._fd, 0)
            kept = self._read()
            if not look:
                self._go_on(kept)
        except BaseException:
            self.close()
            raise

    def _read(self) -> int:
        """Take in what an earlier run has finished. Returns how many bytes of the file are to be kept."""
        with open(self.path, "rb") as file:
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # a torn last line never happened
        lines = self._parse(whole)
        for line in lines[1:]:
            self.done.update(line.get("done", {}))
            self.facts.update(line.get("facts", {}))
        if lines and lines[0].get("digest") != self.digest:
            if not self.made_nothing:
                raise PlanError(
                    f"{str(self.path.parent)!r} holds an unfinished run of another plan",
                    why="the recipe, an input or the version of Mergery has changed since it was started",
                    hint=f"{RESTART}, or finish that run with its own recipe",
                )
            return 0
        return len(whole)

    def _go_on(self, kept: int) -> None:
        """Write behind the first `kept` bytes."""
        os.ftruncate(self._fd, kept)
        os.lseek(self._fd, 0, os.SEEK_END)
        if not kept:
            self._append([{"digest": self.digest}])

    @property
    def made_nothing(self) -> bool:
        """Whether no tensor is finished, and no statistic of the whole model known."""
        return not self.done and self.facts.keys() <= BESIDES

    def _parse(self, data: bytes) -> list[dict[str, Any]]:
        """The journal's lines. A disk or a hand that damaged them may have damaged the tensors as well."""
        lines: list[dict[str, Any]] = []
        try:
            for line in data.split(b"\n")[:-1]:
                read = json.loads(line)
                done, facts = read.get("done", {}), read.get("facts", {})
                if not isinstance(facts, dict) or not isinstance(facts.get("inputs", {}), dict):
                    raise ValueError("facts")
                if not all(isinstance(digest, str) for digest in done.values()):
                    raise ValueError("done")
                lines.append(read)
        except (ValueError, AttributeError, RecursionError):
            raise PlanError(
                f"the journal {str(self.path)!r} is damaged",
                why=f"line {len(lines) + 1} is none that Mergery writes",
                hint=RESTART,
            ) from None
        return lines

    def finished(self, digests: Mapping[str, str]) -> None:
        """Record tensors whose bytes are on the disk, with the BLAKE3 digest of each."""
        if digests:
            self._append([{"done": dict(digests)}])
            self.done.update(digests)

    def remember(self, **facts: Any) -> None:
        """Record results of model-wide reductions, so that a resumed run need not repeat them."""
        self._append([{"facts": facts}])
        self.facts.update(facts)

    def discard(self) -> None:
        """Forget everything: the bytes on the disk cannot be trusted."""
        self.path.unlink(missing_ok=True)
        self.done.clear()
        self.facts.clear()

    def _append(self, lines: list[dict[str, Any]]) -> None:
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        while data:
            data = data[os.write(self._fd, data) :]
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Let go of the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
