"""Merges a tiny model of every family and writes the table of docs/families.md.

    python -m benchmarks.families --write docs/families.md

Each family is made by transformers (or, where its code stands on the hub alone, as files with its published names and
shapes), fine-tuned twice by small random steps, and merged through the command line. See `mergery.testing.families.checking`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from mergery.method import methods
from mergery.testing.families import FAMILIES
from mergery.testing.families.checking import GOOD, METHODS, ONE, check

START, END = "<!-- table: benchmarks/families.py -->", "<!-- end of table -->"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.families", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=(), help="names of families")
    parser.add_argument("--write", type=Path, help="the page whose table is exchanged")
    arguments = parser.parse_args()
    quieten()
    chosen = [family for family in FAMILIES if not arguments.only or family.name in arguments.only]
    here = [method for method in METHODS if method in methods()]
    rows, failures = [], 0
    started = time.perf_counter()
    for family in chosen:
        answers = examine(family, here)
        bad = {key: answer for key, answer in answers.items() if answer not in (GOOD, ONE) and key != "tensors"}
        failures += len(bad)
        print(
            f"{family.name:20} {'; '.join(f'{key}: {answer}' for key, answer in bad.items()) or 'all good'}", flush=True
        )
        rows.append(row(family, answers))
    seconds = time.perf_counter() - started
    print(f"{len(chosen)} families, {failures} failures, {seconds:.0f} s")
    if arguments.write and not arguments.only:
        write(arguments.write, rows, failures)
    return 1 if failures else 0


def quieten() -> None:
    """Keep progress bars and notes of other libraries out of the output."""
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def examine(family, here: list[str]) -> dict[str, str]:
    """A family's answers; an exception is one that stands for all."""
    folder = Path(tempfile.mkdtemp(prefix="families-"))
    try:
        return check(family, folder, here)
    except Exception as error:
        traceback.print_exc()
        return dict.fromkeys((*here, "itself", "spellings"), f"{type(error).__name__}: {error}"[:200]) | {
            "tensors": "?"
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def row(family, answers: dict[str, str]) -> str:
    """The table's line for a family."""
    loads = "transformers" if family.auto else "files" if family.kind != "exaone" else "files, as Llama"
    cells = [f"**{family.name}**", family.covers, f"`{family.kind}`", answers["tensors"], loads]
    cells += [answers.get(method, "not here yet") for method in METHODS]
    cells += [answers["itself"], answers["spellings"]]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write(page: Path, rows: list[str], failures: int) -> None:
    """Exchange the table of a page."""
    import transformers

    head = ["family", "models", "model type", "tensors", "loaded by", *METHODS, "itself", "two spellings"]
    lines = [
        f"{len(rows)} families, {failures} failures, with transformers {transformers.__version__}.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *rows,
    ]
    text = page.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n{chr(10).join(lines)}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
