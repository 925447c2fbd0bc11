"""Every command and every snippet of the README is run, in both languages."""

from __future__ import annotations

import re

import pytest

from mergery.method import methods
from mergery.testing.families import FAMILIES
from tests.docs.pages import blocks, read, run, sections

PAGES = ("README.md", "README.ko.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_page_can_be_followed(page, home, mergery):
    ran = run(blocks(read(page)), home, mergery)
    assert any(command.startswith("mergery merge recipe.yaml") for command in ran)
    for folder in ("merged", "merged-too", "merged-again"):
        assert (home / folder / "model.safetensors").exists()


@pytest.mark.parametrize("page", PAGES)
def test_it_opens_with_what_a_stranger_needs(page):
    text = read(page)
    place = [text.index(word) for word in ("pip install", "mergery merge", "first-merge.md", "choosing.md")]
    assert place[:2] == sorted(place[:2])
    assert text[: place[1]].count("\n") <= 40, "the first merge stands on the first screen"


def test_what_it_counts_is_there():
    text = read("README.md")
    assert f"[{len(methods())} of them](docs/methods.md)" in text
    assert f"[{len(FAMILIES)} families](docs/families.md)" in text
    assert f"[{len(sections(read('docs/cookbook.md')))} complete recipes](docs/cookbook.md)" in text
    korean = read("README.ko.md")
    assert f"[{len(methods())}가지](docs/methods.md)" in korean
    assert f"[{len(FAMILIES)}개 계열](docs/families.md)" in korean
    assert f"[완성된 레시피 {len(sections(read('docs/cookbook.md')))}개](docs/cookbook.md)" in korean
    assert set(re.findall(r"`(\w+)`", sections(text)["Which method"].split("\n\n")[2])) <= {*methods()} | {"scale"}


def test_both_languages_say_the_same():
    english, korean = (
        [(block.language, re.sub(r"#.*", "", block.text)) for block in blocks(read(page))] for page in PAGES
    )
    kept = [(language, re.sub(r"\s+", " ", text)) for language, text in english]
    assert [(language, re.sub(r"\s+", " ", text)) for language, text in korean] == kept
