"""Merging with data in the zoo: what looks at a few texts of each skill, beside its hosts that look at none.

    python -m benchmarks.zoo.with_data --world sequences --page docs/calibration.md

A row is a line of `ROWS`. All that was measured is kept beside the trained models, so that a run goes on where the last
stopped; `--only NAME` measures some rows, and `--page` writes the table of what there is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.zoo.digits import Digits, Encoder
from benchmarks.zoo.made import learnt, on_anchors, on_information, taken_back
from benchmarks.zoo.measure import Bench
from benchmarks.zoo.plain import refined
from benchmarks.zoo.rows import MEANS, SUMS
from benchmarks.zoo.run import Scope, worlds
from benchmarks.zoo.sequences import Sequences
from benchmarks.zoo.world import State

import mergery
from benchmarks import pages
from mergery.run.workers import Options

Settings = Mapping[str, Any]
SAMPLES = 64  # of each skill
START, END = "<!-- with data -->", "<!-- end of with data -->"


@dataclass(frozen=True)
class Row:
    """One way to merge: a recipe's merge, what refines it, and the grid from which the dev items choose.

    merge:   of the recipe. host: a row whose chosen merge is taken instead. beside: a row that it is compared with.
    grid:    settings of the merge; those with `refine.` before them are of `refine`.
    samples: texts of each skill that it looks at. without: worlds that the row is not for.
    made:    weights made otherwise than by a recipe, given the bench, the row and the settings; on_digits: there alone.
    learn:   options of `mergery learn`.
    """

    name: str
    merge: Settings = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    refine: str = ""
    host: str = ""
    beside: str = ""
    samples: int = 0
    without: tuple[str, ...] = ()
    made: Callable[[DataBench, Row, Settings], State] | None = None
    on_digits: Callable[[DataBench, Row, Settings], State] | None = None
    learn: Settings = field(default_factory=dict)

    def candidates(self) -> Iterator[dict[str, Any]]:
        """All settings of the grid; the defaults come first."""
        yield {}
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


FEATCAL = {"refine.anchor": (1.0, 1.5, 2.0), "refine.ridge": (0.01, 0.05)}
DISTILLED = {"refine.rate": (0.003, 0.01), "refine.epochs": (30, 100)}
SHRUNK = (0.5, 0.9, 0.99)
KEPT = {"refine.keep": (0.2, 0.6)}
LED = {"share": (0.2, 0.4, 0.7), "scale": (0.9, 1.5)}
ANCHORED = {"refine.epochs": (15, 50)}


def on(host: str, refiner: str, grid: Mapping[str, Sequence[Any]], **more: Any) -> Row:
    """A row of what refines a host."""
    titles = {"featcal": "FeatCal", "prodistill": "ProDistill", "aim": "AIM", "fda": "FDA"}
    return Row(f"{titles[refiner]} on {host}", grid=grid, host=host, **{"refine": refiner, "samples": SAMPLES, **more})


def anchored(host: str) -> Row:
    """FDA on a host of the sequences; the digits have a page of their own."""
    return on(host, "fda", ANCHORED, refine="", samples=0, without=("digits",), made=on_anchors)


def learned(name: str, grid: Mapping[str, Sequence[Any]], **options: Any) -> Row:
    """Weights that are learnt; those of the digits are on a page of their own."""
    row = {"beside": "task_arithmetic", "samples": SAMPLES, "without": ("digits",), "made": learnt}
    return Row(name, {"method": "task_arithmetic"}, grid, learn=options, **row)


ROWS: tuple[Row, ...] = (
    Row("linear", {"method": "linear"}),
    Row("task_arithmetic", {"method": "task_arithmetic"}, {"weight": SUMS}),
    Row("ties", {"method": "ties"}, {"scale": MEANS}),
    Row("tsv_merge", {"method": "tsv_merge"}, {"scale": (0.7, 1.0, 1.4)}),
    Row("wudi", {"method": "wudi", "solver": "closed"}, {"scale": (0.7, 1.0, 1.4)}),
    Row("swudi", {"method": "swudi"}, {"scale": (0.7, 1.0, 1.4)}),
    Row("fisher", {"method": "fisher"}, {"floor": (1e-8, 1e-10)}, samples=SAMPLES, on_digits=on_information),
    Row("led", {"method": "led"}, LED, samples=SAMPLES, on_digits=on_information),
    Row("regmean", {"method": "regmean"}, {"off_diagonal": SHRUNK}, samples=SAMPLES),
    Row(
        "RegMean++",
        {"method": "linear"},
        {"refine.off_diagonal": SHRUNK},
        "regmean_plus",
        beside="regmean",
        samples=SAMPLES,
    ),
    *(on(host, "aim", KEPT, on_digits=taken_back) for host in ("task_arithmetic", "ties", "tsv_merge", "wudi")),
    *(on(host, "featcal", FEATCAL) for host in ("task_arithmetic", "ties", "tsv_merge", "wudi")),
    on("task_arithmetic", "prodistill", DISTILLED),
    on("tsv_merge", "prodistill", DISTILLED, without=("sequences",)),
    *(anchored(host) for host in ("task_arithmetic", "tsv_merge", "wudi", "swudi")),
    learned("AdaMerging, by tensor", {}, objective="entropy"),
    learned("labels, by tensor", {}, objective="labels"),
    learned("distillation, by tensor", {}, objective="distill"),
)


class DataBench(Bench):
    """A bench with a file of training texts for each skill."""

    def data(self, skill: str, samples: int) -> Path:
        """A file of items of a skill, as `mergery calibrate` reads them."""
        world = self.world
        if not isinstance(world, Sequences):
            return Path()
        path = self.zoo.folder / f"{skill}-{samples}.jsonl"
        if skill == "base":  # a few of each skill's
            each = [self.data(own, samples).read_text().splitlines(keepends=True) for own in self.skills]
            few = samples // len(each) + 1
            path.write_text("".join([each[0][0], *(line for lines in each for line in lines[1:few])]))
        elif not path.exists():
            generator = torch.Generator().manual_seed(1000 + self.zoo.seed)
            rows = world.items.draw(world.tasks[skill], samples, "train", generator)
            words = {index: word for word, index in world.items.ids.items()}
            lines = [json.dumps({"task": {"delimiter": ""}})]
            for row in rows.tolist():
                text = "".join(words[token] for token in row[1:-1])
                prompt, _, answer = text.partition("=")
                lines.append(json.dumps({"prompt": f"{prompt}=", "answer": answer}, ensure_ascii=False))
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def recipe_of(self, row: Row, settings: Settings) -> dict[str, Any]:
        """The recipe of a row with some settings."""
        host = next((each for each in ROWS if each.name == row.host), None)
        merge = {**host.merge, **self.best(host)[1]} if host is not None else dict(row.merge)
        merge |= {key: value for key, value in settings.items() if not key.startswith("refine.")}
        method = merge.pop("method")
        recipe = self.recipe(method, merge)
        if row.samples:
            skills = (*self.skills, "base") if row.refine == "aim" else self.skills
            files = {skill: str(self.data(skill, row.samples)) for skill in skills}
            own = {"labels": "empirical"} if method == "led" else {}
            recipe["calibration"] = {"data": files, "samples": row.samples, **own}
        if row.refine:
            own = {key.removeprefix("refine."): value for key, value in settings.items() if key.startswith("refine.")}
            recipe["refine"] = {"method": row.refine, **own}
        return recipe

    def of_digits(self, row: Row, settings: Settings) -> State:
        """The weights of a row with data in the digits' world, whose encoders are no models of transformers."""
        world = self.world
        assert isinstance(world, Digits)
        images = world.part("train")[0][: row.samples]
        data = {skill: view.show(images) for skill, view in world.views.items()}
        recipe = self.recipe_of(row, settings)
        own = dict(recipe.pop("refine", {}))
        recipe.pop("calibration", None)
        method = own.pop("method", row.merge.get("method"))
        if method == "regmean":
            own |= {key: recipe["merge"].pop(key) for key in list(recipe["merge"]) if key == "off_diagonal"}
            recipe["merge"]["method"] = "linear"
        state = {**self.origin, **self.merge(recipe)[0]}
        return {**state, **refined(recipe, lambda: Encoder(world.settings), data, method, own)}

    def score(self, row: Row, settings: Settings, split: Any) -> Mapping[str, Any]:
        """The shares of items by skill, and the seconds; measured once."""
        facts = [
            row.name,
            dict(settings),
            self.best(next(r for r in ROWS if r.name == row.host))[1] if row.host else None,
        ]
        key = self.key("with data", *facts, row.samples, self.zoo.seed, split)
        if key not in self.known:
            started = time.process_time()
            made = row.on_digits if isinstance(self.world, Digits) else row.made
            if made is not None:
                state: State = made(self, row, settings)
            elif isinstance(self.world, Digits) and row.samples:
                state = self.of_digits(row, settings)
            else:
                found = mergery.merge(self.recipe_of(row, settings), options=Options(threads=1))
                assert isinstance(found, dict)
                state = {**self.origin, **found}
            seconds = time.process_time() - started
            for each in ("dev", "test"):
                shares = self.shares(state, each, self.skills).tolist()
                own = self.key("with data", *facts, row.samples, self.zoo.seed, each)
                self.note(own, settings=dict(settings), values=shares, seconds=seconds)
        return self.known[key]

    def best(self, row: Row) -> tuple[np.ndarray, Settings, float]:
        """Test shares (skills,) with the settings that are best on dev items; these; and the seconds of the merge."""
        tried = [(settings, self.score(row, settings, "dev")) for settings in row.candidates()]
        settings, _ = max(tried, key=lambda pair: float(np.mean(pair[1]["values"])))
        entry = self.score(row, settings, "test")
        return np.array(entry["values"]), settings, entry["seconds"]


def measure(cache: Path, name: str, seed: int, rows: Sequence[Row]) -> dict[str, Any]:
    """Every row on the world of one seed: its mean over skills, normalised by the experts', by default and chosen."""
    world = worlds(Scope(cache))[name]
    zoo = world.prepare(cache, seed, print)
    bench = DataBench(zoo, cache / f"notes with data {name} {seed}.jsonl", world.skills)
    experts, found = bench.experts("test"), {}
    for row in rows:
        if name in row.without:
            continue
        shares, settings, seconds = bench.best(row)
        default = np.array(bench.score(row, {}, "test")["values"])
        found[row.name] = {
            "chosen": float((shares / experts).mean()),
            "default": float((default / experts).mean()),
            "worst": float((shares / experts).min()),
            "settings": dict(settings),
            "seconds": seconds,
        }
        print(
            f"seed {seed}  {row.name:32} {found[row.name]['chosen']:.3f}  {dict(settings)}  {seconds:.1f} s", flush=True
        )
    return found


def table(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The tables of the page, one for each world: means over seeds with intervals, and what a refiner adds to its host."""
    text: list[str] = []
    for world, by_seed in figures.items():
        lines = []
        numbers = [sum(row.name in own for own in by_seed.values()) for row in ROWS]
        usual = max(filter(None, numbers), key=numbers.count)  # seeds of a row
        for row in ROWS:
            seeds = [by_seed[seed] for seed in sorted(by_seed) if row.name in by_seed[seed]]
            if not seeds:
                continue
            own = [seed[row.name] for seed in seeds]
            over = row.host or row.beside
            gains = [seed[row.name]["chosen"] - seed[over]["chosen"] for seed in seeds if over in seed]
            gain = ", ".join(f"{100 * each:+.1f}" for each in gains)
            if len(gains) > 2:  # of fewer an interval would be as wide as the table
                gain = f"{100 * np.mean(gains):+.1f} ± {100 * spread(gains):.1f}"
            chosen = f"{100 * np.mean([each['chosen'] for each in own]):.1f}"
            margins = f" ± {100 * spread([each['chosen'] for each in own]):.1f}" if len(own) > 2 else ""
            default = f"{100 * np.mean([each['default'] for each in own]):.1f}"
            seconds = f"{np.median([each['seconds'] for each in own]):.1f}"
            others = f" ({len(own)} seed{'s' if len(own) > 1 else ''})" if len(own) != usual else ""
            lines.append([row.name + others, row.samples or "none", default, chosen + margins, gain, seconds])
        count = f"{usual} seed{'s' if usual != 1 else ''}"
        head = ("method", "items of each skill", "default", "chosen", "over its host", "s")
        text += [
            f"The [zoo](which-method.md)'s {world}, eight experts, {count}: the merge's share of right answers over the",
            "experts', in %, with 95 % intervals over seeds; with settings by default, and chosen on held-out items. RegMean++",
            "is beside RegMean, learnt weights beside task arithmetic; of two seeds the gain of each is told. Seconds are of",
            "one processor.",
            "",
            *pages.table(head, lines),
            "",
        ]
    return text[:-1]


def spread(values: Sequence[float]) -> float:
    """Half of a 95 % interval of a mean of paired differences: Student's, over seeds."""
    if len(values) < 2:
        return float("nan")
    student = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}.get(len(values), 2.0)
    return student * float(np.std(values, ddof=1)) / len(values) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo.with_data", description=__doc__)
    parser.add_argument("--world", choices=("sequences", "digits"), default="sequences")
    parser.add_argument("--seeds", default="0,1,2", help="which seeds, with commas between")
    parser.add_argument("--only", default="", help="rows by name, with commas between; all where it is empty")
    parser.add_argument("--cache", type=Path, default=pages.HERE / ".cache/zoo", help="where trained models are kept")
    parser.add_argument("--page", type=Path, help="write the table into this page, from what has been measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in options.only.split(",") if name]
    rows = [row for row in ROWS if not names or row.name in names]
    figures = pages.figures("with-data")
    for seed in options.seeds.split(",") if options.seeds else ():
        known = figures.setdefault(options.world, {})
        known[seed] = {**known.get(seed, {}), **measure(options.cache, options.world, int(seed), rows)}
        pages.keep("with-data", figures)
    if options.page:
        text = options.page.read_text()
        before, after = text.split(START)[0], text.split(END)[1]
        options.page.write_text(before + START + "\n\n" + "\n".join(table(figures)) + "\n\n" + END + after)


if __name__ == "__main__":
    main()
