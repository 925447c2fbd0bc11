"""What the pages tell to do is done, page by page."""

from __future__ import annotations

import pytest

from tests.docs.pages import blocks, read, run

PAGES = ("docs/choosing.md", "docs/install.md", "docs/python.md", "docs/recipe.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_page_can_be_followed(page, home, mergery):
    run(blocks(read(page)), home, mergery)
