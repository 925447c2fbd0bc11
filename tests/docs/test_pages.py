"""What the pages tell to do is done, page by page."""

from __future__ import annotations

import pytest

from tests.docs.pages import blocks, read, run

FOLLOWED = ("choosing", "coming-from", "faq", "first-merge", "install", "python", "recipe")


@pytest.mark.parametrize("page", FOLLOWED)
def test_the_page_can_be_followed(page, home, mergery):
    text = read(f"docs/{page}.md").replace("range(200)", "range(4)")  # questions: what matters is that they are asked
    run(blocks(text), home, mergery)
