"""Mistakes that mergekit 0.1.5 passes over, and files that it leaves or takes from the wrong model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch

from tests.parity.cases import based, two
from tests.parity.compare import stored
from tests.parity.differences import Bench, Outcome, brief, difference
from tests.parity.programs import Mergekit, mergery, mergery_merge
from tests.parity.stacks import slices


def silent(bench: Bench, text: str, sound: str) -> Outcome:
    """mergekit passes over a mistake; Mergery names it."""
    wrong = stored(bench.theirs(text))
    bench.folder = bench.session.fresh()
    right = stored(bench.theirs(sound))
    refusal = bench.complaint(lambda: bench.mine(text))
    hint = re.search(r"try: (.*)", refusal)
    same = all(torch.equal(tensor, right[name]) for name, tensor in wrong.items())
    return (
        "merges as if the line were not there",
        brief(refusal) + (f" ({hint[1]})" if hint else ""),
        same and bool(refusal),
    )


@difference("misspelt parameter")
def parameter(bench: Bench) -> Outcome:
    return silent(bench, based("ties", "densty: 0.1"), based("ties"))


@difference("misspelt key")
def key(bench: Bench) -> Outcome:
    text = two("linear", own="weight: 1|weight: 2")
    return silent(bench, text.replace("parameters: {}", "parametres: {normalize: false}"), text)


@difference("layers in the wrong order")
def backwards(bench: Bench) -> Outcome:
    text = slices("passthrough", "a 0 2", "b 3 1")
    layers = {int(number) for name in stored(bench.theirs(text)) for number in re.findall(r"layers\.(\d+)", name)}
    refusal = bench.complaint(lambda: bench.mine(text))
    return f"passes over the slice: {len(layers)} layers", brief(refusal), len(layers) == 2 and bool(refusal)


@difference("config without base_model")
def donor(bench: Bench) -> Outcome:
    paths = []
    for number, length in enumerate((64, 128, 256)):
        path = bench.variant(f"length-{number}", lambda weights: weights, of="abc"[number])
        config = json.loads((path / "config.json").read_text())
        config["max_position_embeddings"] = length
        (path / "config.json").write_text(json.dumps(config))
        paths.append(path)
    text = (
        "merge_method: linear\nparameters: {weight: 1}\nmodels: ["
        + ", ".join(f"{{model: {path}}}" for path in paths)
        + "]\n"
    )
    file = bench.folder / "config.yml"
    file.write_text(text)

    def length_of(out: Path) -> int:
        return json.loads((out / "config.json").read_text())["max_position_embeddings"]

    seen: list[int] = []
    for seed in range(8):
        with Mergekit(bench.python, bench.folder / f"log-{seed}", PYTHONHASHSEED=str(seed)) as mergekit:
            mergekit.merge(file, bench.folder / f"out-{seed}")
        seen.append(length_of(bench.folder / f"out-{seed}"))
        if len(set(seen)) > 1:
            break
    mine = length_of(bench.mine(text))
    warned = "max_position_embeddings" in mergery("plan", file).stdout
    return (
        f"max_position_embeddings of {len(seen)} runs: {', '.join(map(str, seen))}",
        f"always that of the first model: {mine}; the plan warns that the models differ",
        len(set(seen)) > 1 and mine == 64 and warned,
    )


@difference("used output folder")
def stale(bench: Bench) -> Outcome:
    text = two("linear")
    bench.session.mergekit.options = {"out_shard_size": 40_000}
    try:
        bench.theirs(text)
    finally:
        bench.session.mergekit.options = {}
    out = bench.theirs(text.replace("0.37", "0.9"))
    old = sorted(path.name for path in out.glob("*-of-*")) + [path.name for path in out.glob("*.index.json")]
    bench.mine(text)
    refusal = bench.complaint(lambda: bench.mine(text.replace("0.37", "0.9")))
    return (
        f"leaves the {len(old)} files of the earlier merge, index included, beside the new one",
        brief(refusal),
        any(name.endswith("index.json") for name in old) and bool(refusal),
    )


@difference("output onto an input")
def onto(bench: Bench) -> Outcome:
    one = bench.variant("one", lambda weights: weights, of="a")
    before = stored(one)
    text = two("linear").replace("$a", str(one))
    config = bench.session.file(bench.folder, "config.yml", text, "llama", "float32")
    refusal = mergery_merge(config, one) or ""
    unharmed = all(torch.equal(tensor, before[name]) for name, tensor in stored(one).items())
    replaced = mergery_merge(config, one, "--replace") or ""
    unharmed = unharmed and all(torch.equal(tensor, before[name]) for name, tensor in stored(one).items())
    bench.session.mergekit.merge(config, one)
    overwritten = not torch.equal(stored(one)["lm_head.weight"], before["lm_head.weight"])
    return "overwrites the input", brief(refusal), overwritten and unharmed and bool(refusal) and bool(replaced)


@difference("edited stage")
def edited(bench: Bench) -> Outcome:
    text = "name: blend\n" + two("linear") + "---\n" + two("linear", own="weight: 1|weight: 1").replace("$a", "blend")
    name = "lm_head.weight"
    first = stored(bench.theirs(text))[name]
    shutil.rmtree(bench.folder / "mergekit")
    second = stored(bench.theirs(text.replace("0.37", "5.0")))[name]
    mine = [stored(bench.mine(text))[name]]
    shutil.rmtree(bench.folder / "mergery")
    mine.append(stored(bench.mine(text.replace("0.37", "5.0")))[name])
    return (
        "goes on with the stage of the earlier run",
        "merges what the file says; stages are not stored",
        torch.equal(first, second) and not torch.equal(mine[0], mine[1]),
    )


@difference("generation_config.json")
def generation(bench: Bench) -> Outcome:
    text = two("linear", top="tokenizer_source: base\nbase_model: $a")
    theirs, mine = bench.theirs(text), bench.mine(text)
    there = [(path / "generation_config.json").exists() for path in (theirs, mine)]
    return "is not written with tokenizer_source", "is taken along", there == [False, True]


@difference("plus sign in a path")
def plus(bench: Bench) -> Outcome:
    path = bench.variant("math+code", lambda weights: weights, of="a")
    text = two("linear").replace("$a", str(path))
    error = bench.complaint(lambda: bench.theirs(text))
    return "takes what follows for an adapter and fails", "merges it", bool(error) and bool(bench.mine(text))
