"""The verbs: merge, plan, verify. The command line and a notebook are thin shells over these."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.errors import DataError, PlanError
from mergery.kernels.devices import CPU
from mergery.planning.plan import Plan, make_plan
from mergery.recipe import Recipe
from mergery.report import card
from mergery.run import lock
from mergery.run.sinks import FolderSink, MemorySink, check_space, partial_folder
from mergery.run.workers import Event, Options, Run
from mergery.views.vocabulary.writing import tokenizer_files

if TYPE_CHECKING:
    from torch import Tensor

TOKENIZER_FILES = (
    "tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "spiece", "chat_template",
    "additional_chat_templates", "sentencepiece",
)  # fmt: skip
OTHER_FILES = ("generation_config", "preprocessor", "processor", "video_preprocessor", "LICENSE", "NOTICE")


@dataclass(frozen=True)
class Result:
    """A finished merge."""

    folder: Path
    plan: Plan
    seconds: float  # from the first byte that is read to the folder's name
    resumed: int  # tensors that an earlier, interrupted run had made
    already: bool = False  # the folder was there before, made by the same plan


def plan(recipe: Recipe | str | Path | Mapping[str, Any], *, only: Sequence[str] = ()) -> Plan:
    """Plan a merge from headers and configs alone; no weights are read.

    `recipe` is a path to a YAML file (Mergery's or mergekit's), YAML text, a mapping, or a `Recipe`. Models may also be state
    dicts or `torch.nn.Module`s. `only` restricts the output to parts of the model, to try a recipe: `layers.0-1`, a role, or
    a pattern over whole tensor names. Raises MergeryError with all that is wrong.
    """
    return make_plan(recipe, only=only)


def merge(
    recipe: Recipe | Plan | str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    options: Options = Options(),
    on_event: Callable[[Event], None] | None = None,
    replace: bool = False,
    ray: str | None = None,
) -> Result | dict[str, Tensor]:
    """Merge models. With `out`, write a model folder and return a `Result`; without, return the merged state dict.

    An interrupted run is taken up where it stopped. An output folder that holds anything else is never touched, unless
    `replace` says so; then it is exchanged for the new one at the very end. `ray` is the address of a Ray cluster that does
    the work: `auto` for the one that is running, `local` for processes of this machine. `Options(device="cuda")` computes on
    GPUs. Raises MergeryError.
    """
    kind = options.devices[0].kind
    if ray is not None and kind != CPU.kind:
        raise PlanError(
            f"the workers of a cluster compute on cpu, not on {options.device}", hint="leave out --device or --ray"
        )
    planned = recipe if isinstance(recipe, Plan) else make_plan(recipe)
    notify = on_event or (lambda event: None)
    try:
        if out is None:
            if ray is not None:
                raise PlanError("a cluster cannot write to memory", hint="name an output folder that all machines see")
            return _merge_in_memory(planned, options, notify)
        return _merge_to_folder(planned, Path(out), options, notify, replace=replace, ray=ray)
    finally:
        planned.close()


def _merge_in_memory(plan: Plan, options: Options, notify: Callable[[Event], None]) -> dict[str, Tensor]:
    _prepare(plan, notify)
    sink = MemorySink(plan)
    Run(plan, sink, options, notify).execute()
    return sink.tensors()


def _merge_to_folder(
    plan: Plan, out: Path, options: Options, notify: Callable[[Event], None], *, replace: bool, ray: str | None = None
) -> Result:
    check_output(plan, out, replace=replace)
    if out.is_dir() and not replace and (out / lock.NAME).exists():
        return Result(out, plan, 0.0, 0, already=True)
    check_space(partial_folder(out), plan.layout)
    _prepare(plan, notify)
    sink = FolderSink(plan, out, options.devices[0].kind)
    try:
        resumed = len(sink.done)
        run = _make_run(plan, sink, options, notify, ray)
        run.execute()
        sink.drain()
        changed = planned_changes(plan)
        if changed:
            sink.journal.discard()
            raise changed
        texts = side_files(plan)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in texts.items()}
        record = lock.make_lock(plan, sink.done, digests, sink.device)
        texts[lock.NAME] = (json.dumps(record, indent=1, default=str) + "\n").encode()
        sink.complete(texts, replace=replace)
    except BaseException:
        sink.abandon()
        raise
    seconds = time.perf_counter() - run.started
    notify({"event": "done", "folder": str(out), "seconds": round(seconds, 3)})
    return Result(out, plan, seconds, resumed)


def _make_run(plan: Plan, sink: FolderSink, options: Options, notify: Callable[[Event], None], ray: str | None) -> Run:
    """A run on this machine, or on the cluster at the address `ray`."""
    if ray is None:
        return Run(plan, sink, options, notify)
    from mergery.run.cluster import ClusterRun, import_ray

    import_ray()
    return ClusterRun(plan, sink, options, notify, ray)


def planned_changes(plan: Plan) -> DataError | None:
    """The error to raise where an input was written to while it was being read."""
    changed = plan.changed()
    if not changed:
        return None
    return DataError(
        f"the files of {', '.join(changed)} were written to during the merge",
        why="the result would be of two states of a model",
        hint="let nothing write to the models, and run the same command again",
    )


def _prepare(plan: Plan, notify: Callable[[Event], None]) -> None:
    """Download what is not here yet."""
    for name, checkpoint in plan.checkpoints.items():

        def report(done: int, total: int, name: str = name) -> None:
            notify({"event": "download", "model": name, "bytes": done, "total": total})

        checkpoint.prepare(report)


def check_output(plan: Plan, out: Path, *, replace: bool = False) -> None:
    """Refuse an output that would overwrite anything, before any work is done."""
    if out.exists() and not out.is_dir():
        raise PlanError(f"the output {str(out)!r} is a file", hint="name a folder")
    for name, checkpoint in plan.checkpoints.items():
        place = Path(str(checkpoint.location))
        if place.exists() and out.exists() and place.resolve() in (out.resolve(), *out.resolve().parents):
            raise PlanError(f"the output {str(out)!r} is, or lies in, the model {name!r}", hint="choose another folder")
        if place.exists() and out.resolve() in place.resolve().parents and out.exists() and replace:
            raise PlanError(f"the model {name!r} lies in the output {str(out)!r}", hint="choose another folder")
    if not out.exists() or not any(out.iterdir()) or replace:
        return
    if (out / lock.NAME).exists():
        record = lock.read_lock(out)
        if record.get("plan") == plan.digest:
            return
        raise PlanError(
            f"the output {str(out)!r} holds the result of another plan",
            hint="choose another folder, or say --replace to exchange it once the new one is complete",
        )
    raise PlanError(
        f"the output folder {str(out)!r} is not empty",
        why="nothing that exists is overwritten",
        hint="choose another folder, or say --replace to exchange it once the new one is complete",
    )


def side_files(plan: Plan) -> dict[str, bytes]:
    """The small files of the output: config, tokenizer and chat template from their donors, and the model card."""
    texts: dict[str, bytes] = {}
    if plan.config is not None:
        texts["config.json"] = (json.dumps(plan.config, indent=2, sort_keys=True) + "\n").encode()
    donor = plan.view.donor
    config_donor = plan.checkpoints.get(plan.recipe.output.config or "", donor)
    for name in config_donor.files:
        if name.startswith(OTHER_FILES) or name.endswith(".py"):
            texts[name] = config_donor.file(name)
    if plan.generation is not None:
        texts["generation_config.json"] = plan.generation
    own = [name for name in plan.tokenizer.files if name.startswith(TOKENIZER_FILES) or name.endswith(".tiktoken")]
    texts |= tokenizer_files(plan, own)
    texts["README.md"] = card.make_card(plan).encode()
    return texts


def verify(folder: str | Path, *, sample: int = 0, on_event: Callable[[Event], None] | None = None) -> list[str]:
    """Check a merged folder against its lock; with `sample`, make that many tensors again and compare their bytes.

    Returns what is wrong, one line each; an empty list is a sound folder. Raises MergeryError where it cannot be checked.
    """
    from mergery.run.verifying import verify_folder

    return verify_folder(Path(folder), sample=sample, on_event=on_event)
