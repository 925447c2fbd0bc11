"""Look at models: what they are, and whether they are what a recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.api.merging import RecipeLike
from mergery.errors import PlanError
from mergery.report.notebook import listening
from mergery.run.events import Notify
from mergery.run.workers import Options

if TYPE_CHECKING:
    from mergery.alignment.diagnosis.verdict import Diagnosis
    from mergery.run.proving import Proof


def verify(folder: str | Path, *, sample: int = 0, on_event: Notify | None = None) -> list[str]:
    """Check a merged folder against its lock; with `sample`, make that many tensors again and compare their bytes.

    Returns what is wrong, one line each; an empty list is a sound folder. Raises MergeryError where it cannot be checked.
    """
    from mergery.run.verifying import verify

    with listening(on_event) as notify:
        return verify(Path(folder), sample, notify)


def prove(
    folder: str | Path,
    *,
    base: str | None = None,
    adapter: str | None = None,
    recipe: RecipeLike | None = None,
    options: Options = Options(),
    on_event: Notify | None = None,
) -> Proof:
    """Whether a model folder of any tool is what an adapter makes of a base, or what a recipe makes, tensor by tensor.

    Of an adapter (several with `+` between), peft's roundings are replayed. `Proof.outcome` is proven (to the bit), within
    rounding, wrong or inconclusive. Raises MergeryError where it cannot be compared.
    """
    from mergery.run.proving import prove_adapter, prove_recipe

    with listening(on_event) as notify:
        if recipe is not None:
            return prove_recipe(folder, recipe, options, notify)
        if base is None or adapter is None:
            raise PlanError("there is nothing to compare with", hint="give a recipe, or a base and an adapter")
        return prove_adapter(folder, base, adapter.split("+"), options, notify)


def inspect(
    path: Any, others: Sequence[Any] = (), *, memory: bool = False, interference: bool = False
) -> dict[str, Any]:
    """Facts of a checkpoint, ready for JSON. `path` and `others` are folders, files, hub ids or objects in memory.

    With others, `merging` says for each whether it can be merged with the first, and why not. With `memory`, what the model
    takes when it runs: weights by format, cache by length of context, machines that hold both. No weights are read, unless
    with `interference`: how the task vectors of the others, fine-tunes of the first, meet (see
    `mergery.report.interference.Interference`). Raises CheckpointError where one cannot be opened, PlanError where there
    are no two task vectors.
    """
    from mergery.report.inspection import inspect
    from mergery.report.interference import interference as measure

    facts = inspect(path, others, needs=memory)
    return facts | {"interference": measure(path, others).facts()} if interference else facts


def diagnose(model: Any, other: Any, *, on_event: Notify | None = None) -> Diagnosis:
    """How far two models are from each other, and what can therefore be done with them.

    Both are folders, files, hub ids or recipes. A sample of their weights is read: matrices of the first, the middle and the
    last layer, and rows of tokens that both have. `Diagnosis.verdict` is same, lineage, permuted, transformed, seed or
    architecture; `Diagnosis.doors` says of merging, aligning, rebasing, transport and distilling whether they are open, and
    why. Raises MergeryError where a model cannot be read.
    """
    from mergery.alignment.diagnosis.running import diagnose

    with listening(on_event) as notify:
        return diagnose(model, other, notify=notify)
