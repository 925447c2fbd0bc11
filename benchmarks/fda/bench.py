"""Anchors and refined merges in a world of small encoders, scored; all that was found or measured is kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.zoo.measure import Bench
from torch import Tensor

from mergery.calibration.anchors import refining, search
from mergery.calibration.anchors.blocks import Block
from mergery.calibration.anchors.refining import RefineOptions, refine
from mergery.calibration.anchors.search import AnchorOptions, find_anchors

State = dict[str, Tensor]
CODE = [Path(str(each.__file__)).read_text() for each in (search, refining)]


@dataclass(frozen=True)
class Stack:
    """Where a model has its blocks: `encoder.layers`, each a module of its own."""

    path: str
    width: int


class Anchored:
    """Anchors of all blocks and experts of a zoo, and merges refined on them."""

    def __init__(self, bench: Bench, stack: Stack, cache: Path) -> None:
        self.bench, self.cache = bench, cache
        self.model = bench.world.merged(bench.model)
        self.path, self.width = stack.path, stack.width
        cache.mkdir(parents=True, exist_ok=True)

    @cached_property
    def blocks(self) -> list[Block]:
        found = []
        for index, module in enumerate(self.model.get_submodule(self.path).children()):
            place = f"{self.path}.{index}"
            names = {own: f"{place}.{own}" for own, _ in module.named_parameters()}
            found.append(Block(place, module.requires_grad_(False), names, self.width, True))
        return found

    @cached_property
    def experts(self) -> dict[str, State]:
        world, zoo = self.bench.world, self.bench.zoo
        return {skill: dict(world.merged(world.load(zoo.expert(skill))).state_dict()) for skill in self.bench.skills}

    def weights(self, block: Block, state: Mapping[str, Tensor]) -> State:
        return {own: state[name].detach().clone() for own, name in block.names.items()}

    def anchors(self, options: AnchorOptions) -> dict[str, Any]:
        """By block and skill, rows; and under `losses` and `seconds`, how near they came and what it took."""
        key = hashlib.sha256(json.dumps([self.bench.zoo.folder.name, asdict(options), CODE[0]]).encode()).hexdigest()
        kept = self.cache / f"{key[:16]}.pt"
        if kept.exists():
            return torch.load(kept, weights_only=True)
        found: dict[str, Any] = {"losses": {}, "seconds": 0.0}
        for block in self.blocks:
            base = self.weights(block, self.bench.origin)
            for skill, state in self.experts.items():
                began = time.process_time()
                rows, first, last = find_anchors(block, base, self.weights(block, state), options, skill)
                found["seconds"] += time.process_time() - began
                found[f"{block.name} {skill}"], found["losses"][f"{block.name} {skill}"] = rows, [first, last]
        torch.save(found, kept)
        return found

    def host(self, method: str | None, settings: Mapping[str, Any]) -> State:
        """A merge's weights; the base's where there is no method."""
        if method is None:
            return dict(self.bench.origin)
        return dict(self.bench.merge(self.bench.recipe(method, settings))[0])

    def refined(self, host: State, anchors: Mapping[str, Any], options: RefineOptions) -> State:
        """A merge with its blocks refined on anchors."""
        made = dict(host)
        for block in self.blocks:
            rows = {skill: anchors[f"{block.name} {skill}"] for skill in self.experts}
            models = {skill: self.weights(block, state) for skill, state in self.experts.items()}
            base, merged = self.weights(block, self.bench.origin), self.weights(block, host)
            found, _, _ = refine(block, base, merged, models, rows, options)
            made |= {block.names[own]: value for own, value in found.items()}
        return made

    def measure(
        self,
        method: str | None,
        settings: Mapping[str, Any],
        anchors: AnchorOptions | None = None,
        options: RefineOptions | None = None,
    ) -> dict[str, Any]:
        """The shares of dev and test items by skill of a merge, refined where anchors are named."""
        facts = [method, dict(settings), anchors and asdict(anchors), options and asdict(options)]
        key = self.bench.key("fda", *facts, *(CODE if anchors else []))
        if key not in self.bench.known:
            began = time.process_time()
            state = self.host(method, settings)
            if anchors is not None and options is not None:
                found = self.anchors(anchors)
                began = time.process_time()
                state = self.refined(state, found, options)
            seconds = time.process_time() - began
            shares = {split: self.bench.shares(state, split, self.bench.skills).tolist() for split in ("dev", "test")}
            self.bench.note(key, seconds=seconds, **shares)
        return self.bench.known[key]

    def normal(self, shares: list[float], split: str) -> float:
        """The mean over skills of a merge's share over the expert's."""
        return float((np.array(shares) / self.bench.experts(split)).mean())  # pyright: ignore[reportArgumentType]
