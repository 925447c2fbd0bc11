"""What it costs to read a matrix in other coordinates, beside reading it as it is and writing it on.

    python -m benchmarks.moving [--beside SRC] [--turns N]

One bfloat16 matrix of Llama 3.1 8B's MLP, in either direction, in a file that the system holds in memory. It is made by the
engine, window by window, on one core: as it is stored, with rows in another order, with columns, with both, and with signs
as well. `copy` is numpy's copy of an array of that size. Each figure is the least processor time of five. With `--beside`, the
sources of another version of the package (its `src` folder) are measured in turns with these, each in a process of its own.
Prints a table; the figures in docs/alignment.md are of this script.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES = ((4096, 14336), (14336, 4096))
ROOT = Path(__file__).resolve().parents[1]


def measured(folder: Path) -> dict[str, float]:
    """Seconds of a core, by shape and what is done."""
    import numpy as np

    from mergery.checkpoints import open_checkpoint
    from mergery.engine import Shared, Workspace, evaluator
    from mergery.graph.nodes import Node, Stored
    from mergery.views.transforms.applying import changed
    from mergery.views.transforms.operators import Operator

    found: dict[str, float] = {}

    def keep(name: str, act: Any) -> None:
        act()
        best = 1e9
        for _ in range(5):
            begun = time.thread_time()
            act()
            best = min(best, time.thread_time() - begun)
        found[name] = best

    for height, width in SHAPES:
        checkpoint = open_checkpoint(folder / f"{height}.safetensors")
        node = Stored("model", checkpoint, checkpoint.tensors["matrix"])
        rng = np.random.default_rng(0)
        rows, columns = (Operator(rng.permutation(size)) for size in (height, width))
        signed = Operator(columns.order, np.where(rng.random(width) < 0.5, -1, 1).astype(np.float32))
        views: dict[str, Node] = {
            "as it is": node,
            "rows": changed("matrix", node, rows, None),
            "columns": changed("matrix", node, None, columns),
            "rows and columns": changed("matrix", node, rows, columns),
            "with signs": changed("matrix", node, rows, signed),
        }
        out = np.zeros(node.elements * 2, np.uint8)
        again = np.zeros_like(out)
        keep(f"{height} x {width}, copy", lambda into=again, of=out: np.copyto(into, of))
        for name, view in views.items():

            def made(view: Node = view, out: Any = out, dtype: Any = node.dtype) -> None:
                each = evaluator(view, Shared(), Workspace())
                each.prepare()
                for start, stop in each.outputs():
                    each.compute(start, stop, out[2 * start : 2 * stop], dtype)

            keep(f"{height} x {width}, {name}", made)
    return found


def write(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for height, width in SHAPES:
        matrix = torch.randn(height, width, generator=torch.Generator().manual_seed(0)).bfloat16()
        save_file({"matrix": matrix}, folder / f"{height}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measured(options.folder)))
        return
    sources = {"now": ROOT / "src"} | ({"beside": options.beside.resolve()} if options.beside else {})
    best: dict[str, dict[str, float]] = {name: {} for name in sources}
    with tempfile.TemporaryDirectory() as kept:
        write(Path(kept))
        for _ in range(options.turns):
            for name, source in sources.items():
                own = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(ROOT)]), "OMP_NUM_THREADS": "1"}
                command = [sys.executable, "-m", "benchmarks.moving", "--folder", kept]
                said = subprocess.run(command, cwd=ROOT, env=own, check=True, capture_output=True, text=True).stdout
                for what, value in json.loads(said).items():
                    best[name][what] = min(value, best[name].get(what, value))
    for what in best["now"]:
        print(f"{what:36}", *(f"{name} {each[what]:.3f}" for name, each in best.items()))


if __name__ == "__main__":
    main()
