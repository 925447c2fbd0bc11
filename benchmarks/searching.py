"""What a candidate of a search costs before it is scored: the model in memory against a folder that is written and loaded.

    python -m benchmarks.searching [--size 0.4B] [--repeats 3] [--write docs/search.md]
    python -m benchmarks.searching --repeats 0 --write docs/search.md       what a candidate is made of, and nothing else
    python -m benchmarks.searching --page --write docs/search.md     write the table again, without measuring

Three fine-tunes merged by task arithmetic in bfloat16, run in float32. Seconds of processor time, the least of the repeats, all
ways in turns. Scoring comes on top, and is the same for both.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.models import build
from benchmarks.pages import figures, keep, machine, table

BEGIN, END = "<!-- searching -->\n", "<!-- end of searching -->"


def measure(size: str, repeats: int) -> dict[str, Any]:
    """Seconds of processor time for each way to come to the next candidate; with no repeats, what one is made of alone."""
    import mergery
    from mergery.evaluation.loading import pretrained, quiet
    from mergery.exploration.live import LiveModel
    from mergery.recipe.reading import load_recipe

    base, *experts = build(size)
    models = {"base": str(base), **{path.name: str(path) for path in experts}}

    def recipe(mlp: float, rest: float, method: str = "task_arithmetic", **more: Any) -> Any:
        weight = [{"where": {"role": "mlp"}, "value": mlp}, {"value": rest}]
        return load_recipe({"models": models, "merge": {"method": method, "base": "base", "weight": weight, **more}})

    live = LiveModel(recipe(0.3, 0.3), "language", tokenizer=object())
    live.follow(live.plan(recipe(0.3, 0.3)))
    step = iter(range(1, 10_000))

    def disk(**more: Any) -> None:
        with tempfile.TemporaryDirectory(dir=Path(base).parent) as folder:
            out = Path(folder, "merged")
            mergery.merge(recipe(0.3 + 1e-3 * next(step), 0.4 + 1e-3 * next(step), **more), out)
            with quiet():
                pretrained(str(out), "language", "float32")
            shutil.rmtree(out)

    ways: dict[str, Callable[[], Any]] = {
        "all tensors": lambda: live.follow(live.plan(recipe(0.3 + 1e-3 * next(step), 0.5 + 1e-3 * next(step)))),
        "the MLPs": lambda: live.follow(live.plan(recipe(0.3 + 1e-3 * next(step), 0.5))),
        "all but the MLPs": lambda: live.follow(live.plan(recipe(0.9, 0.5 + 1e-3 * next(step)))),
        "nothing": lambda: live.follow(live.plan(recipe(0.9, 0.9))),
        "folder": disk,
    }
    found: dict[str, Any] = {name: {"seconds": float("inf")} for name in ways}
    live.follow(live.plan(recipe(0.9, 0.9)))
    if not repeats:
        found = figures("searching")["ways"]
    for _ in range(repeats):
        for name, way in ways.items():
            if name == "the MLPs":
                live.follow(live.plan(recipe(0.1, 0.5)))
            elif name == "all but the MLPs":
                live.follow(live.plan(recipe(0.9, 0.1)))
            elif name == "nothing":
                live.follow(live.plan(recipe(0.9, 0.9)))
            before = time.process_time()
            way()
            taken = time.process_time() - before
            found[name]["seconds"] = min(found[name]["seconds"], round(taken, 3))
            if name != "folder":
                found[name]["tensors"] = live.made if name != "nothing" else 0  # the same plan: nothing is asked
    parts = inside(live, recipe, step)
    methods = elections(live, recipe, disk, step)
    live.close()
    return {"machine": machine(), "size": size, "ways": found, "parts": parts, "methods": methods}


def elections(
    live: Any, recipe: Callable[..., Any], disk: Callable[..., None], step: Iterator[int]
) -> list[dict[str, Any]]:
    """Seconds of processor time of a candidate in memory and on disk, for methods that trim, drop and elect."""
    rows = []
    for what, method, fixed, moving in (
        ("`ties`, weights", "ties", {"density": 0.2}, False),
        ("`ties`, weights and densities", "ties", {}, True),
        ("`dare_ties`, weights and densities", "dare_ties", {}, True),
    ):

        def more(method: str = method, fixed: dict[str, Any] = fixed, moving: bool = moving) -> dict[str, Any]:
            return {"method": method, **(fixed if not moving else {"density": 0.2 + 1e-3 * next(step)})}

        live.follow(live.plan(recipe(0.3, 0.3, **more())))
        row: dict[str, Any] = {"what": what, "memory": float("inf"), "folder": float("inf")}
        for _ in range(2):
            for place, way in (
                ("memory", lambda: live.follow(live.plan(recipe(0.3 + 1e-3 * next(step), 0.5, **more())))),
                ("folder", lambda: disk(**more())),
            ):
                before = time.process_time()
                way()
                row[place] = min(row[place], round(time.process_time() - before, 3))
        rows.append(row)
    return rows


class Nowhere:
    """A sink that drops what it is given."""

    def __init__(self) -> None:
        self.done: dict[str, str] = {}

    def write(self, slot: Any, start: int, data: Any) -> None:
        """Drop bytes."""

    def finished(self, steps: Any, digests: Any) -> None:
        """Nothing is kept."""


def merged_again(live: Any, plan: Any) -> Callable[[], Any]:
    """A merge of inputs that are kept in memory, into a sink that drops what it is given."""
    from mergery.exploration.keys import Keys
    from mergery.run.events import ignore
    from mergery.run.workers import Options, Run

    live.inputs.begin(Keys(plan).of)
    return Run(plan, Nowhere(), Options(), ignore, hashed=False, held=live.inputs).execute


def inside(live: Any, recipe: Callable[[float, float], Any], step: Iterator[int]) -> dict[str, float]:
    """Seconds of processor time of what a candidate is made of, where all tensors change, and of asking it 8 short texts."""
    import torch

    from mergery.exploration.keys import Keys
    from mergery.run.events import ignore
    from mergery.run.workers import Options, Run

    found: dict[str, float] = {}

    def timed(name: str, way: Callable[[], Any]) -> Any:
        before = time.process_time()
        result = way()
        found[name] = min(found.get(name, float("inf")), round(time.process_time() - before, 3))
        return result

    ids = torch.randint(0, 1000, (8, 32), generator=torch.Generator().manual_seed(0))

    def told_apart(plan: Any) -> None:
        keys = Keys(plan)
        for each in plan.steps:
            keys.of(each.node)

    def asked(loaded: Any) -> None:
        with torch.inference_mode():
            loaded.module(ids)

    for _ in range(2):
        plan = timed("planned", lambda: live.plan(recipe(0.3 + 1e-3 * next(step), 0.5 + 1e-3 * next(step))))
        timed("told apart from the one before", partial(told_apart, plan))
        timed("merged, and dropped", Run(plan, Nowhere(), Options(), ignore, hashed=False).execute)
        timed("merged, and dropped; inputs in memory", merged_again(live, plan))
        loaded = timed("told apart, merged and written over the model", partial(live.follow, plan))
        timed("asked 8 texts of 32 tokens", partial(asked, loaded))
    return found


def page() -> list[str]:
    """The table."""
    kept = figures("searching")
    ways = kept["ways"]
    folder = ways["folder"]["seconds"]
    rows = [
        (name, each["tensors"], f"{each['seconds']:.2f}", f"{folder / each['seconds']:.1f}")
        for name, each in ways.items()
        if name != "folder"
    ]
    rows.append(
        ("a folder, written and loaded", max(each.get("tensors", 0) for each in ways.values()), f"{folder:.2f}", "1")
    )
    columns = ("what a candidate changes", "tensors made", "processor time, s", "times cheaper")
    return [
        f"Three fine-tunes of {kept['size']} merged by task arithmetic, in memory "
        f"(`python -m benchmarks.searching`, {kept['machine']}):",
        "",
        *table(columns, rows),
        "",
        *made_of(kept.get("parts", {})),
        *of_methods(kept.get("methods", [])),
    ]


def made_of(parts: dict[str, float]) -> list[str]:
    """The table of what a candidate is made of."""
    if not parts:
        return []
    rows = [(name, f"{seconds:.2f}") for name, seconds in parts.items()]
    return [
        "Of a candidate of which all tensors change:",
        "",
        *table(("what is done", "processor time, s"), rows),
        "",
        "What has been read of the models stays in memory, and rounded values are put where the model has them: "
        "no byte is read from files, and none is written that is not a parameter's.",
        "",
    ]


def of_methods(rows: list[dict[str, Any]]) -> list[str]:
    """The table of methods that elect."""
    if not rows:
        return []
    lines = [
        (each["what"], f"{each['memory']:.2f}", f"{each['folder']:.2f}", f"{each['folder'] / each['memory']:.1f}")
        for each in rows
    ]
    return [
        "Methods that elect signs compute more, and thresholds that a density means are counted once for each density:",
        "",
        *table(("what a candidate changes", "in memory, s", "a folder, s", "times cheaper"), lines),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.searching", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="0.4B")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="do not measure")
    parser.add_argument("--write", type=Path, help="the page that holds the table")
    options = parser.parse_args()
    if not options.page:
        keep("searching", measure(options.size, options.repeats))
    lines = "\n".join(page())
    print(lines)
    if options.write:
        before, _, rest = options.write.read_text().partition(BEGIN)
        options.write.write_text(before + BEGIN + "\n" + lines + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
