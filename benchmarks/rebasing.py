"""How much of what a fine-tune has learned is left on another base, by each way of `mergery rebase`, on small models made here.

    python -m benchmarks.rebasing [--seeds 0,1,2] [--bases further,seed,wide]     train, rebase and score: 20 s of each
    python -m benchmarks.rebasing --page                   write the tables of docs/rebase.md again, without measuring

Every base is trained on copying rows of words and on a language of word pairs, and the new ones on sorting rows as well; the
fine-tune, of the old base, learns to reverse them. `further` is the old base trained further; `seed` one of its shape from
another beginning; `wide` one of other widths. The effect is the loss of the answers on reversing: what the fine-tune gains over
the old base is 1, what the result gains over the new base is the share of it that is left.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pages import figures, keep, machine, table

BEGIN, END = "<!-- rebasing -->\n", "<!-- end of rebasing -->"
SYMBOLS, LENGTH, ITEMS = 12, 4, 256
MARKS = {"copy": "C", "sort": "S", "reverse": "R"}
SHAPES = {"old": (48, 128, 4), "further": (48, 128, 4), "seed": (48, 128, 4), "wide": (72, 192, 4)}
TRAINING = {
    "old": (500, 3e-3),
    "further": (200, 5e-4),
    "seed": (700, 3e-3),
    "wide": (700, 3e-3),
    "finetune": (100, 5e-4),
}
"""Steps of 32 rows each, and their learning rate at its highest."""
SCALES = (0.25, 0.5, 1.0)
WAYS: dict[str, dict[str, Any]] = {
    "transplant": {"way": "transplant"},
    "shift": {"way": "shift"},
    "transfusion": {"way": "transfusion"},
    "gradfix": {"way": "gradfix", "samples": 64},
    "theseus, weights": {"way": "theseus"},
    "theseus, texts": {"way": "theseus"},
    "theseus, as published": {"way": "theseus", "ridge": 0.0, "heads": "whole", "sizes": "kept"},
    "theseus, ridge 1": {"way": "theseus", "ridge": 1.0},
    "theseus, whitened": {"way": "theseus", "whiten": 0.25},
}
TEXTS = ("theseus, texts", "theseus, as published", "theseus, ridge 1", "theseus, whitened")
DIRECT = "fine-tuned itself"
NAMES = {"further": "the old base trained further", "seed": "another beginning", "wide": "other widths"}


# --- data ---------------------------------------------------------------------------------------------------------------


def words() -> list[str]:
    return ["<pad>", "=", *MARKS.values(), "L", *[f"w{number:02d}" for number in range(SYMBOLS)]]


def answer(task: str, row: list[str]) -> list[str]:
    """What a task makes of a row of words."""
    return {"copy": row, "sort": sorted(row), "reverse": row[::-1]}[task]


def item(task: str, rng: random.Random) -> tuple[list[str], list[str]]:
    """A prompt and its answer."""
    row = [f"w{rng.randrange(SYMBOLS):02d}" for _ in range(LENGTH)]
    return [MARKS[task], *row, "="], answer(task, row)


def language(rng: random.Random) -> tuple[list[str], list[str]]:
    """A text in which each word is followed by one of two."""
    word = rng.randrange(SYMBOLS)
    said = []
    for _ in range(2 * LENGTH):
        word = (5 * word + 3 + 7 * rng.randrange(2)) % SYMBOLS
        said.append(f"w{word:02d}")
    return ["L"], said


def batch(tasks: tuple[str, ...], size: int, rng: random.Random) -> Any:
    """Rows of tokens, and which of them are to be foretold."""
    import torch

    index = {word: number for number, word in enumerate(words())}
    length = 2 * LENGTH + 2
    tokens, labels = torch.zeros(size, length, dtype=torch.int64), torch.full((size, length), -100)
    for place in range(size):
        task = tasks[rng.randrange(len(tasks))]
        before, after = language(rng) if task == "language" else item(task, rng)
        row = torch.tensor([index[word] for word in (*before, *after)])
        tokens[place, : len(row)] = row
        labels[place, len(before) : len(row)] = row[len(before) :]
    return tokens, labels


# --- models -------------------------------------------------------------------------------------------------------------


def fresh(name: str, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, inner, heads = SHAPES[name]
    torch.manual_seed(1000 * seed + sum(map(ord, name)))
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words()), hidden_size=hidden, intermediate_size=inner, num_hidden_layers=2,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
            pad_token_id=0, tie_word_embeddings=False,
        )
    )  # fmt: skip


def train(model: Any, tasks: tuple[str, ...], steps: int, rate: float, seed: int) -> Any:
    import torch

    rng, best = random.Random(seed), torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(best, rate, steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        tokens, labels = batch(tasks, 32, rng)
        model(input_ids=tokens, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        best.step()
        plan.step()
        best.zero_grad()
    return model.eval()


def losses(model: Any, task: str, seed: int) -> Any:
    """The mean loss of each item's answer."""
    import torch

    tokens, labels = batch((task,), ITEMS, random.Random(seed))
    with torch.no_grad():
        logs = torch.log_softmax(model(input_ids=tokens).logits[:, :-1], -1)
    wanted = labels[:, 1:]
    known = wanted >= 0
    told = logs.gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
    return -(told * known).sum(1) / known.sum(1)


def save(model: Any, folder: Path) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(words())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<pad>", pad_token="<pad>").save_pretrained(folder)
    return str(folder)


# --- measuring ------------------------------------------------------------------------------------------------------------


def measure(seed: int, name: str, work: Path) -> dict[str, Any]:
    """Train the models of a seed and one new base, and find what each way leaves."""
    import copy

    old = train(fresh("old", seed), ("copy", "language"), *TRAINING["old"], seed)
    tuned = train(copy.deepcopy(old), ("reverse",), *TRAINING["finetune"], seed + 7)
    begin = copy.deepcopy(old) if name == "further" else fresh(name, seed)
    base = train(begin, ("copy", "language", "sort"), *TRAINING[name], seed + 11)
    first, second = random.Random(seed + 50), random.Random(seed + 60)
    texts, few = work / "texts.jsonl", work / "few.jsonl"
    mixed = [language(first) if number % 2 else item("copy", first) for number in range(256)]
    texts.write_text("".join(json.dumps({"text": " ".join([*a, *b])}) + "\n" for a, b in mixed))
    asked = [item("reverse", second) for _ in range(64)]
    few.write_text("".join(json.dumps({"prompt": " ".join(a), "answer": " ".join(b)}) + "\n" for a, b in asked))
    places = {"old": save(old, work / "old"), "finetune": save(tuned, work / "finetune")}
    new, before = save(base, work / "new"), losses(base, "reverse", 1)
    learned = losses(old, "reverse", 1) - losses(tuned, "reverse", 1)
    known = {"old": float(losses(old, "reverse", 1).mean()), "finetune": float(losses(tuned, "reverse", 1).mean())}
    found: dict[str, Any] = {
        "losses": {**known, "new": float(before.mean()), "sort": float(losses(base, "sort", 2).mean())}
    }
    for way, options in WAYS.items():
        if name == "wide" and options["way"] != "theseus":
            continue
        found[way] = one(way, options, places, new, base, work, texts, few, learned, before)
        print(seed, name, way, found[way], flush=True)
    direct = train(copy.deepcopy(base), ("reverse",), *TRAINING["finetune"], seed + 7)
    found[DIRECT] = {"1.0": facts(before - losses(direct, "reverse", 1), learned, direct, base)}
    return found


def one(
    way: str, options: dict[str, Any], places: dict[str, str], new: str, base: Any, work: Path, texts: Path, few: Path,
    learned: Any, before: Any,
) -> dict[str, Any]:  # fmt: skip
    """What a way leaves at each scale: all are linear in it."""
    import copy

    from transformers import LlamaForCausalLM

    import mergery

    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    data = few if options["way"] == "gradfix" else texts if way in TEXTS else None
    wanted = mergery.RebaseOptions(**{"threads": 1, **options})
    begin = time.process_time()
    mergery.rebase(places["finetune"], out, old=places["old"], new=new, data=data, options=wanted)
    seconds = time.process_time() - begin
    moved = LlamaForCausalLM.from_pretrained(out).eval().state_dict()
    found: dict[str, Any] = {"seconds": round(seconds, 2)}
    for scale in SCALES:
        model = copy.deepcopy(base)
        state = {name: value + scale * (moved[name] - value) for name, value in base.state_dict().items()}
        model.load_state_dict(state)
        found[str(scale)] = facts(before - losses(model, "reverse", 1), learned, model, base)
    return found


def facts(gained: Any, learned: Any, model: Any, base: Any) -> dict[str, float]:
    """The share of the effect that is left, and what it costs of what the new base knows."""
    lost = losses(model, "sort", 2) - losses(base, "sort", 2)
    return {"share": round(float(gained.mean() / learned.mean()), 4), "sort": round(float(lost.mean()), 4)}


# --- the page ---------------------------------------------------------------------------------------------------------------


def limits(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % limits of the mean by Student's t."""
    from math import sqrt

    mean = sum(values) / len(values)
    t = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}.get(len(values), 2.0)
    spread = sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1) / len(values))
    return mean, mean - t * spread, mean + t * spread


def rows(data: dict[str, Any], name: str) -> Iterator[list[str]]:
    """A row of the table for each way on one new base."""
    seeds = [each[name] for each in data["seeds"].values() if name in each]
    for way in (*WAYS, DIRECT):
        known = [each[way] for each in seeds if way in each]
        if not known:
            continue
        cells = [way, told([each["1.0"]["share"] for each in known])]
        plain = [each["transplant"] for each in seeds if "transplant" in each]
        beyond = way not in ("transplant", DIRECT) and len(plain) == len(known)
        pairs = [mine["1.0"]["share"] - theirs["1.0"]["share"] for mine, theirs in zip(known, plain, strict=False)]
        cells.append(told(pairs) if beyond else "")
        means = {
            scale: sum(each[str(scale)]["share"] for each in known) / len(known) for scale in SCALES if way != DIRECT
        }
        best = max(means, key=lambda scale: means[scale]) if means else None
        cells.append(f"{means[best]:+.2f} at {best:g}" if best is not None else "")
        yield [*cells, f"{sum(each['1.0']['sort'] for each in known) / len(known):+.2f}"]


def told(values: list[float]) -> str:
    """A mean with its limits."""
    mean, low, high = limits(values)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" if len(values) > 1 else f"{mean:+.2f}"


def page(data: dict[str, Any], text: str) -> str:
    """The page with its tables."""
    lines = [f"Means over {len(data['seeds'])} seeds with 95 % limits of Student's t, {data['machine']}.", ""]
    for name, said in NAMES.items():
        columns = (f"new base: {said}", "share kept", "beyond transplant", "at the best scale", "loss on sorting")
        lines += [*table(columns, list(rows(data, name))), ""]
    head, _, rest = text.partition(BEGIN)
    return head + BEGIN + "\n".join(["", *lines]) + END + rest.partition(END)[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rebasing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--bases", default=",".join(NAMES))
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    path = Path(__file__).resolve().parents[1] / "docs" / "rebase.md"
    if not arguments.page:
        import torch

        torch.set_num_threads(1)
        for seed, name in itertools.product(arguments.seeds.split(","), arguments.bases.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                found = measure(int(seed), name, Path(folder))
            data = figures("rebasing") or {"seeds": {}}
            known = {**data["seeds"], seed: {**data["seeds"].get(seed, {}), name: found}}
            keep("rebasing", {**data, "machine": machine(), "seeds": dict(sorted(known.items()))})
    if path.exists():
        path.write_text(page(figures("rebasing"), path.read_text()))


if __name__ == "__main__":
    main()
