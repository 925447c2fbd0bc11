"""Move fine-tunes to other bases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.api.measuring import evaluate
from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.running import read_tasks
from mergery.report.files import side_files
from mergery.report.notebook import listening
from mergery.run.events import Notify
from mergery.run.merging import Result, merge_to_folder
from mergery.run.workers import Options

if TYPE_CHECKING:
    from mergery.alignment.rebasing.effect import Effect
    from mergery.alignment.rebasing.options import RebaseOptions


@dataclass(frozen=True)
class Rebased:
    """A fine-tune on its new base: the folder, and how much of its effect is left on each task."""

    result: Result
    effects: Sequence[Effect] = ()


def rebase(
    finetune: str | Path,
    out: str | Path,
    *,
    old: str | Path,
    new: str | Path,
    data: str | Path | None = None,
    options: RebaseOptions | None = None,
    tokenizer: str | None = None,
    tasks: Sequence[Any] = (),
    run: Options = Options(),
    on_event: Notify | None = None,
    replace: bool = False,
    restart: bool = False,
) -> Rebased:
    """Move a fine-tune from the base that it was trained from onto a new one, and write the model folder `out`.

    old, new:  the two bases: folders, or hub ids.
    data:      texts: of `theseus`, on which both bases are run (without, their weights alone are looked at); of `gradfix`, a
               few of the fine-tune's task, with answers.
    options:   the way, and its settings.
    tokenizer: where the vocabularies differ, `base` keeps the new base's tokens, `union` takes all.
    tasks:     task files on which all four models are scored.
    run:       threads of the writing.

    Raises MergeryError, before any work where something is wrong.
    """
    from mergery.alignment.rebasing.effect import effects
    from mergery.alignment.rebasing.options import RebaseOptions
    from mergery.alignment.rebasing.running import rebased_plan

    if tasks:
        read_tasks(tasks, EvaluationOptions())
    wanted, places = options or RebaseOptions(), (str(finetune), str(old), str(new))
    with listening(on_event) as notify:
        with rebased_plan(
            *places, wanted, out=Path(out), data=None if data is None else str(data), tokenizer=tokenizer,
            notify=notify, replacing=replace,
        ) as plan:  # fmt: skip
            result = merge_to_folder(plan, Path(out), side_files, run, notify, replace=replace, restart=restart)
        if not tasks:
            return Rebased(result)
        named = {"old base": old, "finetune": finetune, "new base": new, "rebased": out}
        scored = [evaluate(model, tasks, name=name, on_event=notify) for name, model in named.items()]
        return Rebased(result, effects(*scored))
