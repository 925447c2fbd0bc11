"""What searching is worth on the zoo's models: against the best method with nothing set, on items that no choice has seen.

    python -m benchmarks.finding search auto --worlds sequences shared --seeds 0 1      some parts; all where none is named
    python -m benchmarks.finding --page --write docs/search.md

Models are those of `make zoo`, trained where they are not there. Choices see `dev` items, 240 of a skill; figures are on 300
`test` items of a skill, as in docs/which-method.md. Intervals are 95 %, of a bootstrap that draws the same items for all that
is compared. What was measured is kept piece by piece in `.cache/finding`, and a run that was stopped goes on there; whoever
changed a method removes that folder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.finding_page import page
from benchmarks.pages import figures, keep

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- finding -->\n", "<!-- end of finding -->"
DRAWN = {"dev": 240, "test": 300}  # items of a skill
METHODS = (
    "linear", "task_arithmetic", "ties", "breadcrumbs", "pcb", "dare_ties", "svc", "cart", "tsv_merge", "iso_c", "dc_merge",
    "swudi_a",
)  # fmt: skip
RESAMPLES = 10_000


class Ground:
    """Trained models of a world, its tasks as files, and every answer that was given. `deep` has four layers."""

    def __init__(self, name: str, seed: int) -> None:
        from benchmarks.zoo.run import Scope, worlds
        from benchmarks.zoo.sequences import TASKS, Sequences, Settings

        self.name, self.seed = name, seed
        cache = HERE / ".cache/zoo"
        deep = Sequences(Settings(hidden=64, layers=4, batch=102), "deep", TASKS[:3])
        self.world: Any = deep if name == "deep" else worlds(Scope(cache))[name]
        self.models = self.world.prepare(cache, seed, print).folder
        self.out = HERE / ".cache/finding" / f"{name}-{seed}"
        self.tasks = {split: self._written(split) for split in DRAWN}

    @property
    def skills(self) -> list[str]:
        return list(self.world.skills)

    def sources(self, skills: Sequence[str], *, base: bool = True) -> dict[str, str]:
        own = {"base": str(self.models / "base")} if base else {}
        return own | {skill: self.world.source(self.models, skill) for skill in skills}

    def recipe(self, merge: Mapping[str, Any], skills: Sequence[str]) -> dict[str, Any]:
        from mergery.method import find

        based = find(str(merge["method"])).base != "unused"
        return {"models": self.sources(skills, base=based), "merge": {**merge, **({"base": "base"} if based else {})}}

    def _written(self, split: str) -> dict[str, Path]:
        """A file for each skill; the zoo's own test items."""
        import torch

        found = {}
        for skill in self.world.tasks:
            path = self.out / f"{skill}-{split}.jsonl"
            found[skill] = path
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            generator = torch.Generator().manual_seed(0)
            drawn = self.world.items.draw(self.world.tasks[skill], DRAWN[split], split, generator)
            words = {number: word for word, number in self.world.items.ids.items()}
            head = {"task": {"name": skill, "delimiter": "", "max_tokens": 7, "stop": []}}
            lines = [json.dumps(head)]
            for row in drawn.tolist():
                text = [words[number] for number in row]
                item = {
                    "prompt": "".join(text[1 : self.world.items.answer]),
                    "answer": "".join(text[self.world.items.answer : -1]),
                }
                lines.append(json.dumps(item, ensure_ascii=False))
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return found

    def solved(self, model: Any, skills: Sequence[str]) -> np.ndarray:
        """Which test items a model or a recipe answers rightly: (skills, items)."""
        import mergery

        done = mergery.evaluate(
            model, [self.tasks["test"][skill] for skill in skills], options=self.asking, results=self.out / "answers"
        )
        return np.stack([np.array([item.values["match"] for item in task.items]) for task in done.tasks])

    @property
    def asking(self) -> Any:
        from mergery.evaluation import EvaluationOptions

        return EvaluationOptions(batch=256, threads=1)


def gap(one: np.ndarray, other: np.ndarray) -> list[float]:
    """By how much one model's mean over skills is ahead of another's, with its interval, items drawn anew."""
    generator = np.random.default_rng(0)
    difference = one - other
    drawn = np.zeros(RESAMPLES)
    for row in difference:
        places = generator.integers(len(row), size=(RESAMPLES, len(row)))
        drawn += row[places].mean(axis=1) / len(difference)
    return [round(float(each), 4) for each in (difference.mean(), *np.quantile(drawn, [0.025, 0.975]))]


def defaults(ground: Ground, skills: Sequence[str]) -> dict[str, np.ndarray]:
    """Every method with nothing set, on test items."""
    return {name: ground.solved(ground.recipe({"method": name}, skills), skills) for name in METHODS}


def searched(ground: Ground) -> dict[str, Any]:
    """Weights of the method that is best on dev items of those that have weights, against the best method in hindsight."""
    import mergery
    from mergery.method import find

    skills = ground.skills
    started, before = time.perf_counter(), time.process_time()
    tasks = [ground.tasks["dev"][skill] for skill in skills]
    first = {}
    for name in METHODS:
        done = mergery.evaluate(
            ground.recipe({"method": name}, skills), tasks, options=ground.asking, results=ground.out / "answers"
        )
        first[name] = float(np.mean([np.mean([item.values["match"] for item in task.items]) for task in done.tasks]))
    weighted = [name for name in first if "weight" in find(name).settings]
    best = max(weighted, key=lambda name: first[name])
    recipe = ground.recipe({"method": best, "weight": {"search": [0.3, 1.7], "per": "model"}}, skills)
    found = mergery.search(
        recipe, ground.out / f"search-{best}", tasks, options=mergery.SearchOptions(trials=150, minutes=15, seed=0),
        evaluation_options=ground.asking,
    )  # fmt: skip
    wall, core = time.perf_counter() - started, time.process_time() - before
    own, plain = ground.solved(found.recipe, skills), defaults(ground, skills)
    rival = max(plain, key=lambda name: float(plain[name].mean()))
    usual = {name: round(float(each.mean()), 4) for name, each in plain.items()}
    return {
        "method": best, "chosen": found.chosen.name, "values": dict(found.chosen.values),
        "candidates": len(found.candidates), "score": round(float(own.mean()), 4), "rival": rival, "defaults": usual,
        "gain": gap(own, plain[rival]), "same": gap(own, plain[best]), "wall": round(wall), "core": round(core),
    }  # fmt: skip


def soups(ground: Ground) -> dict[str, Any]:
    """The Soup Of Category Experts of five experts and of all, on their skills."""
    return {str(count): soup_of(ground, ground.skills[:count]) for count in (5, len(ground.skills))}


def soups_for_few(ground: Ground) -> dict[str, Any]:
    """The same of all experts where three skills are asked, so that the others' experts are of no use."""
    return {f"{len(ground.skills)}, three skills asked": soup_of(ground, ground.skills, ground.skills[:3])}


def soup_of(ground: Ground, models: Sequence[str], asked: Sequence[str] = ()) -> dict[str, Any]:
    """A Soup Of Category Experts, on some skills, those of the models by default, against equal weights and the greedy soup."""
    import mergery

    skills = list(asked or models)

    started = time.perf_counter()
    tasks = [ground.tasks["dev"][skill] for skill in skills]
    found = mergery.soup(
        ground.sources(models, base=False), ground.out / f"soce-{len(models)}-{len(skills)}", tasks,
        options=mergery.SoupOptions("soce", threshold=0.5), evaluation_options=ground.asking,
    )  # fmt: skip
    wall = time.perf_counter() - started
    assert found.soce is not None

    def soup(weights: Mapping[str, float]) -> np.ndarray:
        own = {name: weight for name, weight in weights.items() if weight}
        merge = {"method": "linear", "weight": own} if len(own) > 1 else {"method": "passthrough", "models": list(own)}
        return ground.solved({"models": ground.sources(list(own), base=False), "merge": merge}, skills)

    own, even = soup(found.soce.weights), soup(dict.fromkeys(models, 1 / len(models)))
    grown = soup(found.greedy.weights)
    alone = {name: soup({name: 1.0}) for name in models}
    best = max(alone, key=lambda name: float(alone[name].mean()))
    return {
        "experts": list(found.soce.choice.experts), "weights": dict(found.soce.weights), "greedy": dict(found.greedy.weights),
        "tried": len(found.soce.tried), "score": round(float(own.mean()), 4), "uniform": round(float(even.mean()), 4),
        "grown": round(float(grown.mean()), 4), "alone": [best, round(float(alone[best].mean()), 4)],
        "over uniform": gap(own, even), "over greedy": gap(own, grown), "over alone": gap(own, alone[best]),
        "wall": round(wall),
    }  # fmt: skip


def automatic(ground: Ground) -> dict[str, Any]:
    """`mergery auto` on all experts, against the best of its own methods in hindsight."""
    import mergery

    skills = ground.skills
    started, before = time.perf_counter(), time.process_time()
    sources = ground.sources(skills)
    found = mergery.auto(
        sources.pop("base"), sources, ground.out / "auto", [ground.tasks["dev"][skill] for skill in skills],
        options=mergery.AutoOptions(minutes=6), evaluation_options=ground.asking,
    )  # fmt: skip
    wall, core = time.perf_counter() - started, time.process_time() - before
    own, plain = ground.solved(found.recipe, skills), defaults(ground, skills)
    rival = max(plain, key=lambda name: float(plain[name].mean()))
    return {
        "chosen": found.verdict.chosen.entry.name, "words": found.verdict.words, "score": round(float(own.mean()), 4),
        "rival": rival, "best": round(float(plain[rival].mean()), 4), "gain": gap(own, plain[rival]), "wall": round(wall),
        "core": round(core),
    }  # fmt: skip


def planted(ground: Ground) -> dict[str, Any]:
    """`mergery auto` where only one expert's skill is asked: no merge can be better than that expert."""
    import mergery

    first, *others = ground.skills[:4]
    sources = ground.sources([first, *others])
    found = mergery.auto(
        sources.pop("base"), sources, ground.out / "alone", [ground.tasks["dev"][first]],
        options=mergery.AutoOptions(minutes=2), evaluation_options=ground.asking,
    )  # fmt: skip
    return {"skill": first, "merge": found.verdict.merge, "words": found.verdict.words}


def paths(ground: Ground) -> dict[str, Any]:
    """`mergery flow`: a model whose layer is spoilt, beside one that is spoilt elsewhere; and two experts."""
    import mergery

    first, second = ground.skills[1], ground.skills[0]
    whole = str(ground.models / first)
    broken = {name: _spoilt(ground, whole, name, layer) for name, layer in (("one", 1), ("other", 2))}
    found = mergery.flow(
        broken, ground.out / "flow-planted", [ground.tasks["dev"][first]], options=mergery.FlowOptions(trials=60),
        evaluation_options=ground.asking,
    )  # fmt: skip
    scores = {name: round(float(ground.solved(path, [first]).mean()), 4) for name, path in broken.items()}
    planted = {
        "path": found.path.plain, "score": round(float(ground.solved(found.recipe, [first]).mean()), 4), "spoilt": scores,
        "whole": round(float(ground.solved(whole, [first]).mean()), 4), "tried": len(found.tours),
    }  # fmt: skip
    pair, tours = [first, second], 0
    started = time.perf_counter()
    ways = []
    for ends in (pair, pair[::-1]):
        done = mergery.flow(
            ground.sources(ends, base=False), ground.out / f"flow-{ends[0]}", [ground.tasks["dev"][skill] for skill in pair],
            options=mergery.FlowOptions(trials=120), evaluation_options=ground.asking,
        )  # fmt: skip
        ways.append(done)
        tours += len(done.tours)
    found = max(ways, key=lambda each: each.score)
    wall = time.perf_counter() - started
    own = ground.solved(found.recipe, pair)
    alone = {skill: ground.solved(str(ground.models / skill), pair) for skill in pair}
    best = max(alone, key=lambda skill: float(alone[skill].mean()))
    even = ground.solved(ground.recipe({"method": "linear"}, pair), pair)
    real = {
        "pair": pair, "path": found.path.plain, "score": round(float(own.mean()), 4), "tried": tours,
        "alone": [best, round(float(alone[best].mean()), 4)], "over alone": gap(own, alone[best]),
        "linear": round(float(even.mean()), 4), "over linear": gap(own, even), "wall": round(wall),
    }  # fmt: skip
    return {"planted": planted, "real": real}


def _spoilt(ground: Ground, whole: str, name: str, layer: int) -> str:
    """The model with the matrices of one layer drawn anew, of the same size."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = ground.out / f"spoilt-{name}"
    if not (place / "config.json").exists():
        model = AutoModelForCausalLM.from_pretrained(whole)
        torch.manual_seed(layer)
        with torch.no_grad():
            for weight in model.model.layers[layer].parameters():
                if weight.ndim == 2:
                    weight.copy_(torch.randn_like(weight) * weight.std())
        model.save_pretrained(place)
        AutoTokenizer.from_pretrained(whole).save_pretrained(place)
    return str(place)


SAMPLERS = ("random", "cma", "tpe", "quadratic", "niches")


def sampled(ground: Ground) -> dict[str, Any]:
    """Samplers beside each other: the weights of eight or seven experts in a sum, with sixty candidates each."""
    import mergery

    skills = ground.skills
    tasks = [ground.tasks["dev"][skill] for skill in skills]
    merge = {"method": "task_arithmetic", "scale": 1, "weight": {"search": [0.0, 0.8], "per": "model"}}
    recipe, rows, solved = ground.recipe(merge, skills), {}, {}
    for name in SAMPLERS:
        options = mergery.SearchOptions(name, trials=60, seed=0)
        found = mergery.search(
            recipe, ground.out / f"sampler-{name}", tasks, options=options, evaluation_options=ground.asking
        )
        solved[name] = ground.solved(found.recipe, skills)
        rows[name] = {
            "score": round(float(solved[name].mean()), 4), "validation": round(found.chosen.validation, 4),
            "over random": gap(solved[name], solved["random"]),
        }  # fmt: skip
    return rows


PARTS = {
    "search": searched, "soup": soups, "few": soups_for_few, "auto": automatic, "planted": planted, "flow": paths,
    "samplers": sampled,
}  # fmt: skip


WORLDS = {
    "search": ("sequences", "shared", "adapters"), "soup": ("sequences", "shared"), "few": ("sequences", "shared"),
    "auto": ("sequences", "shared", "adapters"), "planted": ("sequences", "shared", "adapters"), "flow": ("deep",),
    "samplers": ("sequences",),
}  # fmt: skip
"""Where each part is measured. Soups of adapters are soups of models again, so that they would tell nothing new."""


def measure(part: str, world: str, seed: int) -> dict[str, Any]:
    """One piece, from the cache where it is there."""
    ground = Ground(world, seed)
    kept = ground.out / f"{part}.json"
    if not kept.exists():
        started, before = time.perf_counter(), time.process_time()
        found = PARTS[part](ground)
        spent = {"seconds": round(time.perf_counter() - started), "core seconds": round(time.process_time() - before)}
        half = kept.with_suffix(".part")
        half.write_text(json.dumps({"found": found, "spent": spent}, indent=1) + "\n")
        half.rename(kept)
        print(f"{part}, {world}, seed {seed}: {spent}", flush=True)
    return json.loads(kept.read_text())["found"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.finding", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument(
        "--worlds", nargs="*", choices=("sequences", "shared", "adapters", "deep"), help="all by default"
    )
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--page", action="store_true", help="do not measure")
    parser.add_argument("--write", type=Path, help="the page that holds the section")
    options = parser.parse_args()
    if wrong := set(options.parts) - set(PARTS):
        parser.error(f"no part is called {wrong.pop()}: there are {', '.join(PARTS)}")
    if not options.page:
        import torch
        import transformers

        torch.set_num_threads(1)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        for seed in options.seeds:
            for part in options.parts or PARTS:
                for world in WORLDS[part]:
                    if options.worlds is None or world in options.worlds:
                        found = measure(part, world, seed)
                        kept = figures("finding")
                        kept.setdefault(part, {})[f"{world} {seed}"] = found
                        keep("finding", kept)
    if options.write:
        before, _, rest = options.write.read_text().partition(BEGIN)
        lines = "\n".join(page(figures("finding"), DRAWN, len(METHODS)))
        options.write.write_text(before + BEGIN + "\n" + lines + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
