"""Fusing: teachers asked one after the other, what they expect kept on disk, then the target trained on it."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mergery.alignment.fusion.foretelling import check_room
from mergery.alignment.fusion.mapping import VocabularyMap
from mergery.alignment.fusion.members import Member
from mergery.alignment.fusion.options import FuseOptions
from mergery.alignment.fusion.preparing import Fusion, device_of, prepare
from mergery.alignment.fusion.teaching import Teacher, ask_all, begin, count_pairs, path_of, shard_pieces, write_arrays
from mergery.alignment.fusion.telling import MARK, card, write_model
from mergery.errors import PlanError, TaskError, Where
from mergery.evaluation.running import torch_threads
from mergery.evaluation.task import digest
from mergery.run.events import Finished, Learned, Learning, Loading, Noticed, Notify
from mergery.run.output import check_writable, partial_folder, place_of, write_at_once

TEXTS, TRAINING, MODEL = "texts", "training", "model"


def fuse(
    target: Any,
    teachers: Sequence[Any],
    data: str | Path,
    out: str | Path,
    *,
    options: FuseOptions,
    notify: Notify,
    store: str | Path | None = None,
    restart: bool = False,
) -> Path:
    """Write the model folder `out`: the target, fused with its teachers. See `mergery.api.fuse`."""
    place = place_of(out)
    fusion = prepare(target, teachers, data, options)
    partial = partial_folder(place)
    if finished(place, fusion.digest):
        if (partial / MARK).exists():  # killed between the last two steps
            shutil.rmtree(partial)
        notify(Finished(place, 0.0, already=True))
        return place
    check_writable(place)
    kept = Path(store).expanduser() if store is not None else partial
    check_room(fusion, kept)
    take_up(partial, fusion.digest, restart=restart)
    with held(partial):
        return _fuse(fusion, place, partial, kept, notify)


@contextmanager
def held(partial: Path) -> Iterator[None]:
    """The folder of an unfinished fusion, for this process alone. Raises PlanError."""
    with open(partial / MARK, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            hint = "wait for it, or choose another output folder"
            raise PlanError(f"another run is writing {str(partial)!r}", hint=hint) from None
        yield


def _fuse(fusion: Fusion, place: Path, partial: Path, kept: Path, notify: Notify) -> Path:
    options = fusion.options
    if fusion.warnings:
        notify(Noticed(tuple(fusion.warnings)))
    started = time.perf_counter()
    with torch_threads(options.threads):
        texts, sequences = write_texts(fusion, kept)
        if not sequences:
            what, why = "there is nothing to learn in it", "its texts have fewer than two tokens"
            raise TaskError(what, where=Where(fusion.data), why=why, hint="give longer texts")
        folders = [teach(fusion, teacher, kept, notify) for teacher in fusion.asked]
        said = _train(fusion, texts, folders, partial, notify)
    if place.exists():
        place.rmdir()
    (partial / MODEL).rename(place)
    shutil.rmtree(partial)
    notify(
        Learned(place, f"loss on the first {said['looked_at']} sequences", said["steps"], said["before"], said["after"])
    )
    notify(Finished(place, round(time.perf_counter() - started, 3)))
    return place


def finished(out: Path, mark: str) -> bool:
    """Whether a folder holds this fusion already. Raises PlanError where it holds something else."""
    if not out.exists() or not any(out.iterdir()):
        return False
    known = _digest_in(out)
    if known != mark:
        why = "it holds another fusion" if known else "nothing that exists is overwritten"
        raise PlanError(f"the output folder {str(out)!r} is not empty", why=why, hint="choose another folder")
    return True


def _digest_in(folder: Path) -> str | None:
    """What a folder's fusion is made of, as far as it says so."""
    try:
        return json.loads((folder / MARK).read_text()).get("digest")
    except (OSError, ValueError, AttributeError):
        return None


def take_up(partial: Path, mark: str, *, restart: bool) -> None:
    """The folder of an unfinished fusion: a new one, or what an interrupted run of the same has left. Raises PlanError."""
    kept = partial / MARK
    if partial.exists() and any(partial.iterdir()):
        if not kept.exists():
            raise PlanError(f"{str(partial)!r} stands in the way", hint="rename it, or choose another output folder")
        if not restart and (known := _digest_in(partial)) != mark:
            if known is None:
                what = f"{str(kept)!r} is damaged"
                raise PlanError(what, why="it does not say of what this fusion is", hint="say --restart to begin anew")
            what = f"{str(partial)!r} holds an unfinished fusion of other models, data or options"
            raise PlanError(what, hint="say --restart to begin anew, or finish that one as it was begun")
        if restart:
            with held(partial):
                shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    if not kept.exists():  # else it is what another run may hold
        write_at_once(kept, json.dumps({"digest": mark}) + "\n")


def _folder(kept: Path, name: str, told: Mapping[str, Any]) -> Path:
    """A folder of stored arrays: what was made of other data or with other options stands beside it."""
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    return kept / f"{safe}-{digest(told)[:12]}"


def write_texts(fusion: Fusion, kept: Path) -> tuple[Path, int]:
    """The folder of the target's tokens of all texts, written where it is not there, and how many sequences these are."""
    told = fusion.texts_told()
    folder = _folder(kept, TEXTS, told)
    begin(folder, told)
    count = 0
    for number, shard in enumerate(fusion.passages.shards(fusion.options.shard)):
        if not path_of(folder, number, "starts").exists():
            pieces = shard_pieces(shard, fusion.target.cutter, fusion.longest)
            starts = np.cumsum([0, *(len(piece.tokens) for piece in pieces)], dtype=np.int64)
            tokens = np.concatenate([np.zeros(0, np.int32), *(piece.tokens.ids for piece in pieces)])
            learnt = np.array([piece.learnt for piece in pieces], np.int32)
            write_arrays(folder, number, {"tokens": tokens, "learnt": learnt, "starts": starts})
        count += len(np.load(path_of(folder, number, "starts"))) - 1
    return folder, count


def teach(fusion: Fusion, member: Member, kept: Path, notify: Notify) -> Path:
    """The folder of a teacher's distributions on all texts, written where it is not there."""
    own, options = fusion.target, fusion.options
    same = member.mark == own.mark

    def load() -> Any:
        notify(Loading(member.name))
        return member.load(options.precision, device_of(options.device))

    def tell(letters: int) -> None:
        notify(Learning(f"asking {member.name}", letters, fusion.passages.letters, None))

    counts = None
    if options.vocabulary == "counts" and not same:
        counts = count_pairs(member.cutter, own.cutter, fusion.passages, options, fusion.longest)
    source = own.vocabulary if same else member.vocabulary
    mapped = VocabularyMap(source, own.vocabulary, options.vocabulary, counts)
    told = fusion.told(member)
    folder = _folder(kept, member.name, told)
    teacher = Teacher(member.name, member.cutter, mapped, member.longest, same, load)
    ask_all(teacher, own.cutter, fusion.passages, folder, told, options, fusion.longest, tell)
    return folder


def _train(fusion: Fusion, texts: Path, folders: Sequence[Path], partial: Path, notify: Notify) -> dict[str, Any]:
    from mergery.evaluation.loading import quiet

    with quiet():
        from mergery.alignment.fusion.training import LOOKED_AT, Lessons, train

    own, options = fusion.target, fusion.options
    device = device_of(options.device)

    def tell(step: int, total: int, loss: float | None) -> None:
        notify(Learning("fusing", step, total, loss))

    lessons = Lessons(texts, folders, own.cutter.before, options.rule)
    notify(Loading(own.name))
    loaded = own.subject.load("language", "float32")
    with quiet():
        module, steps, before, after = train(
            loaded.module.to(device), lessons, partial / TRAINING, options, device, tell
        )
        said = {
            "digest": fusion.digest, "target": own.name, "teachers": [each.name for each in fusion.teachers],
            "fingerprints": {each.name: each.subject.fingerprint for each in (own, *fusion.teachers)},
            "data": {"file": Path(fusion.data).name, "sha256": fusion.passages.sha256}, "sequences": len(lessons),
            "longest": fusion.longest, "options": options.plain(), "steps": steps, "before": before, "after": after,
            "looked_at": min(LOOKED_AT, len(lessons)),
        }  # fmt: skip
        write_model(module, own, partial / MODEL, said, card(said))
    return said
