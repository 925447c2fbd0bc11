"""Pages of figures that grow: rows that a run does not measure again stay."""

from __future__ import annotations

from pathlib import Path


def rows_of(page: Path | None) -> dict[str, str]:
    """The rows of the tables on a page, by their first cell; headings are among them. Nothing where there is no page."""
    lines = page.read_text().splitlines() if page and page.exists() else []
    return {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
