"""Kills merges at random moments and counts the bytes that differ in the end: `python -m benchmarks.kill`.

Each merge runs in a process that is stopped with SIGKILL, which no program can prepare for, and is started again, until
it is done. Its folder must then hold what an undisturbed merge of the same recipe wrote, file for file and byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

RECIPES = {
    "linear": "merge: {method: linear}",
    "slerp": "merge: {method: slerp, models: [a, b], t: [0.2, 0.8]}\noutput: {config: base, tokenizer: base}",
    "ties": "merge: {method: ties, base: base, density: 0.3}",
    "ties over the model": "merge: {method: ties, base: base, density: 0.3, scope: model}",
    "dare_ties": "merge: {method: dare_ties, base: base, density: 0.5}\nseed: 7",
    "della": "merge: {method: della, base: base, density: 0.5}\nseed: 8",
    "task_arithmetic": "merge: {method: task_arithmetic, base: base, weight: {a: 0.5, b: -0.2}}",
    "model_stock": "merge: {method: model_stock, base: base}",
    "a stage": "merge: {method: linear, models: [base, s]}",
    "a stack": "merge: {stack: [{models: {a: 0-2}}, {models: {b: 1-3}}]}\noutput: {config: base}",
}
MODELS = {
    "a stage": "{base: ./base, a: ./a, b: ./b, s: {method: dare_linear, base: base, models: [a, b], density: 0.5}}",
    "slerp": "{base: ./base, a: ./a, b: ./b}",
}


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="over all recipes")
    parser.add_argument("--recipes", type=int, default=len(RECIPES), help="how many of the ten")
    parser.add_argument("--width", type=int, default=256, help="of the models' tensors")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    load_once()
    chance = random.Random(asked.seed)
    names = list(RECIPES)[: asked.recipes]
    kills = merges = resumed = different = 0
    with tempfile.TemporaryDirectory(prefix="mergery-kill-") as text:
        room = Path(text)
        make_models(room, asked.width)
        for number, name in enumerate(names):
            wanted = asked.kills * (number + 1) // len(names) - kills
            found = torture(room, name, wanted, chance)
            kills, merges, resumed = kills + found[0], merges + found[1], resumed + found[2]
            different += found[3]
            print(
                f"{name}: {found[0]} kills, {found[1]} merges done, {found[2]} of them resumed, {found[3]} bytes differ"
            )
    print(
        f"{kills} kills over {len(names)} recipes, {merges} merges done, {resumed} resumed: {different} different bytes"
    )
    return 1 if different else 0


def load_once() -> None:
    """Load here what every merge needs, so that kills meet merges rather than imports."""
    import torch

    import mergery.api
    import mergery.run.workers

    torch.set_num_threads(1)
    mergery.run.workers.wake_kernels()


def make_models(room: Path, width: int) -> None:
    """A base and two fine-tunes of it."""
    chance = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (2 * width, width), "model.norm.weight": (width,)}
    for layer in range(4):
        shapes |= {f"model.layers.{layer}.mlp.{part}_proj.weight": (width, width) for part in ("gate", "up", "down")}
    base = {name: chance.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    for name in ("base", "a", "b"):
        (room / name).mkdir()
        own = {
            key: value + 0.1 * chance.standard_normal(value.shape, np.float32) * (name != "base")
            for key, value in base.items()
        }
        save_file({key: value.astype(np.float32) for key, value in own.items()}, room / name / "model.safetensors")
        config = {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": width}
        (room / name / "config.json").write_text(json.dumps(config))
        (room / name / "tokenizer.json").write_text('{"version": "1.0"}')


def torture(room: Path, name: str, wanted: int, chance: random.Random) -> tuple[int, int, int, int]:
    """Kill one recipe's merges so often. Returns kills, merges done, those of them resumed, and bytes that differ."""
    recipe, calm, out = room / f"{name}.yaml", room / f"{name} calm", room / f"{name} out"
    used = MODELS.get(name, "{a: ./a, b: ./b, base: ./base}")
    text = RECIPES[name]
    shard = "shard_size: 200kB"
    text = text.replace("output: {", f"output: {{{shard}, ") if "output:" in text else f"{text}\noutput: {{{shard}}}"
    recipe.write_text(f"models: {used}\n{text}\n")
    merge(recipe, calm)
    shutil.rmtree(calm)
    seconds = merge(recipe, calm)
    assert seconds is not None
    kills = merges = resumed = different = 0
    before = 0
    while kills < wanted or before:
        if merge(recipe, out, chance.random() * 1.1 * seconds if kills < wanted else None) is None:
            kills += 1
            before = before + 1 if journalled(out) else before
        elif out.exists():
            merges, resumed = merges + 1, resumed + bool(before)
            different += compare(calm, out)
            shutil.rmtree(out)
            before = 0
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.with_name(out.name + ".partial"), ignore_errors=True)
    return kills, merges, resumed, different


def journalled(out: Path) -> bool:
    """Whether the unfinished folder has anything to go on with."""
    return out.exists() or out.with_name(out.name + ".partial").exists()


def merge(recipe: Path, out: Path, kill_after: float | None = None) -> float | None:
    """Merge in a process of its own. Returns its seconds, or None where it was killed."""
    from mergery.cli import main as mergery

    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            mergery(["merge", str(recipe), str(out), "--quiet"])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{recipe.name} failed")
    return time.perf_counter() - started


def compare(calm: Path, out: Path) -> int:
    """Bytes that differ between two folders; a file that one of them lacks counts whole."""
    names = {str(path.relative_to(folder)) for folder in (calm, out) for path in folder.rglob("*") if path.is_file()}
    different = 0
    for name in names:
        one, other = ((folder / name).read_bytes() if (folder / name).exists() else b"" for folder in (calm, out))
        shared = min(len(one), len(other))
        different += int((np.frombuffer(one[:shared], np.uint8) != np.frombuffer(other[:shared], np.uint8)).sum())
        different += max(len(one), len(other)) - shared
    return different


if __name__ == "__main__":
    sys.exit(main())
