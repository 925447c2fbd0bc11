"""A learnt transform as a recipe asks for it: texts read, memory known beforehand, the search made ready."""

from __future__ import annotations

from pathlib import Path

from mergery.alignment.matching.learning.descent import LearnedMatching
from mergery.alignment.matching.learning.texts import TextAnswers
from mergery.alignment.matching.pairs import Models
from mergery.architecture.spaces import Spaces
from mergery.calibration.counting import limit_of
from mergery.calibration.model import StreamedModel
from mergery.calibration.opening import opened_checkpoint
from mergery.calibration.sources import texts_of
from mergery.errors import PlanError, size
from mergery.evaluation.loading import check_transformers, quiet, tokenizer_of
from mergery.recipe.aligning import Align
from mergery.run.estimate import machine_memory
from mergery.run.events import Notify, Sized

COPIES = 9  # of all weights in float32: both models, the one between with its gradient, and what is made of them


def memory(spaces: Spaces, elements: int, align: Align) -> int:
    """Bytes that learning takes beside activations, for models of so many elements."""
    if align.method != "learned":
        return 4 * (COPIES + 2) * elements
    return 4 * COPIES * elements + sum(12 * count for count in _latents(spaces, align))


def _latents(spaces: Spaces, align: Align) -> list[int]:
    """Numbers of each matrix that is learnt, in float32: those in float64, of heads and of channels that turn, count twice."""
    found = []
    for name, space in spaces.sizes.items():
        turned = name == "residual" and "rotation" in align.spaces
        if turned or (name == "residual" and name in align.spaces and not spaces.fixed):
            found.append((1 + turned) * space.size**2)
        elif "mlp" in align.spaces and (name.endswith(".mlp") or name.startswith("hidden.")):
            found.append(space.size**2)
    for own in spaces.attention.values():
        found += [2 * own.keys * own.size**2] * sum(kind in align.spaces for kind in ("qk", "vo"))
    return found


def check_memory(need: int) -> None:
    """Raise PlanError where the machine cannot hold what learning takes."""
    if need > (have := machine_memory()):
        what = f"learning the transform needs {size(need)} of memory, and this machine has {size(have)}"
        why = "both models, the one between them and its gradient are in memory as a whole, in float32"
        raise PlanError(what, why=why, hint="method: weights, which holds one layer of each")


def learning(models: Models, align: Align, folder: Path, notify: Notify) -> LearnedMatching:
    """A search that is ready to run, on the texts that `align` names. Raises MergeryError."""
    check_transformers("learning a transform")
    assert align.learnt is not None
    elements = sum(node.elements for node in models.model.nodes.values())
    need = memory(models.spaces, elements, align)
    check_memory(need)
    with quiet(), opened_checkpoint(models.model.donor) as opened:
        model = StreamedModel(models.model)
        words = tokenizer_of(None, opened.folder)
        longest = min(align.length, limit_of(model.config))
        texts = texts_of(align.data, folder, model, words, longest=longest, limit=align.samples, pair=False, seed=0)
        answers = TextAnswers.of(model, texts.rows)
    notify(Sized(sum(_latents(models.spaces, align)) if align.method == "learned" else elements, need, 0, 0))
    return LearnedMatching(models, answers, align.method, *align.learnt, align.spaces, notify)
