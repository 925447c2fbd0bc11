"""What merges keep of a model's thinking, with and without `protect`.

    python -m benchmarks.thinking                 train, merge, score, and write the figures into docs/protect.md
    python -m benchmarks.thinking --page          write them again, without measuring

Three seeds of `thinking_world`: a base, a thinker, a formatter. Each merge answers held-out prompts, plain ones and ones that
ask for an ending; it is measured how many answers hold one closed block, how many are right behind it, how many end as asked.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.pages import HERE, figures, keep, table

PAGE = HERE.parent / "docs" / "protect.md"
BLOCK = re.compile(r"(<!-- made: python -m benchmarks\.thinking -->\n\n).*?(<!-- end -->)", re.S)
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
COUNT, TRACES = 200, 40
ENERGY, SCALES = 0.95, (0.5, 1.0, 1.5)
PROTECT = {"tokens": ["<think>", "</think>"], "energy": ENERGY}


def merges(folder: Path) -> dict[str, dict[str, Any]]:
    """Recipes by name."""
    models = {name: str(folder / name) for name in ("base", "thinker", "formatter")}
    traces = {"data": str(folder / "traces.jsonl"), **PROTECT}

    def recipe(**merge: Any) -> dict[str, Any]:
        return {"models": models, "merge": merge}

    two = {"base": "base", "models": ["thinker", "formatter"]}
    found = {
        "linear, 0.5": recipe(method="linear", models=["thinker", "formatter"]),
        "task arithmetic, 0.6": recipe(method="task_arithmetic", scale=0.6, **two),
        "task arithmetic, 1": recipe(method="task_arithmetic", scale=1.0, **two),
        "TIES, 0.5": recipe(method="ties", density=0.5, **two),
    }
    for scale in SCALES:
        step = recipe(method="analogy", base="thinker", models=["base", "formatter"], scale=scale)
        found[f"thinker + {scale:g} (formatter - base)"] = step
    found["linear, 0.5"]["models"] = {name: models[name] for name in ("thinker", "formatter")}
    return found | {
        f"{name}, protected": {**each, "protect": {**traces, "model": "thinker"}} for name, each in found.items()
    }


def measure(cache: Path, seeds: int) -> dict[str, Any]:
    """All figures, seed by seed; what is there already is not measured again."""
    os.environ["XDG_CACHE_HOME"] = str(cache / "statistics")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers
    from benchmarks.thinking_world import END, Settings, train, write_tasks, write_traces

    import mergery
    from mergery.evaluation import EvaluationOptions

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        folder = cache / f"thinking-{seed}"
        began = time.process_time()
        if not (folder / "complete.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            train(folder, Settings(seed=seed))
            print(f"seed {seed}: trained in {time.process_time() - began:.0f} s", flush=True)
        tasks = write_tasks(folder, COUNT)
        write_traces(folder, TRACES)
        models: dict[str, Any] = {name: folder / name for name in ("base", "thinker", "formatter")}
        for name, model in {**models, **merges(folder)}.items():
            found = mergery.evaluate(model, tasks, options=EvaluationOptions(threads=1), results=folder / "results")
            row = {}
            for task in found.tasks:
                row |= {f"{task.task} {metric.name}": float(task.scores[metric.name]) for metric in task.metrics}
                row[f"{task.task} ends"] = float(
                    np.mean([outcome.details["text"].endswith(END) for outcome in task.items])
                )
            rows.setdefault(name, []).append(row)
            print(
                f"seed {seed}: {name}: {json.dumps({key: round(value, 2) for key, value in row.items()})}", flush=True
            )
    return {"seeds": seeds, "items": COUNT, "energy": ENERGY, "traces": TRACES, "rows": rows}


def shown(values: Sequence[float], scale: float = 100.0) -> str:
    """A mean and its 95 % interval over seeds."""
    mean = scale * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.0f}"
    half = scale * STUDENT.get(len(values), 2.0) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{mean:.0f} ± {half:.0f}"


def page(data: Mapping[str, Any]) -> str:
    """The page with its figures."""
    columns = {
        "plain closed": "plain: block closed",
        "plain match": "right",
        "asked closed": "asked: block closed",
        "asked ends": "ends as asked",
        "asked match": "right and ends as asked",
        "asked length": "tokens",
    }
    rows = [
        [name, *(shown([each[key] for each in found], 1.0 if key.endswith("length") else 100.0) for key in columns)]
        for name, found in data["rows"].items()
    ]
    lines = [
        *table(["", *columns.values()], rows),
        "",
        f"Percent of {data['items']} held-out prompts of each kind, and tokens of an answer; means and 95 % intervals over "
        f"{data['seeds']} seeds. "
        f"Protected are both markers in {data['traces']} traces of the thinker, with energy {data['energy']}.",
        "",
    ]
    return BLOCK.sub(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], PAGE.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.thinking", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="write the page again, without measuring")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=HERE / ".cache" / "thinking")
    options = parser.parse_args()
    if not options.page:
        keep("thinking", measure(options.cache, options.seeds))
    PAGE.write_text(page(figures("thinking")), encoding="utf-8")


if __name__ == "__main__":
    main()
