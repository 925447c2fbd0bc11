"""Anchors of language models beside real text: how much of what they make a block see real text makes it see as well.

    python -m benchmarks.fda.text
    python -m benchmarks.fda.text --start gauss

The zoo's sequences: small Llamas, MLPs of blocks, 256 anchors each; real text is 64 items of each expert's skill.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.pages import HERE, figures, keep
from benchmarks.zoo.run import Scope, worlds
from benchmarks.zoo.with_data import SAMPLES, DataBench

import mergery

STEPS = (0, 40, 200)
STARTS = ("gauss", "weights")
ANCHORS = mergery.AnchorOptions(anchors=256)


def measure(cache: Path, seed: int, starts: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each beginning and number of steps: means over blocks and experts."""
    world = worlds(Scope(cache))["sequences"]
    zoo = world.prepare(cache, seed, print)
    bench = DataBench(zoo, cache / f"notes with data sequences {seed}.jsonl", world.skills)
    recipe = bench.recipe("task_arithmetic", {"scale": 0.3})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        statistics = {skill: Path(folder) / skill for skill in world.skills}
        for skill, place in statistics.items():
            options = mergery.CalibrationOptions(("gram",), threads=1)
            mergery.calibrate(zoo.expert(skill), bench.data(skill, SAMPLES), place, options=options)
        for start in starts:
            for steps in STEPS:
                options, place = replace(ANCHORS, start=start, steps=steps), Path(folder) / f"{start}-{steps}"
                began = time.process_time()
                mergery.find_anchors(recipe, place, options=options, threads=1)
                seconds = time.process_time() - began
                found = mergery.inspect_anchors(recipe, place, statistics=statistics)["anchors"]
                means = {key: float(np.mean([each[key] for each in found])) for key in ("alike", "kept", "directions")}
                loss = float(np.mean([each["losses"][-1] for each in found]))
                rows.append({"start": start, "steps": steps, "seconds": seconds, "loss": loss, **means})
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fda.text", description=__doc__)
    parser.add_argument("--start", choices=STARTS, action="append", help="one beginning alone")
    wanted = parser.parse_args().start or STARTS
    found = measure(HERE / ".cache/zoo", 0, wanted)
    kept = [row for row in figures("fda-text").get("rows", ()) if row["start"] not in wanted]
    keep("fda-text", {"rows": [*kept, *found]})


if __name__ == "__main__":
    main()
