"""Pages of figures: data that grow from run to run in `benchmarks/figures`, and what the pages are made of."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def figures(name: str) -> dict[str, Any]:
    """The figures that a page shows; nothing where none were measured."""
    path = HERE / "figures" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def keep(name: str, data: dict[str, Any]) -> None:
    """Write the figures of a page."""
    (HERE / "figures" / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], left: Sequence[str] = ()) -> list[str]:
    """A table in Markdown, numbers to the right; `left` names columns of words besides the first."""
    rule = "".join("---|" if number == 0 or column in left else "--:|" for number, column in enumerate(columns))
    lines = ["| " + " | ".join(columns) + " |", f"|{rule}"]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def linked(name: str) -> str:
    """A method's name, with its place in the list of methods."""
    return f"[{name}](methods.md#{name})"


def fold(title: str, lines: Sequence[str]) -> list[str]:
    """What a reader opens only when wanted; the site and GitHub both show it."""
    return ["<details markdown>", f"<summary>{title}</summary>", "", *lines, "", "</details>", ""]


def machine() -> str:
    """Where the figures were measured. Clouds name all processors of a maker alike: what decides their speed is added."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    wide = ", AVX-512" if any("avx512f" in line.split() for line in lines) else ""
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({names[0] if names else platform.machine()}{wide}), Python {platform.python_version()}"
