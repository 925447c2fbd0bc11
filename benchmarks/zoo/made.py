"""Rows with data that are made by a command of their own: anchors, learnt weights; and statistics of the digits' encoders."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from benchmarks.zoo.digits import Digits, Seer
from benchmarks.zoo.world import State
from safetensors.torch import load_file
from torch import Tensor

import mergery
from mergery.calibration.sequential.aim import shares_of
from mergery.run.workers import Options

if TYPE_CHECKING:
    from benchmarks.zoo.with_data import DataBench, Row

Settings = Mapping[str, Any]
ANCHORS = mergery.AnchorOptions(anchors=256, steps=40)
CLOSED = {"task_arithmetic": "models"}
"""What is learnt of a host on anchors: of a sum a coefficient for each model's numbers, of others one for the merge's."""


def on_anchors(bench: DataBench, row: Row, settings: Settings) -> State:
    """The chosen host refined on functional dual anchors of its models, which are found once for all hosts."""
    own = {key.removeprefix("refine."): value for key, value in settings.items() if key.startswith("refine.")}
    recipe = bench.recipe_of(row, {})
    key = json.dumps([bench.zoo.folder.name, asdict(ANCHORS)], sort_keys=True)
    kept = bench.zoo.folder / f"anchors-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    if not kept.exists():
        mergery.find_anchors(recipe, kept, options=ANCHORS, threads=1)
    start: Any = CLOSED.get(recipe["merge"]["method"], "merge")
    options = mergery.RefineOptions(start=start, distance="cos", **{"epochs": 15, "batch": 1024, **own})
    with tempfile.TemporaryDirectory() as folder:
        mergery.refine(recipe, kept, Path(folder) / "out", options=options, threads=1)
        return {**bench.origin, **load_file(Path(folder) / "out" / "model.safetensors")}


def learnt(bench: DataBench, row: Row, settings: Settings) -> State:
    """Task arithmetic with weights that `mergery learn` finds on a few texts of each skill."""
    own = {key.removeprefix("learn."): value for key, value in settings.items() if key.startswith("learn.")}
    data = {skill: bench.data(skill, row.samples) for skill in bench.skills}
    recipe = bench.recipe("task_arithmetic", {"scale": 0.3})
    options = mergery.LearnOptions(**{"threads": 1, **row.learn, **own})
    with tempfile.TemporaryDirectory() as folder:
        out = mergery.learn(recipe, data, Path(folder) / "learned.yaml", options=options)
        found = mergery.merge(out, options=Options(threads=1))
    assert isinstance(found, dict)
    return {**bench.origin, **found}


# --- statistics of encoders that are no models of transformers ------------------------------------------------------------


def shown(bench: DataBench, skill: str, samples: int) -> Tensor:
    world = bench.world
    assert isinstance(world, Digits)
    return world.views[skill].show(world.part("train")[0][:samples])


def information(model: Seer, images: Tensor, skill: str, seed: int) -> State:
    """The diagonal of the Fisher information of an encoder: squared gradients by image, of labels drawn from the model."""
    generator = torch.Generator().manual_seed(seed)
    names, parameters = zip(*model.encoder.named_parameters(), strict=True)
    sums = [torch.zeros_like(each) for each in parameters]
    with torch.enable_grad():
        for each in parameters:
            each.requires_grad_(True)
        for image in images:
            logs = model(image[None], skill).log_softmax(-1)[0]
            drawn = torch.multinomial(logs.detach().exp(), 1, generator=generator)[0]
            for total, gradient in zip(sums, torch.autograd.grad(logs[drawn], parameters), strict=True):
                total += gradient.square() / len(images)
    return dict(zip(names, sums, strict=True))


def on_information(bench: DataBench, row: Row, settings: Settings) -> State:
    """A merge of the digits' encoders by a method that asks for Fisher information."""
    world, zoo = bench.world, bench.zoo
    assert isinstance(world, Digits)
    own = {**row.merge, **settings}
    method = mergery.method.find(own.pop("method"))
    models = [world.load(zoo.expert(skill)) for skill in bench.skills]
    known = {"fisher": [], "fisher_of_base": []}
    for skill, model in zip(bench.skills, models, strict=True):
        images = shown(bench, skill, row.samples)
        known["fisher"].append(information(model, images, skill, zoo.seed))
        if row.name == "led":
            known["fisher_of_base"].append(information(world.load(zoo.base), images, skill, zoo.seed))
    states = [model.encoder.state_dict() for model in models]
    found = {}
    for name, base in bench.origin.items():
        statistics = {kind: [each[name] for each in rows] for kind, rows in known.items() if rows}
        start = base if method.base != "unused" else None
        found[name] = mergery.merge_tensors(
            method, [state[name] for state in states], start, statistics=statistics, **own
        )
    return found


def taken_back(bench: DataBench, row: Row, settings: Settings) -> State:
    """AIM over the chosen host of the digits: columns keep less of their change where the base's inputs are large."""
    world = bench.world
    assert isinstance(world, Digits)
    recipe = bench.recipe_of(row, {})
    del recipe["refine"], recipe["calibration"]
    found = {**bench.origin, **bench.merge(recipe)[0]}
    base = world.load(bench.zoo.base)
    sums: dict[str, Tensor] = {}

    def seeing(name: str) -> Any:
        return lambda _, args: sums.update({name: sums.get(name, 0.0) + args[0].abs().double().sum(0)})

    linear = {name: part for name, part in base.encoder.named_modules() if isinstance(part, torch.nn.Linear)}
    hooks = [part.register_forward_pre_hook(seeing(f"{name}.weight")) for name, part in linear.items()]
    with torch.no_grad():
        for skill in bench.skills:
            base.encoder(shown(bench, skill, row.samples // len(bench.skills)))
    for hook in hooks:
        hook.remove()
    for name, own in sums.items():
        shares = torch.from_numpy(shares_of(own.numpy(), float(settings.get("refine.keep", 0.4))))
        found[name] = bench.origin[name] + (found[name] - bench.origin[name]) * shares
    return found
