"""Transport from beginning to end: two models and texts to a folder of transported weights, and that to a model.

The folder is a checkpoint of those tensors of the target that change, as they are where all of what is transported is taken,
with a recipe that merges it into the target. So another share of it takes a merge and no other transport.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mergery.alignment.transport.adapting import AdaptOptions, adapted_plan, mark_of, marked, read_rows
from mergery.alignment.transport.capture import Activations, capture, sizes_of
from mergery.alignment.transport.estimate import Estimate, estimate
from mergery.alignment.transport.moving import Mover, Side
from mergery.alignment.transport.opening import Models, opened
from mergery.alignment.transport.options import TransportOptions
from mergery.alignment.transport.texts import Paired
from mergery.calibration.replacing import begin_work, digest_with
from mergery.checkpoints import open_checkpoint
from mergery.errors import PlanError, RecipeError
from mergery.evaluation.running import torch_threads
from mergery.planning.plan import make_plan
from mergery.recipe import Recipe
from mergery.recipe.document import write_yaml
from mergery.recipe.reading import load_recipe
from mergery.report.files import side_files
from mergery.run.events import Learning, Noticed, Notify, ignore
from mergery.run.merging import Result, merge_to_folder
from mergery.run.output import check_output, check_writable, partial_folder, place_of, write_at_once
from mergery.run.workers import Options

FILE, RECIPE = "transport.json", "recipe.yaml"
BESIDE, ADAPTED = ".transported", ".adapted"  # behind the output's name
FORMAT = 1


def transport(
    source: Any,
    into: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    alpha: float = 0.05,
    options: TransportOptions = TransportOptions(),
    since: Any = None,
    weights: str | Path | None = None,
    adapt: str | Path | None = None,
    adapting: AdaptOptions = AdaptOptions(),
    run: Options = Options(),
    replace: bool = False,
    restart: bool = False,
    on_event: Notify = ignore,
) -> Result:
    """Transport a source into a target, and write the model. See `mergery.api.transport`."""
    place, folder = places(out, weights, alpha, replace=replace)
    if adapt is None and adapting != AdaptOptions():
        why = "nothing is fine-tuned without texts"
        raise RecipeError("there is nothing to adapt", why=why, hint="--adapt texts.jsonl, or leave out how")
    texts = None if adapt is None else read_rows(into, adapt, adapting)
    with opened(source, into, str(data), options, since) as models:
        move(models, folder, into, options, restart=restart, notify=on_event)
    plan = make_plan(recipe_of(folder, alpha))
    work = place.with_name(place.name + ADAPTED)
    try:
        with ExitStack() as stack:
            made = plan
            if texts is not None:
                made = dataclasses.replace(plan, digest=digest_with(plan, mark_of(texts, adapting)))
            if not check_output(made, place, replace=replace) and texts is not None:
                begin_work(work, "adapt.json", [_mark_in(folder), alpha, texts.sha256, marked(adapting)])
                with torch_threads(options.threads):
                    made = adapted_plan(
                        stack, plan, folder, into, alpha, texts, adapting, work, device=run_device(options.device),
                        told=lambda done, total, loss: on_event(Learning("fine-tuning", done, total, loss)),
                    )  # fmt: skip
            result = merge_to_folder(made, place, side_files, run, on_event, replace=replace, restart=restart)
        shutil.rmtree(work, ignore_errors=True)
        return result
    finally:
        plan.close()


def places(out: str | Path, weights: str | Path | None, alpha: float, *, replace: bool) -> tuple[Path, Path]:
    """Where the model is written, and where its transported weights are kept: beside it, unless another place is named.

    Raises PlanError where nothing can be written, RecipeError for a share that is none.
    """
    if not 0 <= alpha <= 1:
        what, why = f"alpha is {alpha:g}", "it is the share of what is transported: from 0 to 1"
        raise RecipeError(what, why=why, hint="alpha: 0.05")
    place = place_of(out)
    folder = place.with_name(place.name + BESIDE) if weights is None else place_of(weights)
    if place.exists() and any(place.iterdir()) and not replace and not (folder / FILE).exists():
        why = "nothing that exists is overwritten"
        raise PlanError(f"the output folder {str(place)!r} is not empty", why=why, hint="choose another folder")
    check_writable(place)
    return place, folder


def recipe_of(folder: Path, alpha: float | None = None) -> Recipe:
    """The recipe that merges transported weights into their target; with another share of them."""
    recipe = json.loads((folder / FILE).read_text())["recipe"]
    models = {name: str(folder) if path == "." else path for name, path in recipe["models"].items()}
    merge = recipe["merge"] if alpha is None else {**recipe["merge"], "weight": alpha}
    return load_recipe({**recipe, "models": models, "merge": merge})


def foresee(source: Any, into: str | Path, data: str | Path, options: TransportOptions, since: Any = None) -> Estimate:
    """What a transport would do and take. Everything is checked that it checks before its work. Raises MergeryError."""
    with opened(source, into, str(data), options, since) as models:
        return estimate(models.streamed, models.parts, models.texts, models.mark["options"])


# --- the weights ----------------------------------------------------------------------------------------------------------


def move(
    models: Models, folder: Path, into: str | Path, options: TransportOptions, *, restart: bool, notify: Notify
) -> None:
    """Make the folder of transported weights, unless it is there. Raises PlanError where something else is."""
    mark = json.loads(json.dumps(models.mark))
    partial = partial_folder(folder)
    if folder.exists() and _mark_in(folder) == mark:
        return
    if folder.exists() and any(folder.iterdir()):
        why = "transported weights get that name, and these are of other models, data or options"
        hint = "remove it, or name another folder with --weights"
        raise PlanError(f"{str(folder)!r} stands in the way", why=why, hint=hint)
    if partial.exists():
        left = _mark_in(partial)
        if left is None:
            raise PlanError(f"{str(partial)!r} stands in the way", hint="rename it, or choose another output folder")
        if restart or left != mark:
            shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    write_at_once(partial / FILE, json.dumps({"format": FORMAT, "mark": mark}) + "\n")
    mover, files = _carry(models, partial, options, notify)
    found = tuple(remarks(mover, models.texts))
    if found:
        notify(Noticed(found))
    _finish(models, partial, into, mover, files, found, mark)
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)


def _carry(models: Models, work: Path, options: TransportOptions, notify: Notify) -> tuple[Mover, list[Path]]:
    """Capture both models, and move the weights."""
    device = run_device(options.device)
    settled = models.mark["options"]
    modules = settled["modules"]
    sides: dict[str, Side] = {}
    with torch_threads(options.threads):
        for name, opened_one in (("target", models.target), ("source", models.source)):
            model = models.streamed[name]
            model.prepare(opened_one.statistics())
            kept = capture(
                model, models.parts[name], getattr(models.texts, name), models.texts.rows, modules, work / name,
                device=device, told=lambda done, total, name=name: notify(Learning(f"reading the {name}", done, total, None)),
            )  # fmt: skip
            sides[name] = Side(model, models.parts[name], kept)
    base = None
    if models.base is not None:
        models.streamed["base"].prepare(models.base.statistics())
        sizes = sizes_of(models.parts["base"], modules)
        base = Side(models.streamed["base"], models.parts["base"], Activations(work, 0, sizes))
    workers = 1 if device != "cpu" else Options(options.threads).workers
    mover = Mover(sides["target"], sides["source"], settled, work / "plans", device, workers, base)
    files = mover.run(lambda doing, done, total: notify(Learning(doing, done, total, None)))
    return mover, files


def run_device(name: str) -> str:
    """The one device that a word means: the first of several. Raises MergeryError."""
    return Options(device=name).devices[0].name


def _mark_in(folder: Path) -> Any:
    """What a folder's weights are made of, as far as it says so."""
    try:
        return json.loads((folder / FILE).read_text())["mark"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remarks(mover: Mover, texts: Paired) -> Iterator[str]:
    """What is to be known of plans: those that have not converged, neurons that say nothing, few rows, blurred layers."""
    pairs = sum(each.converged.size for each in mover.spaces.values())
    open_ones = sum(int((~each.converged).sum()) for each in mover.spaces.values())
    if open_ones:
        worst = max(float(each.errors.max()) for each in mover.spaces.values())
        yield (
            f"{open_ones} of {pairs} plans of neurons have not converged: the masses of the source's neurons are wrong by "
            f"{worst:.2g} of all at most; more iterations or a larger epsilon make them exact"
        )
    for module, coupling in mover.couplings.items():
        if not coupling.converged:
            yield f"the plan of layers of {module} has not converged: it is wrong by {coupling.error:.2g} of its mass"
    spread = max((each.spread for each in mover.couplings.values()), default=1.0)
    if spread > 2.0:
        yield (
            f"layers are blurred: up to {spread:.1f} layers of the source go into one of the target, on average; "
            f"layers: argmin takes one"
        )
    widest = max(mover.target.activations.sizes.values(), default=0)
    if texts.rows < widest:
        yield f"the data are few: {texts.rows} rows for spaces of {widest} neurons, whose correlations are noise in part"
    if texts.dropped:
        yield f"{texts.dropped} texts have no tokens of both models, and were left out"


def _absolute(path: str) -> str:
    """A path from the root, so that a recipe can stand anywhere; a hub id as it is."""
    place = Path(path).expanduser()
    return str(place.resolve()) if place.exists() else path


def _finish(
    models: Models,
    partial: Path,
    into: str | Path,
    mover: Mover,
    files: Sequence[Path],
    found: Sequence[str],
    mark: Any,
) -> None:
    """Make a checkpoint of the files, with what it is, and the recipe that merges it."""
    weight_map: dict[str, str] = {}
    total = 0
    for number, file in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        with open_checkpoint(file) as checkpoint:
            weight_map |= dict.fromkeys(checkpoint.tensors, name)
            total += sum(info.nbytes for info in checkpoint.tensors.values())
        file.rename(partial / name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (partial / "config.json").write_text(json.dumps(models.target.view.config.plain(), indent=2) + "\n")
    path = (
        "+".join(_absolute(each) for each in str(into).split("+"))
        if not Path(str(into)).exists()
        else _absolute(str(into))
    )
    recipe = {
        "models": {"target": path, "transported": "."},
        "merge": {
            "method": "task_arithmetic",
            "base": "target",
            "models": ["transported"],
            "weight": 0.05,
            "scale": 1.0,
        },
        "tensors": "union",
    }
    facts = {
        "format": FORMAT,
        "mark": mark,
        "source": models.source.name,
        "rows": models.texts.rows,
        "texts": len(models.texts.target),
        "layers": {
            module: [[round(float(x), 6) for x in row] for row in each.shares]
            for module, each in mover.couplings.items()
        },
        "warnings": list(found),
        "recipe": recipe,
    }
    (partial / RECIPE).write_text(write_yaml(recipe), encoding="utf-8")
    for name in ("target", "source", "plans"):
        shutil.rmtree(partial / name, ignore_errors=True)
    (partial / FILE).write_text(json.dumps(facts, indent=1) + "\n")
