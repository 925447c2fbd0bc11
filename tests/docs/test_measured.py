"""The measured pages are what their scripts make of the figures that are kept."""

from __future__ import annotations

import re

import pytest

from benchmarks import (
    adapters,
    baking,
    finding,
    finding_page,
    fusing,
    layer,
    merging_adapters,
    methods_cost,
    pages,
    quantised,
    ranks,
    real,
    rebasing,
    scaling,
    searching,
    speed,
    thinking,
    waiting,
)  # fmt: skip
from tests.docs.pages import read


@pytest.mark.parametrize(
    ("script", "kept", "page", "more"),
    [
        (speed, "performance", "docs/performance.md", ()),
        (methods_cost, "methods-cost", "docs/methods-cost.md", ()),
        (scaling, "scaling", "docs/scaling.md", ("scaling.png",)),
    ],
)
def test_the_page_is_the_scripts(script, kept, page, more):
    hint = f"run: python -m {script.__name__} --page --write {page}"
    assert script.page(pages.figures(kept), *more) == read(page), hint


@pytest.mark.parametrize(
    ("script", "kept", "page"),
    [
        (adapters, "adapters", "docs/adapters.md"),
        (baking, "baking", "docs/adapters.md"),
        (merging_adapters, "merging-adapters", "docs/adapters.md"),
        (ranks, "ranks", "docs/adapters.md"),
        (thinking, "thinking", "docs/protect.md"),
    ],
)
def test_the_figures_of_a_block_are_the_scripts(script, kept, page):
    assert script.BLOCK.search(read(page)), f"{page} has no place for the figures of {script.__name__}"
    assert script.page(pages.figures(kept)) == read(page), f"run: python -m {script.__name__} --page"


@pytest.mark.parametrize(
    ("script", "kept", "page"),
    [(quantised, "quantised", "docs/quantised.md"), (rebasing, "rebasing", "docs/rebase.md")],
)
def test_the_figures_within_a_page_are_the_scripts(script, kept, page):
    assert script.page(pages.figures(kept), read(page)) == read(page), f"run: python -m {script.__name__} --page"


def test_the_figures_of_anchors_are_the_scripts():
    from benchmarks.fda import report

    assert report.page(pages.figures("fda")) == read("docs/fda.md"), "run: python -m benchmarks.fda --page"


def test_the_figures_of_searches_are_the_scripts():
    text, hint = read("docs/search.md"), "run: python -m benchmarks.{} --page --write docs/search.md"
    found = finding_page.page(pages.figures("finding"), finding.DRAWN, len(finding.METHODS))
    assert "\n".join(found) in text, hint.format("finding")
    assert "\n".join(searching.page()) in text, hint.format("searching")


def test_the_page_of_the_real_model_is_the_scripts():
    assert "\n".join(real.page(pages.figures("real"))) + "\n" == read("docs/real.md")


def test_the_figures_of_fusion_are_the_scripts():
    found = read("docs/fusion.md").split(fusing.BEGIN)[1].split(fusing.END)[0]
    assert found == "\n".join(fusing.page()), "run: python -m benchmarks.fusing --page --write docs/fusion.md"


def test_waiting_times_are_those_that_the_plan_foretells_today():
    """Times alone: memory is also that of the torch that is installed."""
    shown, told = read("docs/choosing.md"), read("README.md")
    for method, alike, short, long, *_ in waiting.rows():
        row = f"| {method} | {alike} | {short} | {long} |"
        assert row in shown, "run: python -m benchmarks.waiting --write docs/choosing.md"
        if method in ("`iso_c`", "`tsv_merge`"):
            assert f"{method}" in told and f"| {short} | {long} |" in told


@pytest.mark.parametrize("method", ["iso_c", "tsv_merge", "swudi_a"])
def test_plans_of_a_large_model_are_those_of_today(method):
    hours, _ = layer.whole(method, "8B")
    kept = pages.figures("layer")["plans"][method][0]
    assert round(hours, 2) == kept, "run: python -m benchmarks.layer --plans, then methods_cost --page"


def test_no_measured_page_keeps_the_developers_books():
    for page in ("performance", "methods-cost", "scaling", "which-method"):
        text = read(f"docs/{page}.md")
        assert not re.search(r"\|[^|\n]*\b(goal|missed)\b[^|\n]*\|", text)
        shown = re.sub(r"<details.*?</details>", "", text, flags=re.S)
        assert max(line.count("|") for line in shown.splitlines()) <= 8, "wide tables are folded"


def test_the_figures_of_alignment_are_the_scripts():
    from benchmarks import alignment

    text, hint = read("docs/alignment.md"), "run: python -m benchmarks.alignment --page"
    assert alignment.page(pages.figures("alignment"), text) == text, hint


def test_the_figures_of_transport_are_the_scripts():
    from benchmarks.transport import report

    page = report.page(pages.figures("transport"))
    assert page == read("docs/transport.md"), "run: python -m benchmarks.transport --page"
