"""Links of all pages lead somewhere: to files, to headings, and from the site into the repository."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/mergery/mergery/"
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "demo/README.md",
    ROOT / "benchmarks/zoo/README.md",
]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "`code`", text)


@cache
def headings(page: Path) -> set[str]:
    """The anchors of a page, as the site and GitHub make them of its headings."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = re.findall(r"^#+ +(.+?) *$", text, re.M)
    words = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in found]
    return {re.sub(r"[^\w\- ]", "", word.lower()).strip().replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)", prose(page)):
        path, _, anchor = target.partition("#")
        if target.startswith(REPOSITORY):
            kind, _, path = target.removeprefix(REPOSITORY).partition("#")[0].partition("/main/")
            file = ROOT / path
            assert kind not in ("blob", "tree") or file.exists(), f"{named(page)} links to {target}"
            continue
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (page.parent / path) if path else page
        assert file.exists(), f"{named(page)} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor in headings(file), f"{named(page)} links to {target}, and no heading there is called so"


def test_pages_of_the_site_link_to_no_file_beyond_it():
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^)\s#]+)", prose(page)):
            if "://" not in target:
                inside = (page.parent / target).resolve().is_relative_to(ROOT / "docs")
                assert inside, f"{named(page)} links to {target}: write {REPOSITORY}blob/main/..."


def test_every_page_is_in_the_navigation():
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        each = entry.values() if isinstance(entry, dict) else entry
        return [page for part in each for page in pages(part)]  # type: ignore[union-attr]

    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    written = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert written == set(pages(config["nav"]))
