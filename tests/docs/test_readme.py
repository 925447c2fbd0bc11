"""Every command and every snippet of the README is run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from mergery.recipe.reading import load_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def home(tmp_path, llamas, monkeypatch) -> Path:
    """A folder as the README imagines it."""
    for name, source in (("llama", "base"), ("llama-math", "a"), ("llama-code", "b")):
        (tmp_path / name).symlink_to(llamas / source)
    recipes = [block for block in blocks("yaml") if block.startswith("models:") and "merge:" in block]
    (tmp_path / "recipe.yaml").write_text(recipes[0])
    (tmp_path / "mergekit.yml").write_text(
        "merge_method: ties\nbase_model: ./llama\ndtype: float32\nmodels:\n"
        "  - model: ./llama-math\n    parameters: {weight: 0.5, density: 0.5}\n"
        "  - model: ./llama-code\n    parameters: {weight: 0.5, density: 0.5}\n"
    )
    items = [{"text": f"{word} and {word}"} for word in ("one", "two", "three")]
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run(home, mergery):
    ran = []
    for command in commands():
        if command[0] == "make":
            dry = subprocess.run(["make", "-n", *command[1:]], cwd=ROOT, capture_output=True, text=True)
            assert dry.returncode == 0, dry.stderr
        else:
            assert command[0] == "mergery"
            outcome = mergery(*command[1:])
            assert outcome.code == 0, (command, outcome)
        ran.append(command[:2])
    assert ["mergery", "merge"] in ran
    assert ["make", "demo"] in ran
    assert (home / "merged/model.safetensors").exists()
    assert (home / "merged-too/model.safetensors").exists()


def test_the_python_runs(home):
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_the_recipes_can_be_read_and_the_local_ones_planned(home, mergery):
    for number, block in enumerate(blocks("yaml")):
        data = yaml.safe_load(block)
        if "merge" in data:
            path = home / f"block{number}.yaml"
            path.write_text(block)
            assert mergery("plan", path).code == 0
        else:  # a part of a recipe: complete it
            merge = {"method": "ties", "base": "base"} | {k: v for k, v in data.items() if k not in ("models", "t")}
            names = data.get("models", {"base": "x", "math": "y", "code": "z"})
            load_recipe({"models": names, "merge": merge})
            if "t" in data:
                load_recipe({"models": {"a": "x", "b": "y"}, "merge": {"method": "slerp", "t": data["t"]}})
