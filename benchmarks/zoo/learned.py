"""Learnt weights in the zoo's digits: classifiers of eight skills, merged with weights that a few images teach.

    python -m benchmarks.zoo.learned --page docs/learning.md

The loop is that of `mergery learn`; the encoders are no models of transformers, so it is given them by hand. What was
measured is kept in benchmarks/figures/learned.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from benchmarks.zoo.digits import Digits, Seer
from benchmarks.zoo.measure import Bench
from benchmarks.zoo.rows import SUMS

from benchmarks import pages
from mergery.architecture import read_architecture
from mergery.calibration.data import Row
from mergery.calibration.learning.additions import Additions
from mergery.calibration.learning.model import Held, Place, WholeModel
from mergery.calibration.learning.objectives import LOSSES, Source
from mergery.calibration.learning.options import LearnOptions
from mergery.calibration.learning.running import run
from mergery.calibration.learning.weights import begin
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config
from mergery.dtypes import F32
from mergery.run.events import ignore

IMAGES = 64  # of each skill
START = 0.3
FEW = "ten labels"
CHOSEN = "task arithmetic, scale chosen"
HEAD, END = "<!-- made: python -m benchmarks.zoo.learned -->", "<!-- end -->"
ROWS: Mapping[str, LearnOptions] = {
    "AdaMerging, by model": LearnOptions("entropy", "model", start=START),
    "AdaMerging, by tensor": LearnOptions("entropy", "tensor", start=START),
    "AdaMerging++, by tensor": LearnOptions("entropy", "tensor", start=START),
    "labels, by model": LearnOptions("labels", "model", start=START),
    "labels, by tensor": LearnOptions("labels", "tensor", start=START),
    "distill, by tensor": LearnOptions("distill", "tensor", start=START),
}
ENTROPY = ROWS["AdaMerging, by tensor"]
OTHERWISE: Mapping[str, tuple[LearnOptions, str, int]] = {  # options, the loss, images of each skill
    "rate 0.001": (replace(ENTROPY, rate=1e-3), "entropy", IMAGES),
    "rate 0.01": (replace(ENTROPY, rate=1e-2), "entropy", IMAGES),
    "1000 steps": (replace(ENTROPY, steps=1000), "entropy", IMAGES),
    "256 images of each skill": (ENTROPY, "entropy", 256),
    "entropies over the logarithm of the number of labels": (ENTROPY, "relative", IMAGES),
    "images alone of which the merge is rather certain": (ENTROPY, "certain", IMAGES),
    "entropy less that of the mean answer": (replace(ENTROPY, batch=64), "balanced", IMAGES),
}
"""What else may be tried for AdaMerging by tensor."""
PLUS: Mapping[str, Any] = {"method": "ties", "function": "sum", "vote": "alike", "density": 0.2}


def relative(found: Any, rows: Any, kind: Any, wanted: Any) -> Any:
    """Entropy, where skills with many labels count no more than those with few."""
    return LOSSES["entropy"](found, rows, kind, wanted) / np.log(found.shape[-1])


def certain(found: Any, rows: Any, kind: Any, wanted: Any) -> Any:
    """Entropy of answers that have less than .4 of the most possible, as in EATA (arXiv 2204.02610)."""
    logs = found.log_softmax(-1)
    each = -(logs.exp() * logs).sum(-1)
    return (each * (each.detach() < 0.4 * np.log(found.shape[-1]))).sum()


def balanced(found: Any, rows: Any, kind: Any, wanted: Any) -> Any:
    """Entropy less that of the mean answer, which is low where one label is said of everything (SHOT, arXiv 2002.08546)."""
    mean = found.softmax(-1).mean(0)
    return LOSSES["entropy"](found, rows, kind, wanted) + len(found) * (mean * mean.clamp_min(1e-9).log()).sum()


ENTROPIES = {"relative": relative, "certain": certain, "balanced": balanced}


class Showing(torch.nn.Module):
    """An encoder, as the loop runs it."""

    config = SimpleNamespace(vocab_size=2, pad_token_id=0)

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder


class Images:
    """A loss of the answers to a skill's images. A row's only token is the number of its image."""

    def __init__(self, world: Digits, seer: Seer, objective: str, teachers: Mapping[str, Seer]) -> None:
        self.world, self.seer, self.objective, self.teachers = world, seer, objective, teachers
        self.images, self.digits = world.part("dev")

    def weight(self, row: Row) -> int:
        return 1

    def loss(self, module: Any, numbers: Sequence[int], source: Source) -> Any:
        index = torch.tensor([source.rows[number].tokens[0] for number in numbers])
        view = self.world.views[source.model]
        shown = view.show(self.images[index])
        found = self.seer(shown, source.model)
        rows = [Row((), (0,), int(label)) for label in view.ask(self.digits[index])]
        wanted = None
        if self.objective == "distill":
            with torch.no_grad():
                wanted = self.teachers[source.model](shown, source.model)
        return {**LOSSES, **ENTROPIES}[self.objective](found, rows, "labels", wanted)


def additions(bench: Bench, merge: Mapping[str, Any]) -> Additions:
    """W_0 and D_1 .. D_k of a merge of the bench's experts, by its recipe with one weight at a time."""
    names = list(bench.origin)
    starts = np.cumsum([0, *(bench.origin[name].numel() for name in names)]).tolist()

    def row(weights: Mapping[str, float]) -> np.ndarray:
        settings = {key: value for key, value in merge.items() if key != "method"}
        recipe = bench.recipe(merge["method"], {**settings, "scale": 1.0, "weight": dict(weights)})
        state, _ = bench.merge(recipe)
        return np.concatenate([state[name].reshape(-1).numpy() for name in names]).astype(np.float32)

    none = row(dict.fromkeys(bench.skills, 0.0))
    rows = [row({each: float(each == own) for each in bench.skills}) - none for own in bench.skills]
    shapes = {name: tuple(bench.origin[name].shape) for name in names}
    return Additions(tuple(names), dict(zip(names, starts, strict=False)), shapes, [none, *rows], frozenset(names))


def learnt(
    bench: Bench, options: LearnOptions, merge: Mapping[str, Any], loss: str = "", images: int = IMAGES
) -> tuple[dict[str, Any], float, float, float]:
    """The merged weights; the loss before and after; and the seconds of the descent."""
    world, model = bench.world, bench.model
    assert isinstance(world, Digits)
    assert isinstance(model, Seer)
    added = additions(bench, merge)
    shown = Showing(model.encoder)
    held = []
    for path, module in model.encoder.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{own}" if path else own
            held.append(Held(parameter, (Place(module, own, name),), ((name, 0, 0, parameter.numel()),)))
    merged = WholeModel(shown, held)
    infos = [TensorInfo(name, shape, F32) for name, shape in added.shapes.items()]
    first = {name: np.full(len(bench.skills), options.start) for name in added.names}
    wanted = "unit" if options.objective == "entropy" else "free"
    weights = begin(len(bench.skills), added.names, read_architecture(infos, Config()), options.by, wanted, first)
    teachers = {skill: world.load(bench.zoo.expert(skill)) for skill in bench.skills}
    generator = np.random.default_rng(bench.zoo.seed)
    count = len(world.part("dev")[0])
    sources = [
        Source(skill, tuple(Row((), (int(number),)) for number in generator.permutation(count)[:images]))
        for skill in bench.skills
    ]
    objective = Images(world, model, loss or options.objective, teachers)
    started = time.process_time()
    tensors = merged.learnable(added)
    _, before, after = run(merged, added, weights, tensors, sources, objective, options, None, ignore)
    seconds = time.process_time() - started
    return {name: value.detach().clone() for name, value in model.encoder.state_dict().items()}, before, after, seconds


def measure(cache: Path, seed: int, only: Sequence[str], found: dict[str, Any]) -> dict[str, Any]:
    """Rows on one seed: normalised accuracy on the test images. `found` are those of an earlier run."""
    world = Digits()
    bench = Bench(world.prepare(cache, seed, print), cache / f"notes learned {seed}.jsonl", world.skills)
    experts = bench.experts("test")
    chosen = max(SUMS, key=lambda weight: bench.measure("task_arithmetic", {"weight": weight}).dev.mean())

    def keep(name: str, shares: np.ndarray, **facts: Any) -> None:
        found[name] = {"score": float((shares / experts).mean()), "worst": float((shares / experts).min()), **facts}
        print(f"seed {seed}  {name:28} {found[name]['score']:.3f} {found[name]['worst']:.3f}  {facts}", flush=True)

    keep("task arithmetic, scale 0.3", bench.test("task_arithmetic", {"weight": START}))
    keep(CHOSEN, bench.test("task_arithmetic", {"weight": chosen}), weight=chosen)
    for name, options in ROWS.items():
        if only and name not in only:
            continue
        merge = PLUS if "++" in name else {"method": "task_arithmetic"}
        state, before, after, seconds = learnt(bench, options, merge)
        keep(name, bench.shares(state, "test", bench.skills), before=before, after=after, seconds=seconds)
    for name, (options, loss, images) in OTHERWISE.items():
        if not only or name in only:
            state, before, after, seconds = learnt(bench, options, {"method": "task_arithmetic"}, loss, images)
            keep(name, bench.shares(state, "test", bench.skills), before=before, after=after, seconds=seconds)
    if not only or FEW in only:
        found[FEW] = few(world, bench, cache, seed)
        print(f"seed {seed}  {FEW}  {found[FEW]}", flush=True)
    return found


def few(world: Digits, bench: Bench, cache: Path, seed: int) -> dict[str, float]:
    """The skills with ten labels alone: the best scale, chosen on the test images themselves, and AdaMerging."""
    skills = [skill for skill, view in world.views.items() if view.classes == 10]
    own = Bench(bench.zoo, cache / f"notes five {seed}.jsonl", skills)
    experts = own.experts("test")
    scales = [float((own.test("task_arithmetic", {"weight": each}) / experts).mean()) for each in SUMS]
    state = learnt(own, ROWS["AdaMerging, by tensor"], {"method": "task_arithmetic"})[0]
    return {"scale": max(scales), "entropy": float((own.shares(state, "test", skills) / experts).mean())}


def table(figures: Mapping[str, Any]) -> list[str]:
    """The table of the page: means over seeds, with intervals of what is gained over the chosen scale."""
    names = [
        each for each in next(iter(figures.values())) if each != FEW and all(each in own for own in figures.values())
    ]
    head = ("weights", "accuracy", "worst skill", "over the chosen scale")
    whole = pages.table(head, lines_of(figures, [name for name in names if name not in OTHERWISE]))
    tried = [name for name in names if name in OTHERWISE]
    scale, entropy = (100 * np.mean([seed[FEW][key] for seed in figures.values()]) for key in ("scale", "entropy"))
    alone = "Of the five skills with ten labels, merged by themselves"
    said = [*whole, "", f"{alone}: AdaMerging by tensor {entropy:.1f}, the best scale {scale:.1f}."]
    if tried:
        said += ["", "Tried beside AdaMerging by tensor, each as it is but for one thing:", ""]
        said += pages.table(("AdaMerging, by tensor", *head[1:]), lines_of(figures, tried))
    return said


def lines_of(figures: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    """A line for each row: its mean over seeds, and the interval of what it gains over the chosen scale."""
    lines = []
    for name in names:
        scores, gains = (
            [100 * (seed[name]["score"] - (seed[CHOSEN]["score"] if less else 0.0)) for seed in figures.values()]
            for less in (False, True)
        )
        worst = 100 * np.mean([seed[name]["worst"] for seed in figures.values()])
        gain = "" if name == CHOSEN else f"{np.mean(gains):+.1f} ± {spread(gains):.1f}"
        lines.append([name, f"{np.mean(scores):.1f}", f"{worst:.1f}", gain])
    return lines


def spread(values: Sequence[float]) -> float:
    """Half of a 95 % interval of a mean of paired differences: Student's, over seeds."""
    student = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}.get(len(values), 2.0)
    return student * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo.learned", description=__doc__)
    parser.add_argument("--seeds", default="0,1,2", help="which seeds, with commas between; none measures nothing")
    parser.add_argument("--only", default="", help="rows, with ; between; all where it is empty")
    parser.add_argument("--page", type=Path, help="write the table into this page, from what has been measured")
    parser.add_argument("--cache", type=Path, default=pages.HERE / ".cache/zoo", help="where trained models are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    figures = pages.figures("learned")
    for seed in options.seeds.split(",") if options.seeds else ():
        only = [name for name in options.only.split(";") if name]
        figures[seed] = measure(options.cache, int(seed), only, figures.get(seed, {}))
        pages.keep("learned", figures)
    if options.page:
        text = options.page.read_text()
        before, after = text.split(HEAD)[0], text.split(END)[1]
        options.page.write_text(before + HEAD + "\n\n" + "\n".join(table(figures)) + "\n\n" + END + after)


if __name__ == "__main__":
    main()
