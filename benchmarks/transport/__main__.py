"""`python -m benchmarks.transport [SEEDS]` trains pairs, transports, measures and keeps the figures; `--page` writes the page.

What is done is kept in benchmarks/.cache, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from benchmarks.pages import figures, keep, machine

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "transport"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transport", description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--page", action="store_true", help="write the page again, without measuring")
    options = parser.parse_args()
    if not options.page:
        from benchmarks.transport.measure import Measuring, collected, texts_of
        from benchmarks.transport.pairs import corpora, train

        torch.set_num_threads(1)
        prose, code = corpora()
        for seed in options.seeds:
            folder = CACHE / str(seed)
            folder.mkdir(parents=True, exist_ok=True)
            train(folder, seed)
            Measuring(folder, seed, texts_of(prose, code)).run()
            keep("transport", {**figures("transport"), "machine": machine(), "seeds": list(collected(CACHE))})
        if "planted" not in figures("transport"):
            from benchmarks.transport.planted import measure

            keep("transport", {**figures("transport"), "planted": measure()})
    from benchmarks.transport.report import PAGE, page

    PAGE.write_text(page(figures("transport")), encoding="utf-8")


if __name__ == "__main__":
    main()
