"""`python -m benchmarks.fda`: find anchors, refine on them, score, and write docs/fda.md."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.fda.run import Scope, measure
from benchmarks.pages import HERE, figures, keep

PAGE = HERE.parent / "docs" / "fda.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fda", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a miniature, for tests: nothing is written")
    parser.add_argument("--long", action="store_true", help="also a search of 1200 steps, of the first seed")
    parser.add_argument("--cache", type=Path, default=HERE / ".cache/fda", help="where all that is found is kept")
    parser.add_argument("--page", action="store_true", help="write the page again, without measuring")
    options = parser.parse_args()
    from benchmarks.fda.report import draw, page

    began = time.perf_counter()
    if not options.page:
        found = measure(
            Scope(options.cache, options.seeds, options.quick, options.long),
            lambda line: print(f"{time.perf_counter() - began:6.0f} s  {line}", flush=True),
        )
        if options.quick:
            return
        keep("fda", found)
    draw(figures("fda"), PAGE.with_name("fda.png"))
    PAGE.write_text(page(figures("fda")), encoding="utf-8")


if __name__ == "__main__":
    main()
