"""`python -m benchmarks.zoo`: train, merge, score, and write docs/which-method.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.pages import figures, keep
from benchmarks.zoo import foretelling, real_page
from benchmarks.zoo.report import told, write
from benchmarks.zoo.run import EFFECTS, REAL, WORLDS, Scope, run_all
from benchmarks.zoo.summary import broken, record

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ADVISED = "src/mergery/report/advised.py"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    every = (*WORLDS, EFFECTS, REAL)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--worlds", nargs="*", choices=every, default=(*WORLDS, EFFECTS), help="the parts to run")
    parser.add_argument(
        "--page", action="store_true", help="run nothing: write the page from the figures that are kept"
    )
    parser.add_argument("--known", action="store_true", help="measure nothing more: what a stopped run has measured")
    parser.add_argument("--quick", action="store_true", help="a miniature, for tests")
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".cache/zoo", help="where trained models are kept")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page and its pictures, and the record")
    parser.add_argument("--record", type=Path, default=HERE / "record.json", help="what scores are held to")
    options = parser.parse_args()
    started = time.perf_counter()

    def report(line: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {line}", flush=True)

    if options.page:
        write(figures("zoo"), options.write or ROOT / "docs/which-method.md")
        (ROOT / ADVISED).write_text(told(figures("zoo")))
        (ROOT / foretelling.PLACE).write_text(foretelling.source(figures("zoo")))
        return
    results = run_all(Scope(options.cache, options.seeds, options.quick, options.worlds, options.known), report)
    now = record({name: seeds for name, seeds in results.items() if name != REAL})
    before = json.loads(options.record.read_text()) if options.record.exists() and not options.quick else {}
    wrong = broken(now, before)
    if options.write:
        if not options.quick:  # what was not run this time is as it was
            former = figures("zoo")
            for seed, found in results.get(REAL, {}).items():
                results[REAL][seed] = real_page.succeed(found, former.get(REAL, {}).get(seed))
            results = {name: {**former, **results}[name] for name in order({**former, **results})}
            keep("zoo", results)
            (ROOT / ADVISED).write_text(told(results))
            (ROOT / foretelling.PLACE).write_text(foretelling.source(results))
            options.record.write_text(json.dumps({**before, **now}, indent=1) + "\n")
        write(results, options.write)
        report(f"wrote {options.write}")
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


def order(results: dict[str, object]) -> list[str]:
    """Parts as the page shows them."""
    first = [name for name in (*WORLDS, REAL) if name in results]
    return [*first, *(name for name in results if name not in first)]


if __name__ == "__main__":
    main()
