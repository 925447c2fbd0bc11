"""A model folder, with its card, as a model on the Hugging Face hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergery.checkpoints.file_kinds import CARD, is_weight_file, other_form
from mergery.checkpoints.hub.uploading import Repository, commit_files, look
from mergery.errors import CheckpointError, PlanError, listed
from mergery.run import journal, lock
from mergery.run.events import Notify, Pushed, Pushing
from mergery.run.output import is_model


@dataclass(frozen=True)
class Parcel:
    """What is to be pushed, and what the hub holds under that name."""

    repo: str
    files: Mapping[str, Path | bytes]
    delete: tuple[str, ...]  # weight files on the hub that would stand beside the new ones
    there: Repository | None
    notes: tuple[str, ...]
    asked: bool = True  # whether the hub has said what it holds

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in self.files.values())


def push(folder: Path, repo: str, notify: Notify, *, private: bool, replace: bool, message: str, bars: bool) -> Pushed:
    """Push a model folder in one commit; see `mergery.api.push`. Raises MergeryError."""
    parcel = wrap(folder, repo, replace=replace)
    notify(Pushing(repo, len(parcel.files), parcel.nbytes, parcel.notes))
    done = commit_files(
        repo, parcel.files, parcel.delete, there=parcel.there, private=private, message=message, bars=bars
    )
    pushed = Pushed(repo, done.address, done.digest)
    notify(pushed)
    return pushed


def wrap(folder: Path, repo: str, *, replace: bool = False, only_told: bool = False) -> Parcel:
    """All files of a folder that are to be pushed, once it is sure that they may be; where this is `only_told`, a hub that
    cannot be asked is a note. Raises MergeryError.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise PlanError(f"{repo!r} is no name of a model on the hub", hint="ORG/NAME, such as my-name/my-merge")
    files = files_of(folder)
    notes: list[str] = []
    if lock.NAME in files:
        record = lock.read_lock(folder)
        check_whole(folder, record)
        files[lock.NAME] = (json.dumps(lock.without_places(record), indent=1) + "\n").encode()
    there, asked = None, True
    try:
        there = look(repo)
    except CheckpointError as error:
        if not only_told:
            raise
        asked = False
        notes.append(f"what the hub holds under this name is not known: {error.what}; to push, {error.hint}")
    held = sorted(name for name in (there.files if there else ()) if is_of_weights(name))
    if held and not replace:
        raise PlanError(
            f"{repo} is on the hub already, with {listed(held)}",
            why="nothing that exists is overwritten",
            hint="choose another name, or say --replace to make a commit of it that holds this model",
        )
    card = files.get(CARD)
    places = private_places(card) if isinstance(card, Path) else []
    if card is None:
        notes.append(f"the folder has no {CARD}: the hub shows no card")
    elif places:
        notes.append(f"the card names folders of this machine: {', '.join(places)}")
    return Parcel(repo, files, tuple(name for name in held if name not in files), there, tuple(notes), asked)


def files_of(folder: Path) -> dict[str, Path | bytes]:
    """The files of a model folder by name, but for those whose names begin with a dot. Raises PlanError."""
    if not folder.is_dir():
        raise PlanError(f"there is no folder {str(folder)!r}", hint="name one that `mergery merge` wrote")
    if (folder / journal.NAME).exists():
        hint = "run its merge again to its end"
        raise PlanError(f"{str(folder)!r} is the folder of an unfinished merge", hint=hint)
    if not is_model(folder):
        raise PlanError(f"{str(folder)!r} is no model", why="it has no weight files", hint="name a model folder")
    found: dict[str, Path | bytes] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            found["/".join(parts)] = path
    return found


def check_whole(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse a merged folder that is a fragment, or lacks files that its lock names."""
    if record.get("only"):
        raise PlanError(
            f"{str(folder)!r} is a fragment of a model", why="it was made with --only", hint="merge without --only"
        )
    sizes = {weight["file"]: weight["bytes"] for weight in record["weights"]}
    lacking = [name for name in (*sizes, *record["files"]) if not (folder / name).is_file()]
    changed = [name for name, size in sizes.items() if name not in lacking and (folder / name).stat().st_size != size]
    if lacking or changed:
        what = f"{listed(lacking)} is missing" if lacking else f"{listed(changed)} has another size than its lock says"
        raise PlanError(f"{str(folder)!r} is not what was merged: {what}", hint="mergery verify, or merge again")


def is_of_weights(name: str) -> bool:
    """Whether a file of the hub holds weights, or says in which files they are."""
    last = name.rpartition("/")[2]
    return is_weight_file(last) or other_form(last) is not None or last.endswith(".index.json")


def private_places(card: Path) -> list[str]:
    """Folders of this machine that a card names."""
    text = card.read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"(?<![\w:/.~-])/(?:[\w.@~+-]+/)+[\w.@~+-]+", text)
    return [place for place in dict.fromkeys(found) if os.path.lexists(place)]
