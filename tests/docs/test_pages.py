"""What the pages tell to do is done, page by page."""

from __future__ import annotations

import pytest

from tests.docs.pages import blocks, read, run

FOLLOWED = (
    "adapters", "alignment", "calibration", "choosing", "coming-from", "devices", "evaluation", "faq", "first-merge",
    "fusion", "index", "install", "ko/first-merge", "learning", "mergekit", "notebooks", "protect", "python", "quantised",
    "rebase", "recipe", "search", "serving", "soft-maps", "stacks", "transport", "vocabulary", "which-tensors",
)  # fmt: skip


@pytest.mark.parametrize("page", FOLLOWED)
def test_the_page_can_be_followed(page, home, mergery):
    text = read(f"docs/{page}.md").replace("range(200)", "range(4)")  # questions: what matters is that they are asked
    text = text.replace("--budget 20s", "--budget 2s")  # and of searches, that they are made
    run(blocks(text), home, mergery)


def test_the_first_merge_is_the_same_in_both_languages():
    english, korean = (read(f"docs/{page}.md") for page in ("first-merge", "ko/first-merge"))
    assert [(b.language, b.text) for b in blocks(english)] == [(b.language, b.text) for b in blocks(korean)]
