"""The measured pages are what their scripts make of the figures that are kept."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.docs.pages import ROOT, read


@pytest.mark.parametrize(
    ("script", "page", "more"),
    [
        ("speed", "docs/performance.md", ()),
        ("methods_cost", "docs/methods-cost.md", ()),
        ("scaling", "docs/scaling.md", ("scaling.png",)),
    ],
)
def test_the_page_is_the_scripts(script, page, more, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module, figures = importlib.import_module(script), importlib.import_module("pages").figures
    data = figures({"speed": "performance", "methods_cost": "methods-cost"}.get(script, script))
    assert module.page(data, *more) == read(page), f"run: python benchmarks/{script}.py --page --write {page}"


def test_the_figures_of_adapters_are_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module, figures = importlib.import_module("adapters"), importlib.import_module("pages").figures
    assert module.page(figures("adapters")) == read("docs/adapters.md"), "run: python benchmarks/adapters.py --page"


def test_the_figures_of_quantised_models_are_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module, figures = importlib.import_module("quantised"), importlib.import_module("pages").figures
    text = read("docs/quantised.md")
    assert module.page(figures("quantised"), text) == text, "run: python benchmarks/quantised.py --page"


def test_the_figures_of_other_bases_are_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module, figures = importlib.import_module("rebasing"), importlib.import_module("pages").figures
    text = read("docs/rebase.md")
    assert module.page(figures("rebasing"), text) == text, "run: python benchmarks/rebasing.py --page"


@pytest.mark.parametrize(("script", "page"), [("thinking", "protect"), ("fda.report", "fda")])
def test_the_figures_of_small_models_are_the_scripts(script, page, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module, figures = importlib.import_module(f"benchmarks.{script}"), importlib.import_module("pages").figures
    command = f"python -m benchmarks.{script.partition('.')[0]} --page"
    assert module.page(figures(script.partition(".")[0])) == read(f"docs/{page}.md"), f"run: {command}"


def test_the_figures_of_searches_are_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from benchmarks.finding import DRAWN, METHODS
    from benchmarks.finding_page import page
    from benchmarks.pages import figures

    text, hint = read("docs/search.md"), "run: python -m benchmarks.finding --page --write docs/search.md"
    assert "\n".join(page(figures("finding"), DRAWN, len(METHODS))) in text, hint
    searching = importlib.import_module("searching")
    assert "\n".join(searching.page()) in text, "run: python benchmarks/searching.py --page --write docs/search.md"


def test_the_page_of_the_real_model_is_the_scripts():
    from benchmarks.pages import figures
    from benchmarks.real import page

    assert "\n".join(page(figures("real"))) + "\n" == read("docs/real.md")


def test_the_figures_of_fusion_are_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("fusing")
    found = read("docs/fusion.md").split(module.BEGIN)[1].split(module.END)[0]
    assert found == "\n".join(module.page()), "run: python benchmarks/fusing.py --page --write docs/fusion.md"


def test_waiting_times_are_those_that_the_plan_foretells_today(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("waiting")
    rows = module.rows()
    text = "\n".join(module.table(module.COLUMNS, rows, left=module.LEFT))
    assert text in read("docs/choosing.md"), "run: python benchmarks/waiting.py --write docs/choosing.md"
    times = {method: f"| {short} | {long} |" for method, _, short, long, *_ in rows}
    told = [line for line in read("README.md").splitlines() if line.startswith("| the same, and a")]
    assert [times["`iso_c`"] in told[0], times["`tsv_merge`"] in told[1]] == [True, True]


def test_no_measured_page_keeps_the_developers_books():
    for page in ("performance", "methods-cost", "scaling", "which-method"):
        text = read(f"docs/{page}.md")
        assert not re.search(r"\|[^|\n]*\b(goal|missed)\b[^|\n]*\|", text)
        shown = re.sub(r"<details.*?</details>", "", text, flags=re.S)
        assert max(line.count("|") for line in shown.splitlines()) <= 8, "wide tables are folded"


def test_the_figures_of_alignment_are_the_scripts():
    module = importlib.import_module("benchmarks.alignment")
    text = read("docs/alignment.md")
    wanted = "run: python -m benchmarks.alignment --page"
    assert module.page(importlib.import_module("benchmarks.pages").figures("alignment"), text) == text, wanted


def test_the_figures_of_transport_are_the_scripts():
    report = importlib.import_module("benchmarks.transport.report")
    data = importlib.import_module("benchmarks.pages").figures("transport")
    assert report.page(data) == read("docs/transport.md"), "run: python -m benchmarks.transport --page"
