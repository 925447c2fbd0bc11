"""Refining merges of modules that are not transformers' own, such as the digits' encoders: the engine, without its commands."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mergery.calibration.learning.distilling import Distiller
from mergery.calibration.model import StreamedModel
from mergery.calibration.opening import merged_statistics, stored_view
from mergery.calibration.passes import Shelf
from mergery.calibration.sequential.fitters import FeatCal, RegMeanPlus
from mergery.calibration.sequential.lockstep import Lockstep, Teacher
from mergery.engine import Shared, Workspace
from mergery.graph.view import View
from mergery.planning.plan import make_plan


class PlainModel(StreamedModel):
    """A module over a view whose names are its own."""

    def __init__(self, view: View, module: nn.Module) -> None:
        self.view, self.shared, self.workspace, self.module = view, Shared(), Workspace(), module.eval()
        self.nodes = {name: view.nodes[name] for name in module.state_dict()}
        self.names = {id(node): name for name, node in view.nodes.items()}
        self.units = list(self._units("", module, set()))

    def is_head(self, unit: Any) -> bool:
        """Whether a unit gives nothing but the model's answer: these encoders have no such."""
        return False


class RegMean(RegMeanPlus):
    """RegMean: the inputs are those behind each model's own blocks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prefix = "own"

    def see(self, teacher: int, merged: Any, own: Any) -> None:
        """See `Fitter.see`."""
        super().see(teacher, None, own)


def refined(
    recipe: Mapping[str, Any],
    make: Callable[[], nn.Module],
    data: Mapping[str, Tensor],
    method: str,
    settings: Mapping[str, float],
) -> dict[str, Tensor]:
    """What a recipe's merge has of other weights once it is refined on data: inputs of the modules by the model's name."""
    plan = make_plan(recipe)
    try:
        merged = PlainModel(plan.view, make())
        merged.shared = merged_statistics(plan)
        base = plan.recipe.merge.base
        teachers = [
            Teacher(name, PlainModel(stored_view(plan.checkpoints[name]), make()), [_pass(inputs)])
            for name, inputs in data.items()
        ]
        fitter: Any
        if method == "featcal":
            origin = PlainModel(stored_view(plan.checkpoints[base]), make()) if base else None
            fitter = FeatCal(merged, len(teachers), origin, **settings)
        elif method == "prodistill":
            assert base is not None
            origin = PlainModel(stored_view(plan.checkpoints[base]), make())
            fitter = Distiller(origin, settings.get("rate", 0.1), int(settings.get("epochs", 100)))
        else:
            kind = RegMean if method == "regmean" else RegMeanPlus
            fitter = kind(merged, len(teachers), settings.get("off_diagonal", 0.9))
        found: dict[str, Tensor] = {}

        def told(unit: Any, weights: Mapping[str, Tensor], changed: Iterable[str]) -> None:
            found.update({name: weights[name].detach().clone() for name in changed})

        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            Lockstep(merged, teachers, Shelf(Path(folder), 0)).run(fitter, kept=lambda unit: None, told=told)
        return found
    finally:
        plan.close()


def _pass(inputs: Tensor) -> Any:
    return lambda model: model.module(inputs)
