"""Write the pages of reference, or say which of them are no longer what the program is.

python -m benchmarks.reference            write docs/methods.md, command-line.md, python.md, and the lists of other pages
python -m benchmarks.reference --check    only say which differ
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.reference import command_line, library, recipes

from mergery.method import catalogue

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES: dict[str, Callable[[str], str]] = {  # of the page as it is, what it should be
    "methods.md": lambda text: catalogue.page(),
    "command-line.md": lambda text: command_line.page(),
    "python.md": lambda text: library.page(),
    "recipe.md": recipes.filled,
    "which-tensors.md": recipes.filled,
}


def outdated() -> dict[str, str]:
    """The pages that differ from what they should be, as they should be."""
    found = {}
    for name, make in PAGES.items():
        path = DOCS / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        wanted = make(text)
        if wanted != text:
            found[name] = wanted
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for name, text in (found := outdated()).items():
        if options.check:
            print(f"docs/{name} is not what the program is: run python -m benchmarks.reference", file=sys.stderr)
        else:
            (DOCS / name).write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
    sys.exit(1 if options.check and found else 0)


if __name__ == "__main__":
    main()
