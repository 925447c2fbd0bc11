"""A recipe of two fine-tunes whose weights are learnt, and `mergery learn` on it."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

SUM = {"method": "task_arithmetic", "base": "base", "scale": 0.3}


@pytest.fixture
def recipe(model, tmp_path):
    """A recipe of two fine-tunes of a tiny model: `recipe("llama", scale=0.3)`. Numbers are those that bfloat16 knows."""

    def make(family: str, merge=SUM, name: str = "recipe.yaml", **more):
        base = tmp_path / "base"
        if not base.exists():
            shutil.copytree(model(family), base)
            for seed, own in ((0, "base"), (1, "one"), (2, "two")):
                folder = base if own == "base" else shutil.copytree(base, tmp_path / own)
                torch.manual_seed(seed)
                state = load_file(folder / "model.safetensors")
                for key, value in state.items():
                    if value.is_floating_point():
                        moved = value + (0.05 if own != "base" else 0.0) * torch.randn_like(value)
                        state[key] = moved.bfloat16().float()
                save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        path = tmp_path / name
        names = merge.get("models", ["one", "two"]) + ([] if "stack" in merge or "base" not in merge else ["base"])
        models = {each: f"./{each}" for each in names}
        path.write_text(yaml.safe_dump({"models": models, "merge": dict(merge), **more}))
        return path

    return make


@pytest.fixture
def run(mergery, write, tmp_path):
    """`mergery learn` on a recipe, with data for each model."""

    def learn(path, *options, out="learned.yaml", data=None, pairs=False, label=False):
        files = {
            each: write(6, name=f"{each}.jsonl", seed=seed, pairs=pairs, label=label)
            for seed, each in enumerate(("one", "two"))
        }
        data = [f"{name}={file}" for name, file in files.items()] if data is None else data
        words = [word for each in data for word in ("--data", each)]
        return mergery("learn", path, tmp_path / out, *words, *options)

    return learn


def weights_of(path):
    return yaml.safe_load(path.read_text())["merge"]["weight"]
