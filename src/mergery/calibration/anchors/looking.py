"""What anchors are like: their spectra, and what they share with task vectors and with data."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mergery.architecture.fused import transposed
from mergery.calibration.anchors.blocks import Block
from mergery.calibration.anchors.folder import open_anchors
from mergery.calibration.anchors.running import Models, open_models
from mergery.calibration.anchors.search import AnchorOptions, beginning
from mergery.calibration.inputs import Inputs
from mergery.calibration.model import StreamedModel
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.statistics import Statistics, model_mark, read_statistics
from mergery.errors import CheckpointError, RecipeError, Where, did_you_mean
from mergery.evaluation.loading import quiet
from mergery.evaluation.picture import check_plot

LEADING = 0.2  # of the directions of a matrix's inputs: those that are compared
MOST = 0.9  # of the energy: what the directions that are counted hold


def look(recipe: Any, anchors: str | Path, statistics: Mapping[str, str | Path], plot: Path | None) -> dict[str, Any]:
    """See `mergery.api.inspect_anchors`."""
    if plot is not None:
        check_plot(plot)
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(open_anchors(anchors))
        opened = stack.enter_context(open_models(recipe))
        kept.check(opened.marks)
        real = {name: stack.enter_context(_grams(opened, name, folder)) for name, folder in statistics.items()}
        options = AnchorOptions(**kept.card["options"])
        found = []
        with quiet():
            blocks = opened.blocks(kept.whole, kept.tokens)
            for block in blocks:
                for name, model in opened.models.items():
                    weights, rows = block.weights(model), kept.of(block.name, name)
                    spectrum, first = spectrum_of(rows), spectrum_of(beginning(block, weights, options, name))
                    grams = _inputs(block, model, weights, rows)
                    found.append(
                        {
                            "block": block.name,
                            "model": name,
                            "losses": kept.card["losses"][f"{block.name}.{name}"],
                            "directions": directions(spectrum),
                            "directions_at_first": directions(first),
                            "kept": _kept(opened.base, model, grams),
                            "alike": _alike(grams, real[name]) if name in real else None,
                            "spectrum": spectrum.tolist(),
                            "spectrum_at_first": first.tolist(),
                        }
                    )
        facts = {"whole": kept.whole, "width": blocks[0].width, "options": options.plain(), "anchors": found}
    if plot is not None:
        draw(facts, plot)
    return facts


def spectrum_of(rows: Any) -> np.ndarray:
    """Singular values of anchors, each token a row, over the largest: float64, in descending order."""
    import torch

    values = torch.linalg.svdvals(rows.reshape(-1, rows.shape[-1]).double()).numpy()
    return values / values[0] if values.size and values[0] > 0.0 else values


def directions(spectrum: np.ndarray) -> int:
    """How many directions hold nine tenths of the energy: few, where the spectrum has a long tail."""
    energy = np.cumsum(spectrum**2)
    return int(np.searchsorted(energy, MOST * energy[-1])) + 1 if energy.size and energy[-1] > 0.0 else 0


def _inputs(block: Block, model: StreamedModel, weights: Mapping[str, Any], rows: Any) -> dict[str, tuple[str, Any]]:
    """Of each of the block's matrices: whose input is its own, and the Gram matrix of that on anchors (in, in)."""
    import torch

    inputs = Inputs(model, frozenset({"gram"}))
    with torch.no_grad(), inputs.watching({block.names[own]: value for own, value in weights.items()}):
        block(weights, rows)
    return {place[0]: (first[0], inputs.sums[first].gram) for place, first in inputs.leads.items()}


def _kept(base: StreamedModel, model: StreamedModel, grams: Mapping[str, tuple[str, Any]]) -> float | None:
    """The share of task vectors' energy along the leading directions of the inputs."""
    along = total = 0.0
    for name, (_, gram) in grams.items():
        node = model.view.nodes[name]
        change = (model.values(node) - base.values(base.view.nodes[name])).double()
        change = change.mT if transposed(name, node.shape, model.view.config) else change
        along += float((change @ leading(gram)).square().sum())
        total += float(change.square().sum())
    return along / total if total else None


def _alike(grams: Mapping[str, tuple[str, Any]], real: Mapping[str, Any]) -> float | None:
    """The share of the leading directions of inputs on anchors that inputs on data have too: the mean over inputs."""
    shares = []
    for first, gram in dict(grams.values()).items():
        if first in real:
            mine, theirs = leading(gram), leading(real[first])
            shares.append(float((mine.mT @ theirs).square().sum()) / mine.shape[1])
    return sum(shares) / len(shares) if shares else None


def leading(gram: Any) -> Any:
    """The leading fifth of the directions of a Gram matrix (in, in): columns, orthonormal."""
    import torch

    _, vectors = torch.linalg.eigh(gram.double())
    return vectors[:, -math.ceil(LEADING * len(gram)) :]


class _Grams(Mapping[str, Any]):
    """Gram matrices of statistics by weight, read when they are asked for."""

    def __init__(self, checkpoint: Checkpoint, said: Statistics) -> None:
        self.checkpoint, self.said = checkpoint, said

    def __getitem__(self, name: str) -> Any:
        import torch

        info = self.checkpoint.tensors[f"{self.said.inputs[name].of}.gram"]
        values = np.empty(info.elements, np.float32)
        self.checkpoint.read(info.name, 0, info.elements, values.view(np.uint8))
        return torch.from_numpy(values.reshape(info.shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self.said.inputs)

    def __len__(self) -> int:
        return len(self.said.inputs)


@contextlib.contextmanager
def _grams(opened: Models, name: str, folder: str | Path) -> Iterator[_Grams]:
    if name not in opened.models:
        hint = did_you_mean(name, opened.models)
        raise RecipeError(f"there are no anchors of a model {name!r}", hint=hint)
    with open_checkpoint(folder) as checkpoint:
        said, where = read_statistics(checkpoint), Where(checkpoint.location)
        if said is None or "gram" not in said.kinds:
            hint = "name a folder that `mergery calibrate --stats gram` wrote"
            raise CheckpointError("there are no Gram matrices in it", where=where, hint=hint)
        mark = model_mark(opened.plan.checkpoints[name])
        if {key: value for key, value in said.model.items() if key != "name"} != mark:
            what = f"these are statistics of another model than {name!r}"
            raise CheckpointError(what, where=where, hint="calibrate that model")
        yield _Grams(checkpoint, said)


def draw(facts: Mapping[str, Any], path: Path) -> None:
    """The spectra as a picture: a panel for each block, a line for each model, and where the search began."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks = list(dict.fromkeys(each["block"] for each in facts["anchors"]))
    across = min(3, len(blocks))
    down = math.ceil(len(blocks) / across)
    figure = Figure(figsize=(3.2 * across + 0.6, 2.5 * down + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, block in zip(panels, blocks, strict=False):
        for each in facts["anchors"]:
            if each["block"] == block:
                (line,) = panel.plot(range(1, len(each["spectrum"]) + 1), each["spectrum"], label=each["model"])
                begun = each["spectrum_at_first"]
                panel.plot(range(1, len(begun) + 1), begun, color=line.get_color(), linestyle=":", linewidth=1.0)
        panel.set_title(block, fontsize=9)
        panel.set_yscale("log")
        panel.set_ylim(1e-3, 1.5)
    for panel in panels[len(blocks) :]:
        panel.set_visible(False)
    figure.supxlabel("direction", fontsize=9)
    figure.supylabel("singular value over the largest", fontsize=9)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper left", ncols=4, frameon=False, title="found; dotted: where the search began"
    )
    figure.savefig(path, dpi=150)
