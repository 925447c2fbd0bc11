"""Hand a model on: to another program, to the hub."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mergery.api.merging import RecipeLike
from mergery.checkpoints.quantised.writing import find_scheme
from mergery.planning.plan import Plan, make_plan
from mergery.report.files import side_files
from mergery.report.notebook import in_notebook, listening
from mergery.run.events import Notify, Pushed
from mergery.run.merging import Result
from mergery.run.workers import Options


def export_gguf(
    model: RecipeLike | Plan,
    out: str | Path,
    *,
    type: str = "f16",
    pre: str | None = None,
    imatrix: str | Path | None = None,
    options: Options = Options(),
    on_event: Notify | None = None,
    replace: bool = False,
    restart: bool = False,
) -> tuple[Result, tuple[str, ...]]:
    """Write a model, or what a recipe merges, as the GGUF file `out`, with its tokenizer and chat template.

    `model` is a folder, a file or a hub id, or a recipe; a recipe's merge is written directly, in one rounding. `type` is that
    of matrices: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, tq2_0, tq1_0, or what llama.cpp's package makes where it is
    installed, such as q4_k_m; `imatrix`, a folder of statistics or a file of llama.cpp's, says which columns count for those.
    `pre` is llama.cpp's word for how the tokenizer cuts text, where that is not found. Returns what
    was done, and notes for the user. Raises MergeryError, also for a family that llama.cpp computes otherwise.
    """
    from mergery.run.exporting import export_gguf

    planned = model if isinstance(model, Plan) else make_plan(_as_recipe(model))
    try:
        with listening(on_event) as notify:
            return export_gguf(
                planned,
                Path(out),
                side_files,
                type,
                options,
                notify,
                cutting=pre,
                importance=None if imatrix is None else Path(imatrix),
                replace=replace,
                restart=restart,
            )
    finally:
        planned.close()


def export_imatrix(
    model: RecipeLike | Plan, statistics: str | Path, out: str | Path, *, replace: bool = False
) -> tuple[str, ...]:
    """Write a model's statistics of inputs as the importance matrix `out` (.gguf) of llama.cpp's quantiser.

    `statistics` is a folder that `calibrate` has written of the model, with `square` or `gram`. Returns notes for the user.
    Raises MergeryError, also for statistics of another model.
    """
    from mergery.run.exporting import write_imatrix

    planned = model if isinstance(model, Plan) else make_plan(_as_recipe(model))
    try:
        return write_imatrix(planned, Path(statistics), Path(out), replace=replace)
    finally:
        planned.close()


def export_quantised(
    model: RecipeLike | Plan,
    out: str | Path,
    *,
    scheme: str = "w8a16",
    group: int | None = None,
    data: str | Path | None = None,
    options: Options = Options(),
    on_event: Notify | None = None,
    replace: bool = False,
    restart: bool = False,
) -> Result:
    """Write a model, or what a recipe merges, as the folder `out` with its matrices as codes, as compressed-tensors has them.

    model:  a folder, a file or a hub id, or a recipe, whose merge is rounded once, to codes.
    scheme: w8a16, w4a16 (to the nearest), w4a16-gptq (so that what is lost is made up for, as far as data tell), fp8.
    group:  numbers of a row that share a scale, of w4a16: 128, or what divides the rows.
    data:   of GPTQ: a task file or plain text, on which the model is run first; or the folder that `calibrate` wrote.

    Heads, embeddings, routers and norms stay as they are. Raises MergeryError.
    """
    from mergery.calibration.beside import statistics_beside
    from mergery.calibration.options import CalibrationOptions
    from mergery.planning.quantised import check_quantisable
    from mergery.run.quantising import export_quantised

    found = find_scheme(scheme).in_groups(group)
    planned = model if isinstance(model, Plan) else make_plan(_as_recipe(model))
    try:
        check_quantisable(planned, found, data=data is not None)
        with listening(on_event) as notify, ExitStack() as stack:
            statistics = None
            if data is not None:
                asked = CalibrationOptions(threads=options.threads)
                beside = statistics_beside(planned, data, out, asked, notify, replace=replace)
                statistics = stack.enter_context(beside)
            return export_quantised(
                planned, Path(out), side_files, found, statistics, options, notify, replace=replace, restart=restart
            )
    finally:
        planned.close()


def _as_recipe(model: Any) -> Any:
    """A recipe as it is; for a model, the recipe that copies it."""
    text = str(model) if isinstance(model, (str, Path)) else ""
    if not text or text.endswith((".yaml", ".yml")) or "\n" in text:
        return model
    return {"models": {"model": text}, "merge": {"method": "passthrough", "models": ["model"]}}


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    replace: bool = False,
    message: str = "A model merged with Mergery",
    on_event: Notify | None = None,
    bars: bool | None = None,
) -> Pushed:
    """Put a model folder with its card on the Hugging Face hub, as one commit of the model `repo`, `org/name`.

    It is made where there is none; one that holds weights is refused, unless `replace` says that the commit shall hold this
    model instead. Folders that were merged are looked at first: fragments and unfinished ones are refused. In the lock,
    folders of this machine are named by their last names alone. The token is that of `hf auth login` or HF_TOKEN. `bars` are
    those of the hub's client; None shows them in a notebook, and on a terminal where nobody listens. Raises MergeryError.
    """
    from mergery.run.pushing import push

    with listening(on_event) as notify:
        shown = bars if bars is not None else in_notebook() or (on_event is None and sys.stderr.isatty())
        place = Path(folder).expanduser()
        return push(place, repo, notify, private=private, replace=replace, message=message, bars=shown)
