"""`python -m benchmarks.zoo`: train, merge, score, and write docs/which-method.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.zoo.report import ITEMS, write
from benchmarks.zoo.run import Scope, run_all
from benchmarks.zoo.summary import broken, record

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a miniature, for tests")
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".cache/zoo", help="where trained models are kept")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page and its pictures, and the record")
    parser.add_argument("--record", type=Path, default=HERE / "record.json", help="what scores are held to")
    options = parser.parse_args()
    started = time.perf_counter()

    def report(line: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {line}", flush=True)

    results = run_all(Scope(options.cache, options.seeds, options.quick), report)
    now = record(results, min(ITEMS.values()))
    wrong = broken(now, json.loads(options.record.read_text())) if options.record.exists() and not options.quick else []
    if options.write:
        write(results, options.write)
        if not options.quick:
            options.record.write_text(json.dumps(now, indent=1) + "\n")
        report(f"wrote {options.write}")
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
