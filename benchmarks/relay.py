"""What paths through the layers of two experts are worth, on a pair that is trained for it (relay_world.py).

    python -m benchmarks.relay 0 1          seeds; figures go to those of `benchmarks.finding`, whose page shows them
    python -m benchmarks.finding --page --write docs/search.md

Two things are asked: both skills side by side, and one after the other. Paths are chosen on `dev` items, and figures are on
`test` items, of words that no training and no choice has seen. The best model alone and the best merge are chosen in hindsight.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.finding import METHODS, gap
from benchmarks.pages import figures, keep
from benchmarks.relay_world import ANSWER, KNOWN, LAYERS, LENGTH, NEW, draw, train
from torch import Tensor

import mergery
from mergery.evaluation.models import open_subject
from mergery.exploration.flow.path import Hop, neighbours, straight
from mergery.exploration.flow.path import Path as Way
from mergery.exploration.flow.running import FlowModel
from mergery.method import find

CACHE = Path(__file__).resolve().parent / ".cache/relay"
WEIGHTS = (0.4, 0.7, 1.0, 1.3)  # of the reader and of the ruler in a sum: sixteen pairs
TRIALS = 90  # of single changes
COUNT = {"dev": 120, "test": 600}  # items of each of the two skills
Marks = tuple[np.ndarray, float]  # which items are solved, (skills, items), and the loss in nats a token of the answer


class Asked:
    """Items of a goal: a row for each skill, or one for both in sequence."""

    def __init__(self, goal: str, split: str) -> None:
        each = {"reading": (KNOWN, True), "rules": (NEW, False)} if goal == "side by side" else {"both": (NEW, True)}
        rows = []
        for rules, cipher in each.values():
            share = COUNT[split] // len(rules)
            generator = torch.Generator().manual_seed(40)
            rows.append(torch.cat([draw(rule, share, split, generator, cipher=cipher) for rule in rules]))
        self.ids = torch.stack(rows)

    @torch.inference_mode()
    def of(self, module: Any) -> Marks:
        """One pass tells what greedy decoding answers: the answer, where each token is the likeliest behind those before."""
        ids: Tensor = self.ids.flatten(0, 1)
        logits = module(ids[:, :-1], use_cache=False).logits[:, ANSWER - 1 :]
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, ANSWER:].flatten())
        right = (logits.argmax(-1) == ids[:, ANSWER:]).all(1).view(self.ids.shape[:2])
        return right.double().numpy(), float(loss)


class Bench:
    """The models of a seed, and every layer of them as something to pass."""

    def __init__(self, seed: int) -> None:
        self.folder = train(CACHE, seed)
        self.sources = {name: str(self.folder / name) for name in ("base", "reader", "ruler")}

    def flow(self, *names: str) -> FlowModel:
        return FlowModel({name: open_subject(self.sources[name], name=name) for name in names}, "language", "float32")

    def merges(self) -> dict[str, dict[str, Any]]:
        """Methods with nothing set, and sums by sixteen pairs of weights."""
        pair = {"reader": self.sources["reader"], "ruler": self.sources["ruler"]}
        found = {}
        for name in METHODS:
            based = find(name).base != "unused"
            models = {"base": self.sources["base"], **pair} if based else pair
            found[name] = {"models": models, "merge": {"method": name, **({"base": "base"} if based else {})}}
        for one in WEIGHTS:
            for other in WEIGHTS:
                merge = {
                    "method": "task_arithmetic",
                    "base": "base",
                    "scale": 1,
                    "weight": {"reader": one, "ruler": other},
                }
                found[f"{one} reader + {other} ruler"] = {
                    "models": {"base": self.sources["base"], **pair},
                    "merge": merge,
                }
        return found


def measure(seed: int) -> dict[str, Any]:
    """Both goals of a seed."""
    bench = Bench(seed)
    goals = {goal: (Asked(goal, "dev"), Asked(goal, "test")) for goal in ("side by side", "in sequence")}
    merged: dict[str, dict[str, tuple[Marks, Marks]]] = {goal: {} for goal in goals}
    recipes = bench.merges()
    for name, recipe in recipes.items():
        model = mergery.merge(recipe, as_model=True, options=mergery.Options(threads=1)).eval()
        for goal, (dev, test) in goals.items():
            merged[goal][name] = dev.of(model), test.of(model)
    found = {goal: of_goal(bench, goal, *asked, merged[goal], recipes) for goal, asked in goals.items()}
    return {**found, "alike": alike(bench)}


def of_goal(
    bench: Bench,
    goal: str,
    dev: Asked,
    test: Asked,
    merges: Mapping[str, tuple[Marks, Marks]],
    recipes: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Models alone and merges, against the best of two kinds of paths: hand-overs, and changes of the best merge."""
    flow = bench.flow("reader", "ruler")
    alone = {name: test.of(flow.follow(straight(name, LAYERS)).module) for name in ("reader", "ruler")}
    alone["base"] = test.of(bench.flow("base").follow(straight("base", LAYERS)).module)
    handed = [(way, dev.of(flow.follow(way).module)) for way in handovers("reader", "ruler")]
    handed += [(way, dev.of(flow.follow(way).module)) for way in handovers("ruler", "reader")]
    over = min(handed, key=lambda each: each[1][1])[0]
    ways = {"hand-over": (over, test.of(flow.follow(over).module))}
    first = max(merges, key=lambda name: float(merges[name][0][0].mean()))
    bench.sources["merged"] = str(bench.folder / f"merged {goal}")
    mergery.merge(recipes[first], bench.sources["merged"], replace=True, options=mergery.Options(threads=1))
    mixed = bench.flow("merged", "reader", "ruler")
    changed, tried = climb_from(straight("merged", LAYERS), mixed, dev)
    ways["from the merge"] = (changed, test.of(mixed.follow(changed).module))
    single = max(alone, key=lambda name: float(alone[name][0].mean()))
    rival = max(merges, key=lambda name: float(merges[name][1][0].mean()))
    paths = {
        name: {
            "path": way.plain, "score": _mean(own), "loss": round(own[1], 3), "over alone": gap(own[0], alone[single][0]),
            "over merges": gap(own[0], merges[rival][1][0]), "over start": gap(own[0], merges[first][1][0]),
        }
        for name, (way, own) in ways.items()
    }  # fmt: skip
    return {
        "alone": {name: [_mean(own), round(own[1], 3)] for name, own in alone.items()},
        "merges": {name: [_mean(own), round(own[1], 3)] for name, (_, own) in merges.items()},
        "single": single, "rival": rival, "first": first, "handed": len(handed), "tried": tried, "paths": paths,
        "hops": hops(mixed, changed, test) if goal == "side by side" else hops(flow, over, test),
    }  # fmt: skip


def handovers(one: str, other: str) -> list[Way]:
    """One model to a layer, and the other from a layer on, its last layer left to the first: 42 paths."""
    found = []
    for leave in range(1, LAYERS - 1):
        for enter in range(LAYERS - 1):
            rest = [Hop(other, layer) for layer in range(enter, LAYERS - 1)]
            found.append(Way(one, (*(Hop(one, layer) for layer in range(leave)), *rest, Hop(one, LAYERS - 1))))
    return found


def climb_from(start: Way, flow: FlowModel, dev: Asked) -> tuple[Way, int]:
    """As `mergery flow --sampler greedy`: single changes in any order, kept where they help."""
    rng = np.random.default_rng([0, 1])
    best, score, tried = start, float(dev.of(flow.follow(start).module)[0].mean()), {start}
    while len(tried) <= TRIALS:
        near = [each for each in neighbours(best, flow.depths, 2) if each not in tried]
        if not near:
            break
        way = near[int(rng.integers(len(near)))]
        tried.add(way)
        own = float(dev.of(flow.follow(way).module)[0].mean())
        best, score = (way, own) if own > score else (best, score)
    return best, len(tried) - 1


def hops(flow: FlowModel, way: Way, test: Asked) -> list[list[Any]]:
    """Loss and score with one hop left out, each in turn; first with none."""
    whole = test.of(flow.follow(way).module)
    rows: list[list[Any]] = [["none", round(whole[1], 3), _mean(whole)]]
    for place in range(1, len(way.hops) - 1):
        own = test.of(flow.follow(Way(way.ends, (*way.hops[:place], *way.hops[place + 1 :]))).module)
        rows.append([f"{way.hops[place].model}:{way.hops[place].layer}", round(own[1], 3), _mean(own)])
    return rows


@torch.inference_mode()
def alike(bench: Bench) -> dict[str, Any]:
    """How near the reader's hidden states of a word in cipher come to the ruler's of the same word, plain: the best two places.

    The cosine of hidden states about their mean, at the letters of a word.
    """
    states = {}
    for name, cipher in (("reader", True), ("ruler", False)):
        generator = torch.Generator().manual_seed(41)
        ids = torch.cat([draw(rule, 200, "test", generator, cipher=cipher) for rule in NEW])
        module = bench.flow(name).follow(straight(name, LAYERS)).module
        found = module.model(ids[:, :ANSWER], output_hidden_states=True).hidden_states
        letters = [each[:, 3 : 3 + LENGTH] for each in found[:-1]]
        states[name] = [each - each.flatten(0, 1).mean(0) for each in letters]
    near = {
        (one, other): float(F.cosine_similarity(states["reader"][one], states["ruler"][other], dim=-1).mean())
        for one in range(LAYERS)
        for other in range(LAYERS)
    }
    place = max(near, key=lambda each: near[each])
    return {
        "reader layer": place[0],
        "ruler layer": place[1],
        "cosine": round(near[place], 3),
        "last": round(near[7, 7], 3),
    }


def _mean(own: Marks) -> float:
    return round(float(own[0].mean()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.relay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1])
    seeds = parser.parse_args().seeds
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for seed in seeds:
        found = measure(seed)
        kept = figures("finding")
        kept.setdefault("relay", {})[f"relay {seed}"] = found
        keep("finding", kept)
        print(f"seed {seed}: {found}", flush=True)


if __name__ == "__main__":
    main()
