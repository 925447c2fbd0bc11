"""A merge, or a model, written as one GGUF file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.gguf.checkpoint import require_gguf
from mergery.checkpoints.gguf.encoding import encode
from mergery.checkpoints.gguf.file import type_name
from mergery.checkpoints.gguf.imatrix import Imatrix, read_imatrix
from mergery.checkpoints.gguf.placing import runs, stored
from mergery.errors import DataError, PlanError, listed
from mergery.planning.gguf import PLAIN, TYPES, GgufPlan, check_sizes, gguf_plan, imatrix_of
from mergery.planning.layout import Slot
from mergery.planning.plan import Plan
from mergery.run.events import Finished, Notify
from mergery.run.llama_cpp import quantise, require_llama_cpp
from mergery.run.merging import Result, SideFiles, prepare
from mergery.run.output import check_inputs, check_unfinished, check_writable, partial_folder
from mergery.run.sinks import FolderSink, write_problem, write_whole
from mergery.run.workers import Options, Run


def export_gguf(
    plan: Plan,
    out: Path,
    side_files: SideFiles,
    kind: str,
    options: Options,
    notify: Notify,
    *,
    cutting: str | None = None,
    importance: Path | None = None,
    replace: bool = False,
    restart: bool = False,
) -> tuple[Result, tuple[str, ...]]:
    """Write the file `out`; see `mergery.api.export_gguf`. Returns what was done, and what the user should know."""
    require_gguf(str(out))
    wanted, finer = kind.upper(), None
    if wanted not in TYPES:
        require_llama_cpp(wanted, imatrix=importance is not None)
        finer, wanted = wanted, {"bfloat16": "BF16", "float16": "F16"}.get(plan.dtype.torch, "F32")
    elif importance is not None:
        why = "it is for the types that llama.cpp makes"
        raise PlanError(
            f"an importance matrix changes nothing of {kind.lower()}", why=why, hint="--type q4_k_m, or leave it out"
        )
    out = _place_of(out)
    _check_output(plan, out, replace=replace)
    first = out if finer is None else out.with_name(f"{out.stem}.unquantised.gguf")
    if finer is not None:
        _check_output(plan, first, replace=False)
    made = gguf_plan(plan, side_files(plan), first.name, wanted, name=out.stem, cutting=cutting)
    imatrix = None if importance is None else read_importance(importance, made)
    started = time.perf_counter()
    prepare(made.plan, notify, options)
    sink = GgufSink(made, first, options.devices[0].kind, restart=restart)
    try:
        resumed = len(sink.done)
        Run(made.plan, sink, options, notify).execute()
        sink.drain()
        if changed := plan.changed():
            sink.journal.discard()
            why, hint = (
                "the result would be of two states of a model",
                "let nothing write to the models, and start again",
            )
            raise DataError(f"the files of {', '.join(changed)} were written to meanwhile", why=why, hint=hint)
        sink.complete({}, replace=True)
    except BaseException:
        sink.abandon()
        raise
    if finer is not None:
        quantise(first, out, finer, imatrix, threads=options.workers)
    seconds = time.perf_counter() - started
    notify(Finished(out, round(seconds, 3)))
    notes = made.notes if imatrix is None else (*made.notes, *_uncounted(made, imatrix))
    return Result(out, made.plan, seconds, resumed), notes


def write_imatrix(plan: Plan, statistics: Path, out: Path, *, replace: bool = False) -> tuple[str, ...]:
    """Write a model's statistics as llama.cpp's importance matrix; see `mergery.api.export_imatrix`. Returns notes."""
    require_gguf(str(out))
    out = _place_of(out)
    _check_output(plan, out, replace=replace)
    made = gguf_plan(plan, {}, out.name, "F32", name=out.stem)
    imatrix = read_importance(statistics, made)
    partial = out.with_name(f"{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(imatrix.encoded())
    partial.replace(out)
    return _uncounted(made, imatrix)


def read_importance(path: Path, made: GgufPlan) -> Imatrix:
    """The importance matrix that a file is, or that a folder of statistics makes. Raises MergeryError."""
    if path.is_dir():
        with open_checkpoint(path) as checkpoint:
            return imatrix_of(checkpoint, made)
    if not path.exists():
        hint = "name a folder that `mergery calibrate` wrote, or a file of llama.cpp's"
        raise PlanError(f"there is no importance matrix {str(path)!r}", hint=hint)
    imatrix = read_imatrix(path)
    check_sizes(imatrix, made, str(path))
    return imatrix


def _uncounted(made: GgufPlan, imatrix: Imatrix) -> tuple[str, ...]:
    """What is to be said of matrices that the importance matrix lacks, and of experts that no token reached."""
    lacking = [
        name for name, target in made.targets.items()
        if name.startswith("blk.") and len(target.shape) > 1 and type_name(target.kind) != "F32" and name not in imatrix.entries
    ]  # fmt: skip
    idle = [name for name, entry in imatrix.entries.items() if not entry.counts.all()]
    notes = [f"the importance matrix lacks {listed(lacking)}"] if lacking else []
    return (*notes, *([f"no token reached some experts of {listed(idle)}: their columns count alike"] if idle else []))


def _place_of(out: Path) -> Path:
    """The file that a user means; refused where it is none, or has another suffix."""
    try:
        path = out.expanduser()
    except RuntimeError as error:
        raise PlanError(f"the output {str(out)!r} names no file", why=str(error), hint="choose another name") from None
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.suffix != ".gguf":
        raise PlanError(f"the output {str(out)!r} has no name of a GGUF file", hint=f"{out}.gguf")
    return path


def _check_output(plan: Plan, out: Path, *, replace: bool) -> None:
    """Refuse to overwrite anything, and what cannot be written, before any work."""
    check_inputs(plan, out)
    if out.exists() and not (replace and out.is_file()):
        hint = "choose another name, or say --replace to exchange it" if out.is_file() else "name a file"
        raise PlanError(f"{str(out)!r} is there already", why="nothing that exists is overwritten", hint=hint)
    check_writable(out)
    check_unfinished(partial_folder(out))


class GgufSink(FolderSink):
    """Writes one GGUF file: bytes become blocks, values are stored as llama.cpp has them, rows go to their places.

    As a folder's files, it stands in a folder of its own until it is whole, and an interrupted run is taken up there.
    """

    def __init__(self, made: GgufPlan, out: Path, device: str, *, restart: bool = False) -> None:
        self.gguf = made
        super().__init__(made.plan, out, device, restart=restart)

    def write(self, slot: Slot, start: int, data: np.ndarray) -> None:
        """See `FolderSink.write`. `data` holds whole blocks: windows are multiples of rows or of 64 Ki elements."""
        name, size = slot.info.name, slot.info.dtype.itemsize
        to = self.gguf.places[name]
        target = self.gguf.targets[to.target]
        elements, nbytes = target.block
        base = slot.offset - to.start // elements * nbytes
        first = start // size
        if elements > 1 or to.change:
            data = self._changed(slot, data)
        try:
            for low, high, at in runs(slot.info, to, first, first + data.size * elements // nbytes):
                assert at % elements == 0 and (high - low) % elements == 0, f"{name!r} was made in parts of blocks"
                begin, end = ((each - first) // elements * nbytes for each in (low, high))
                write_whole(self.files[0], data[begin:end].data, base + at // elements * nbytes)
        except OSError as error:
            raise write_problem(error, self.partial) from None

    def _changed(self, slot: Slot, data: np.ndarray) -> np.ndarray:
        to = self.gguf.places[slot.info.name]
        target = self.gguf.targets[to.target]
        if type_name(target.kind) in PLAIN and slot.info.dtype.itemsize < 4:
            return data
        values = stored(to.change, data.view(np.float32))
        if target.block[0] > 1:
            return encode(values, target.kind, slot.info.name)
        return np.ascontiguousarray(values).view(np.uint8)

    def _complete(self, texts: dict[str, bytes], *, replace: bool) -> None:
        """Write the lists of the config, sync the file and give it its name."""
        for at, content in self.gguf.lists.items():
            write_whole(self.files[0], content, at)
        os.fsync(self.files[0])
        os.close(self.files.pop())
        (self.partial / self.plan.layout.shards[0].name).replace(self.out)
        self.journal.path.unlink()
        self.journal.close()
        for stray in self.partial.iterdir():
            stray.unlink()
        self.partial.rmdir()
