"""The merges: recipe files, and the command line that carries them out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

PAIR = "slerp (two experts)"

MERGES: Mapping[str, Mapping[str, Any]] = {
    PAIR: {"method": "slerp", "t": 0.5},
    "linear": {"method": "linear"},
    "task_arithmetic": {"method": "task_arithmetic", "weight": 0.4},
    "ties": {"method": "ties", "density": 0.2, "scope": "tensor", "scale": 1.3},
    "dare_ties": {"method": "dare_ties", "density": 0.5, "scale": 0.8},
    "breadcrumbs": {"method": "breadcrumbs", "density": 0.5, "scale": 0.45},
    "ram": {"method": "ram", "scale": 2.0},
    "tsv_merge": {"method": "tsv_merge", "scale": 1.3},
    "swudi_a": {"method": "swudi_a"},
}
"""The `merge` section of each recipe, to which `write_recipe` adds the base where the method has one."""


def write_recipe(name: str, folder: Path, experts: Sequence[str]) -> Path:
    """Write the recipe of the merge called `name` into `folder/recipes`; the models stand in `folder/models`."""
    settings = MERGES[name]
    models = list(experts[:2]) if name == PAIR else list(experts)
    if name in (PAIR, "linear"):
        merge = dict(settings)
    else:
        models.insert(0, "base")
        merge = {"method": settings["method"], "base": "base", **settings}
    recipe = {
        "models": {model: f"../models/{model}" for model in models},
        "merge": merge,
        "output": {"dtype": "float32"},
        "seed": 0,
    }
    path = folder / "recipes" / f"{merge['method']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def run_merge(recipe: Path, out: Path) -> None:
    """Merge as the recipe says, through the command line; an unfinished merge of other models is not taken up."""
    shutil.rmtree(out.with_name(f"{out.name}.partial"), ignore_errors=True)
    subprocess.run([sys.executable, "-m", "mergery", "merge", recipe, out, "--replace", "--quiet"], check=True)
