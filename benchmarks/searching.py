"""What a candidate of a search costs before it is scored: the model in memory against a folder that is written and loaded.

    python benchmarks/searching.py [--size 0.4B] [--repeats 3] [--write docs/search.md]
    python benchmarks/searching.py --page --write docs/search.md     write the table again, without measuring

Three fine-tunes merged by task arithmetic in bfloat16, run in float32. Seconds of processor time, the least of the repeats, all
ways in turns. Scoring comes on top, and is the same for both.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import build
from pages import figures, keep, machine, table

BEGIN, END = "<!-- searching -->\n", "<!-- end of searching -->"


def measure(size: str, repeats: int) -> dict[str, Any]:
    """Seconds of processor time for each way to come to the next candidate."""
    import mergery
    from mergery.evaluation.loading import pretrained
    from mergery.exploration.live import LiveModel
    from mergery.recipe.reading import load_recipe

    base, *experts = build(size)
    models = {"base": str(base), **{path.name: str(path) for path in experts}}

    def recipe(mlp: float, rest: float) -> Any:
        weight = [{"where": {"role": "mlp"}, "value": mlp}, {"value": rest}]
        return load_recipe({"models": models, "merge": {"method": "task_arithmetic", "base": "base", "weight": weight}})

    live = LiveModel(recipe(0.3, 0.3), "language", tokenizer=object())
    live.follow(live.plan(recipe(0.3, 0.3)))
    step = iter(range(1, 10_000))

    def disk() -> None:
        with tempfile.TemporaryDirectory(dir=Path(base).parent) as folder:
            out = Path(folder, "merged")
            mergery.merge(recipe(0.3 + 1e-3 * next(step), 0.4 + 1e-3 * next(step)), out)
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
                found[name]["tensors"] = live.made
    live.close()
    return {"machine": machine(), "size": size, "ways": found}


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
        f"(`benchmarks/searching.py`, {kept['machine']}):",
        "",
        *table(columns, rows),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
