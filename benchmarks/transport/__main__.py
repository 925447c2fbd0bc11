"""`python -m benchmarks.transport [SEEDS]` trains pairs, transports, measures and keeps the figures; `--page` writes the page.

What is done is kept in benchmarks/.cache, so that a run that was stopped goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from benchmarks.pages import figures, keep, machine

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "transport"


def main(arguments: list[str]) -> None:
    if "--page" not in arguments:
        from benchmarks.transport.measure import Measuring, collected, texts_of
        from benchmarks.transport.pairs import corpora, train

        torch.set_num_threads(1)
        prose, code = corpora()
        for seed in [int(each) for each in arguments] or [0, 1, 2]:
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
    main(sys.argv[1:])
