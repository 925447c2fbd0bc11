"""What must hold of every family: its fine-tunes merge through the command line, and the result is a model."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergery.testing.families.making import FILE, build, fine_tune, load, make
from mergery.testing.families.published import shapes
from mergery.testing.families.table import Family

METHODS: Mapping[str, Mapping[str, Any]] = {
    "linear": {},
    "ties": {"base": "base"},
    "slerp": {"t": 0.4},
    "tsv_merge": {"base": "base"},
}
"""The methods that each family is merged with, and their settings: one of each kind of arithmetic."""

GOOD = "yes"
ONE = "only one"  # the names in memory are those on disk


def check(family: Family, root: Path, methods: Sequence[str]) -> dict[str, str]:
    """Make a tiny model and two fine-tunes in `root`, merge them with each method, and look at what comes out.

    Each answer is "yes" or what is wrong. A method is good where the output has the base's names, shapes and dtypes, loads in
    transformers with no missing or unexpected key and gives finite logits. `linear` must also be the mean of its models,
    tensor by tensor; `itself` says whether a model merged with its own copy comes back bit for bit; `spellings`
    whether the names in memory and those on disk merge.
    """
    base = make(family, root / "base")
    for seed, name in enumerate(("a", "b"), start=1):
        fine_tune(base, root / name, seed)
    answers = {"tensors": str(len(_tensors(base)))}
    for method in methods:
        recipe = {"models": _models(root, "base", "a", "b"), "merge": _merge(method)}
        answers[method] = _run(recipe, root, method) or _look(family, root / method, base, method, root)
    fine_tune(base, root / "copy", 1)
    recipe = {"models": _models(root, "a", "copy"), "merge": {"method": "linear"}}
    answers["itself"] = _run(recipe, root, "itself") or _same(_tensors(root / "itself"), _tensors(root / "a"))
    answers["spellings"] = _spellings(family, root) if family.auto else ONE
    return {key: answer or GOOD for key, answer in answers.items()}


def _models(root: Path, *names: str) -> dict[str, str]:
    return {name: str(root / name) for name in names}


def _merge(method: str) -> dict[str, Any]:
    settings = METHODS[method]
    return {"method": method, "models": ["a", "b"], **settings} if "base" in settings else {
        "method": method, "models": ["a", "b"], "base": "base", **settings,
    }  # fmt: skip


def _run(recipe: Mapping[str, Any], root: Path, out: str) -> str:
    """Merge through the command line; what it said where it failed."""
    from mergery.cli import main

    path = root / f"{out}.json"
    path.write_text(json.dumps(recipe))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            main(["merge", str(path), str(root / out)])
    except SystemExit as stop:
        if stop.code:
            return " ".join(said.getvalue().split())[:300] or f"exit code {stop.code}"
    return ""


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / FILE)


def _look(family: Family, out: Path, base: Path, method: str, root: Path) -> str:
    """What is wrong with a merged folder."""
    stored, wanted = _tensors(out), _tensors(base)
    if stored.keys() != wanted.keys():
        return f"other names: {sorted(stored.keys() ^ wanted.keys())[:3]}"
    for name, tensor in wanted.items():
        if stored[name].shape != tensor.shape or stored[name].dtype != tensor.dtype:
            return f"{name} is another tensor"
    if not family.auto and {name: tuple(each.shape) for name, each in stored.items()} != shapes(family.kind):
        return "other names or shapes than the family publishes"
    if method == "linear" and (wrong := _not_mean(stored, *(_tensors(root / name) for name in ("a", "b")))):
        return f"{wrong} is not the mean of its models"
    if not family.auto:
        return "; ".join(_as_llama(out)) if family.kind == "exaone" else ""
    _, problems = load(family, out)
    return "; ".join(problems)


def _not_mean(out: Mapping[str, Any], a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The first tensor that is not the mean of two models', buffers and integers aside."""
    import torch

    from mergery.architecture import read_architecture
    from mergery.checkpoints import Config, TensorInfo
    from mergery.dtypes import F32

    names = read_architecture([TensorInfo(name, tuple(each.shape), F32) for name, each in out.items()], Config()).names
    for name, tensor in out.items():
        if tensor.is_floating_point() and "buffer" not in names[name].roles:
            mean = (a[name].double() + b[name].double()) / 2
            if not torch.allclose(tensor.double(), mean, rtol=1e-6, atol=1e-7):
                return name
    return ""


def _same(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    import torch

    if one.keys() != two.keys():
        return "other names"
    differing = [name for name in one if not torch.equal(one[name], two[name])]
    return f"{len(differing)} tensors differ, such as {differing[0]}" if differing else ""


def _spellings(family: Family, root: Path) -> str:
    """Whether the names of the module in memory merge with those on disk, both ways."""
    from mergery.api import merge
    from mergery.checkpoints.memory import MemoryCheckpoint

    model = build(family)
    model.save_pretrained(root / "disk")
    config = json.loads((root / "disk" / "config.json").read_text())
    state, stored = model.state_dict(), _tensors(root / "disk")
    memory = MemoryCheckpoint(state, "memory", config)
    for first, wanted in (("disk", stored), ("memory", state)):
        models = {"disk": root / "disk", "memory": memory}
        models = {first: models.pop(first), **models}
        merge({"models": models, "merge": {"method": "linear"}}, root / f"spelled-as-{first}")
        wrong = _same(_tensors(root / f"spelled-as-{first}"), wanted)
        if wrong:
            return f"as {first}: {wrong}"
    return ONE if state.keys() == stored.keys() else ""


def _as_llama(folder: Path) -> list[str]:
    """EXAONE 3.5 under Llama's names, which is an exact renaming, loaded as a Llama."""
    from safetensors.torch import save_file

    from mergery.architecture.spelling import canonical_names
    from mergery.checkpoints import Config

    config = json.loads((folder / "config.json").read_text())
    names = canonical_names(_tensors(folder), Config(config))
    tensors = {
        (each if each.startswith("lm_head") else f"model.{each}"): _tensors(folder)[name]
        for name, each in names.items()
    }
    llama = folder.parent / f"{folder.name}-as-llama"
    llama.mkdir(exist_ok=True)
    save_file(tensors, llama / FILE, metadata={"format": "pt"})
    plain = {**config, "model_type": "llama", "num_hidden_layers": config["num_layers"]}
    (llama / "config.json").write_text(json.dumps(plain))
    return load(Family("Llama", "", "llama"), llama)[1]
