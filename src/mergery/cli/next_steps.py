"""What `mergery` alone says: what can be done here, with what lies in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mergery.cli.examples import DOCS

MOST = 500  # entries of the folder that are looked at
STEPS = (
    ("mergery plan RECIPE", "what a merge would do, from headers alone"),
    ("mergery merge RECIPE OUT", "merge, and write the model folder OUT"),
    ("mergery evaluate MODEL --tasks FILE", "score a model, or a recipe that is not written"),
    ("mergery auto --help", "whether to merge, and how, decided by tasks"),
    ("mergery methods", "the methods to know first"),
    ("mergery inspect MODEL", "what a model is, and what merges with it"),
    ("mergery doctor", "what this machine has, and what is missing"),
    ("mergery --help", "all commands"),
)


def next_steps() -> None:
    """Say what can be done, first with what is here."""
    recipes, models = found_here(Path())
    print("Mergery merges several trained models into one.\n")
    if recipes:
        print("Recipes in this folder:\n")
        for name in recipes[:5]:
            print(f"  mergery plan {name}")
            print(f"  mergery merge {name} merged")
    elif len(models) > 1:
        print("Models in this folder. A recipe that averages two of them, to be kept as recipe.yaml:\n")
        print("\n".join(recipe_lines(models[:2])))
    else:
        print("A recipe says which models, and how. Keep this as recipe.yaml, with folders or names of the hub:\n")
        print("\n".join(recipe_lines(["llama-math", "llama-code"])))
    print()
    width = max(len(typed) for typed, _ in STEPS)
    for typed, meant in STEPS:
        print(f"  {typed:{width}}  {meant}")
    print(f"\nThe first merge in five minutes: {DOCS}/first-merge.md")


def found_here(folder: Path) -> tuple[list[str], list[str]]:
    """The recipes and the model folders in a folder, by name."""
    recipes: list[str] = []
    models: list[str] = []
    for path in entries(folder):
        try:
            if path.suffix in (".yaml", ".yml") and path.is_file() and is_recipe(path.read_text(encoding="utf-8")):
                recipes.append(path.name)
            elif path.is_dir() and (path / "config.json").exists():
                models.append(path.name)
        except (OSError, ValueError):
            continue
    return sorted(recipes), sorted(models)


def entries(folder: Path) -> Iterator[Path]:
    """The first entries of a folder; none where it cannot be read."""
    try:
        for number, path in enumerate(folder.iterdir()):
            if number == MOST:
                return
            yield path
    except OSError:
        return


def is_recipe(text: str) -> bool:
    """Whether a YAML file looks like a recipe of Mergery's or of mergekit's; nothing is parsed."""
    keys = {line.partition(":")[0] for line in text[:100_000].splitlines() if line[:1].isalpha()}
    return {"models", "merge"} <= keys or "merge_method" in keys


def recipe_lines(models: list[str]) -> list[str]:
    """A recipe that averages models, as lines."""
    return ["  models:", *(f"    {name}: ./{name}" for name in models), "  merge: {method: linear}"]
