"""Tables for notebooks: plain HTML, in the notebook's own style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of texts and numbers."""
    titles = "".join(f"<th>{escape(each)}</th>" for each in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>"


def listed(sentences: Iterable[str]) -> str:
    """Sentences, one below the other; nothing for none."""
    lines = "".join(f"<li>{escape(each)}</li>" for each in sentences)
    return f"<ul>{lines}</ul>" if lines else ""
