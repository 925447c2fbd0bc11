"""Every recipe of the page on stacks can be planned."""

import re
from pathlib import Path

import yaml

from mergery.architecture.anatomy import ANATOMIES

PAGE = (Path(__file__).parents[3] / "docs/stacks.md").read_text()


def test_the_recipes_can_be_planned(mergery, llamas, tmp_path):
    for name, source in (("llama", "base"), ("llama-math", "a")):
        (tmp_path / name).symlink_to(llamas / source)
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 4
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        assert mergery("plan", path).code == 0
    for rule in re.findall(r"`(?:pro: \{)?(stack: \{.*?\})\}?`", PAGE):
        path.write_text(yaml.safe_dump({"models": {"base": "./llama"}, "merge": yaml.safe_load(rule)}))
        outcome = mergery("plan", path)
        assert outcome.code == 0 or "'base' has 4 layers" in outcome.err


def test_the_page_names_every_family():
    words = re.sub(r"[ -]", "", PAGE).lower()
    for family in ANATOMIES:
        assert re.sub(r"_.*|\d$", "", family) in words
