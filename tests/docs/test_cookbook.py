"""Every recipe of the cookbook is cooked, in a kitchen of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import transformers

from mergery.testing.families import fine_tune
from tests.cli.test_end_to_end import load
from tests.docs.pages import blocks, read, run, sections
from tests.run.gguf.tokenizers import byte_level_folder

RECIPES = sections(read("docs/cookbook.md"))


@pytest.mark.parametrize("title", RECIPES)
def test_the_recipe_is_cooked(title, home, mergery):
    if "export gguf" in RECIPES[title]:
        cut_text_by_bytes(home)
    ran = run(blocks(RECIPES[title]), home, mergery)
    if (home / "merged").exists():
        load(home / "merged")
    if (home / "merged.gguf").exists():
        transformers.AutoModelForCausalLM.from_pretrained(home, gguf_file="merged.gguf")
    assert ran or "```python" in RECIPES[title]


def cut_text_by_bytes(home: Path) -> None:
    """Models with a tokenizer that GGUF has, in place of those whose tokens are words."""
    names = ("llama-math", "llama-code")
    for name in ("llama", *names):
        shutil.rmtree(home / name)
    byte_level_folder(home / "llama", "llama-bpe")
    for seed, name in enumerate(names):
        fine_tune(home / "llama", home / name, seed)


def test_there_are_at_least_twenty_five_and_they_are_counted():
    assert len(RECIPES) >= 25
    assert [int(title.split(".")[0]) for title in RECIPES] == list(range(1, len(RECIPES) + 1))


def test_each_is_short():
    for title, text in RECIPES.items():
        assert len(text.splitlines()) <= 35, title
