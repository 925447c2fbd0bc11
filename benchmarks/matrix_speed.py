"""Methods on matrices, one matrix at a time: processor time and memory, against the papers' formulas and an earlier commit.

    python -m benchmarks.matrix_speed [--shapes 4096x4096 ...] [--only METHOD ...] [--against COMMIT] [--again now]

Three fine-tunes in bfloat16, which share half of what they learned; singular values fall as the root of their number. Each
figure is the processor time of one thread in a process of its own, and the most memory that it reaches; what is compared is
measured one after the other. What was measured is kept in `figures/matrix-speed.json` at once, by machine, and measured anew
only where `--again` names it: the present code is then compared with what was measured before. `python -m
benchmarks.methods_cost --page` shows it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.pages import HERE, figures, keep, machine
from benchmarks.published_matrices import METHODS

ROOT = HERE.parent
CACHE = HERE / ".cache"
SHAPES = ("2048x2048", "7168x2048", "2048x7168")
EXPERTS, LENGTH, BASE = 3, 5e-4, 0.02  # the models merged, and the root mean square of task vectors and base
CORNER = 520  # rows and columns that are merged before, large enough for what large matrices need
PUBLISHED = "published"


def matrices(out: int, into: int) -> Path:
    """The base and its fine-tunes, written once."""
    path = CACHE / f"matrices-{out}x{into}.pt"
    if path.exists():
        return path
    import torch

    generator = torch.Generator().manual_seed(out * 100_003 + into)
    small = min(out, into)
    fall = torch.arange(1, small + 1).float() ** -0.5

    def learned() -> torch.Tensor:
        left, right = torch.randn(out, small, generator=generator), torch.randn(small, into, generator=generator)
        return (left * fall) @ right

    base, shared = (torch.randn(out, into, generator=generator) * BASE).bfloat16(), learned()
    models = []
    for _ in range(EXPERTS):
        delta = shared + learned()
        models.append((base.float() + delta * (LENGTH / delta.square().mean().sqrt())).bfloat16())
    CACHE.mkdir(exist_ok=True)
    torch.save([base, *models], path)
    return path


def child(package: str, name: str, path: str) -> None:
    """Merge once, and print seconds and MB; in a process of its own, with the package that is on its path. A corner of the
    matrices is merged first, so that what is loaded once for all matrices is loaded.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    base, *models = [each.float() for each in torch.load(path)]
    method: Any = (
        METHODS[name] if package == PUBLISHED else getattr(importlib.import_module(f"{package}.methods"), name)
    )

    def merge(rows: int, columns: int) -> float:
        parts = [each[:rows, :columns].contiguous() for each in (base, *models)]
        given = [[part - parts[0] for part in parts[1:]]] if package == PUBLISHED else [parts[1:], parts[0]]
        started = time.process_time()
        method(*given)
        return time.process_time() - started

    with threadpool_limits(1):
        merge(CORNER, CORNER)
        seconds = merge(*base.shape)
    print(json.dumps([round(seconds, 2), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024]))


def measured(package: str, name: str, path: Path, source: Path | None) -> list[float]:
    """Seconds and MB of one merge, by the package in `source` and these scripts."""
    command = [sys.executable, "-m", "benchmarks.matrix_speed", "--child", package, name, str(path)]
    paths = [str(source), str(ROOT)] if source else [str(ROOT)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def checked_out(commit: str | None) -> Iterator[Path | None]:
    """The sources of a commit, in a folder for a while."""
    if commit is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as place:
        archive = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "x", "-C", place], input=archive.stdout, check=True)
        yield Path(place) / "src"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.matrix_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="OUTxIN")
    parser.add_argument("--only", nargs="+", default=list(METHODS), metavar="METHOD", choices=list(METHODS))
    parser.add_argument("--against", metavar="COMMIT", help="measure the code of a commit as well")
    parser.add_argument(
        "--again", nargs="+", default=[], metavar="WHAT", help="measure what is there already: now, published, COMMIT"
    )
    parser.add_argument("--child", nargs=3, metavar=("PACKAGE", "METHOD", "FILE"), help="merge once, and nothing else")
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    with checked_out(options.against) as source:
        packages: list[tuple[str, str, Path | None]] = [("now", "mergery", ROOT / "src")]
        if source is not None:
            packages.insert(0, (str(options.against), next(path.name for path in source.iterdir()), source))
        packages.append((PUBLISHED, PUBLISHED, None))
        for shape in options.shapes:
            for name in options.only:
                measure(shape, name, packages, again=options.again)


def measure(shape: str, name: str, packages: list[tuple[str, str, Path | None]], *, again: list[str]) -> None:
    """One method on one shape, by all that are compared."""
    path = matrices(*map(int, shape.split("x")))
    for label, package, source in packages:
        data = figures("matrix-speed") or {"machines": {}}
        found = data["machines"].setdefault(machine(), {}).setdefault(shape, {}).setdefault(name, {})
        if label in found and label not in again:
            continue
        found[label] = measured(package, name, path, source)
        keep("matrix-speed", data)
        print(f"{shape} {name} {label}: {found[label][0]:.2f} s, {found[label][1]:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
