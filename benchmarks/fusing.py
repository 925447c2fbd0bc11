"""Fusion by distillation, measured: FuseLLM against training on the same texts, and MergeKD in both orders.

    python -m benchmarks.fusing [--seeds 0 1 2 3 4] [--write docs/fusion.md]
    python -m benchmarks.fusing --tokens                          how tokens are matched, alone
    python -m benchmarks.fusing --page --write docs/fusion.md     write the tables again, without measuring

The texts are the modules of Python's library (code) and the documentation within numpy and torch (prose). Two
teachers, of GPT-2's architecture and a byte-level vocabulary, were trained from one base, one on each. The target is a Llama,
half as large, with a SentencePiece-style vocabulary, that has read a quarter as much as the teachers. Each seed draws the
target's first weights, its own reading, and the texts to fuse on, which nobody has seen. Scores are bits per byte of texts that
stand in files of their own.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import random
import shutil
import statistics
import sys
import sysconfig
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.pages import HERE, figures, keep, machine, table

CACHE = HERE / ".cache" / "fusing"
BEGIN, END = "<!-- fusing -->\n", "<!-- end of fusing -->"
DOMAINS = ("code", "prose")
SKIPPED = ("test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "lib2to3")
PART, LENGTH = 700, 128  # letters of an item, tokens of a sequence
LEAST = 200  # letters of a text that is prose
BATCH, RATE = 16, 1e-3
HELD = 32  # items of each domain to score on
T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}  # two-sided 95 %, by degrees of freedom
SIZES = {"base": 220, "tuned": 80, "target": 80, "items": 48}  # steps, and items of each domain to fuse on

ARMS: dict[str, dict[str, Any]] = {
    "trained on the same texts": {"text": 1.0},
    "FuseLLM as published": {"match": "warping", "vocabulary": "edit"},
    "FuseLLM": {},
    "FuseLLM, text: 0.5": {"text": 0.5},
}


@cache
def texts(domain: str) -> tuple[str, ...]:
    """Items of a domain, in an order that is no file's: the last are to score on, from files of their own."""
    pages = code() if domain == "code" else prose()
    random.Random(0).shuffle(pages)
    items = [page[at : at + PART] for page in pages for at in range(0, len(page) - PART // 2, PART)]
    cut = len(items) - 4 * HELD
    held = items[cut:]
    random.Random(1).shuffle(held)
    seen = items[: cut - 4 * HELD]
    random.Random(2).shuffle(seen)
    return (*seen, *held[:HELD])


def code() -> list[str]:
    """The modules of Python's library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(library.rglob("*.py")) if not set(path.relative_to(library).parts) & set(SKIPPED)]
    return [path.read_text(encoding="utf-8", errors="replace") for path in files]


def prose() -> list[str]:
    """The documentation in the modules of numpy, and of torch's layers, optimisers and functions."""
    numpy, torch = (Path(str(importlib.util.find_spec(name).origin)).parent for name in ("numpy", "torch"))  # type: ignore[union-attr]
    files = [torch / "_torch_docs.py", torch / "_tensor_docs.py"]
    for folder in (numpy, torch / "nn", torch / "optim", torch / "distributions"):
        files += [path for path in sorted(folder.rglob("*.py")) if "tests" not in path.parts]
    found = []
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        said = [each.value for each in ast.walk(tree) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        if any(len(each) > LEAST for each in said):
            found.append("\n\n".join(each for each in said if len(each) > LEAST))
    return found


def parts(seed: int) -> dict[str, dict[str, list[str]]]:
    """By domain: what teachers and targets may read, what is fused on, what is scored on."""
    found = {}
    for domain in DOMAINS:
        every = texts(domain)
        seen, held = every[:-HELD], every[-HELD:]
        fresh = 5 * SIZES["items"]  # kept from the teachers
        own = random.Random(100 + seed).sample(seen[:fresh], SIZES["items"])
        found[domain] = {"read": seen[fresh:], "fuse": own, "held": held}
    return found


def write(path: Path, items: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in items))
    return path


# --- models -----------------------------------------------------------------------------------------------------------


def byte_tokenizer(items: Sequence[str], size: int) -> Any:
    """As GPT-2's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(items, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|end|>", eos_token="<|end|>")


def piece_tokenizer(items: Sequence[str], size: int) -> Any:
    """As Llama's: marks for spaces, bytes for what is unknown, a first token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(items, trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def pretrain(module: Any, tokenizer: Any, items: Sequence[str], steps: int, rate: float, seed: int) -> Any:
    """Train on rows of `LENGTH` tokens, in an order of the seed."""
    import torch

    rows: list[list[int]] = []
    for text in items:
        ids = tokenizer.encode(text)
        rows += [ids[at : at + LENGTH] for at in range(0, len(ids) - 8, LENGTH)]
    rng = random.Random(seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    module.train()
    for _ in range(steps):
        some = [rows[rng.randrange(len(rows))] for _ in range(BATCH)]
        width = max(map(len, some))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in some])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in some])
        labels = ids.masked_fill(mask == 0, -100)
        optimiser.zero_grad()
        module(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return module.eval()


def teachers() -> dict[str, Path]:
    """A base that has read both, and its fine-tunes: `base`, `code`, `prose`."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    root = CACHE / "teachers"
    read = {domain: each["read"] for domain, each in parts(0).items()}
    both = [text for pair in zip(*(each[:2400] for each in read.values()), strict=False) for text in pair]
    if not (root / "base/config.json").exists():
        tokenizer = byte_tokenizer(both, 1024)
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=1024, n_positions=256, n_embd=128, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0,
                            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
        base = pretrain(GPT2LMHeadModel(config), tokenizer, both, SIZES["base"], 2e-3, 0)
        base.save_pretrained(root / "base")
        tokenizer.save_pretrained(root / "base")
    for domain in DOMAINS:
        if not (root / domain / "config.json").exists():
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(root / "base")
            tuned = AutoModelForCausalLM.from_pretrained(root / "base")
            pretrain(tuned, tokenizer, read[domain], SIZES["tuned"], 1e-3, 1).save_pretrained(root / domain)
            tokenizer.save_pretrained(root / domain)
    return {name: root / name for name in ("base", *DOMAINS)}


def target(seed: int) -> Path:
    """A Llama that has read less."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = CACHE / f"target-{seed}"
    if (folder / "config.json").exists():
        return folder
    read = [text for each in parts(seed).values() for text in each["read"]]
    own = random.Random(seed).sample(read, 800)
    tokenizer = piece_tokenizer(own, 900)
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=900, hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2)  # fmt: skip
    pretrain(LlamaForCausalLM(config), tokenizer, own, SIZES["target"], 2e-3, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- arms -------------------------------------------------------------------------------------------------------------


def score(model: Any, tasks: Sequence[Path]) -> dict[str, float]:
    """Bits per byte of each domain, and their mean."""
    import mergery

    found = mergery.evaluate(model, list(tasks), options=mergery.evaluation.EvaluationOptions(threads=1))
    scores = {each.task: round(each.scores["bits_per_byte"], 5) for each in found.tasks}
    return {**scores, "mean": round(statistics.mean(scores.values()), 5)}


def measure(seed: int) -> dict[str, Any]:
    """All arms of one seed."""
    import mergery

    root = CACHE / f"seed-{seed}"
    shutil.rmtree(root, ignore_errors=True)
    split, started = parts(seed), time.process_time()
    tasks = [write(root / "held" / f"{domain}.jsonl", split[domain]["held"]) for domain in DOMAINS]
    data = {domain: write(root / f"{domain}.jsonl", split[domain]["fuse"]) for domain in DOMAINS}
    both = [text for pair in zip(*(split[domain]["fuse"] for domain in DOMAINS), strict=True) for text in pair]
    data["both"] = write(root / "both.jsonl", both)
    known, start = teachers(), target(seed)
    sources = [known[domain] for domain in DOMAINS]

    def fused(name: str, asked: Sequence[Any], where: str, begin: Path = start, **more: Any) -> Path:
        given = {"batch": BATCH, "at_once": BATCH, "rate": RATE, "warmup": 0.05, "epochs": 3.0, "longest": LENGTH, "seed": seed,
                 "threads": 1, **more}  # fmt: skip
        out = root / name.replace(" ", "-").replace(":", "").replace(",", "")
        options = mergery.FuseOptions(**given)
        return mergery.fuse(begin, asked, data[where], out, options=options, store=root / "store")

    found: dict[str, Any] = {"the target": score(start, tasks)}
    found |= {f"the teacher of {domain}": score(known[domain], tasks) for domain in DOMAINS}
    for name, more in ARMS.items():
        found[name] = score(fused(name, sources, "both", **more), tasks)
    alone: dict[str, Any] = {"text": 0.0, "with_target": False}
    students = [fused(f"student of {domain}", [known[domain]], domain, **alone) for domain in DOMAINS]
    found |= {f"the student of {domain}": score(each, tasks) for domain, each in zip(DOMAINS, students, strict=True)}
    for name, scale in (("average", 0.5), ("sum", 1.0)):
        recipe = {
            "models": {
                "base": str(start),
                **{domain: str(each) for domain, each in zip(DOMAINS, students, strict=True)},
            },
            "merge": {"method": "task_arithmetic", "base": "base", "models": list(DOMAINS), "weight": scale},
        }
        found[f"distil, then merge ({name})"] = score(recipe, tasks)
    merged = {
        "models": {domain: str(known[domain]) for domain in DOMAINS}, "merge": {"method": "linear", "models": list(DOMAINS)},
    }  # fmt: skip
    found["the teachers' merge"] = score(merged, tasks)
    found["merge, then distil"] = score(fused("merged", [merged], "both", **alone), tasks)
    found["both teachers, no merge"] = score(fused("joint", sources, "both", **alone), tasks)
    shutil.rmtree(root / "store")
    return {"scores": found, "seconds": round(time.process_time() - started)}


def tokens() -> list[dict[str, Any]]:
    """How many of a target's tokens find one of the source's, and how often these become the target's own."""
    from mergery.alignment.fusion.mapping import By, Vocabulary, VocabularyMap
    from mergery.alignment.fusion.pieces import cutter_of
    from mergery.alignment.fusion.warping import match_spans, match_warped

    every = [text for domain in DOMAINS for text in texts(domain)[:400]]
    some = every[::7]
    found = []
    for ours, theirs in ((900, 1024), (900, 4000), (4000, 1024)):
        source, target = byte_tokenizer(every, theirs), piece_tokenizer(every, ours)
        cutters = cutter_of(target, "target"), cutter_of(source, "source")
        known = Vocabulary(source, "source"), Vocabulary(target, "target")
        ways: dict[str, By] = {"spans": "first", "warping": "edit"}
        for match, by in ways.items():
            became = VocabularyMap(*known, by)
            total = heard = alike = 0
            for text in some:
                one, other = (cutter.cut(text) for cutter in cutters)
                place = (
                    match_spans(one, other) if match == "spans" else match_warped(one.words(text), other.words(text))
                )
                there = place >= 0
                total, heard = total + len(one), heard + int(there.sum())
                alike += int((became.of(other.ids[place[there]]) == one.ids[there]).sum())
            found.append(
                {
                    "target": ours,
                    "source": theirs,
                    "match": f"{match}, {by}",
                    "heard": round(heard / total, 4),
                    "alike": round(alike / heard, 4),
                }
            )
    return found


# --- page -------------------------------------------------------------------------------------------------------------

FUSED = ("the target", "the teacher of code", "the teacher of prose", *ARMS)
MERGED = ("the student of code", "the student of prose", "distil, then merge (average)", "distil, then merge (sum)",
          "the teachers' merge", "merge, then distil", "both teachers, no merge")  # fmt: skip


def interval(values: Sequence[float]) -> str:
    """The mean over seeds with its 95 % interval (Student's t)."""
    if len(values) < 2:
        return f"{values[0]:+.3f}"
    half = T95[min(5, len(values) - 1)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):+.3f} ± {half:.3f}"


def rows(seeds: Sequence[dict[str, Any]], names: Sequence[str], against: str) -> list[list[str]]:
    made = []
    for name in names:
        means = [f"{statistics.mean(seed['scores'][name][key] for seed in seeds):.3f}" for key in (*DOMAINS, "mean")]
        apart = [seed["scores"][name]["mean"] - seed["scores"][against]["mean"] for seed in seeds]
        made.append([name, *means, "" if name == against else interval(apart)])
    return made


NOTHING = (
    "Whether FuseLLM gains on training on the same texts, and which order of MergeKD is better, has not been measured here",
    "yet: `python -m benchmarks.fusing` does that, on models that it trains itself.",
    "",
)


def page() -> list[str]:
    """The tables of what was measured."""
    kept = figures("fusing")
    seeds = [kept["seeds"][name] for name in sorted(kept.get("seeds", {}))]
    return ["## Measured", "", *(_scores(kept, seeds) if seeds else NOTHING), *_matches(kept["tokens"])]


def _matches(found: Sequence[dict[str, Any]]) -> list[str]:
    shown = [
        [f"{each['target']:,}", f"{each['source']:,}", each["match"], f"{each['heard']:.0%}", f"{each['alike']:.0%}"]
        for each in found
    ]
    return [
        "How tokens of other vocabularies are matched, before what a teacher read is taken for what the target reads: the",
        "share of the target's tokens that find one of the source's, and how often that one becomes the target's own. Texts",
        "are modules of Python's library and the documentation within numpy and torch; both tokenizers were trained on them.",
        "",
        *table(
            ("target's tokens", "source's tokens", "match, vocabulary", "matched", "the same"),
            shown,
            ("match, vocabulary",),
        ),
        "",
    ]


def _scores(kept: dict[str, Any], seeds: Sequence[dict[str, Any]]) -> list[str]:
    first, order = next(iter(ARMS)), "merge, then distil"
    alike, alone = f"{kept['steps']} steps on the same texts", "without the text, from distributions alone"
    minutes = statistics.mean(seed["seconds"] for seed in seeds) / 60
    return [
        f"Bits per byte, less is better; {len(seeds)} seeds, differences with 95 % intervals over seeds. {kept['machine']};",
        f"{minutes:.0f} minutes of processor time for each seed.",
        "",
        *table((alike, *DOMAINS, "mean", f"against «{first}»"), rows(seeds, FUSED, first)),
        "",
        *table((alone, *DOMAINS, "mean", f"against «{order}»"), rows(seeds, MERGED, order)),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fusing", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--quick", action="store_true", help="a few steps, to see whether it runs")
    parser.add_argument("--tokens", action="store_true", help="how tokens are matched alone")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    if given.quick:
        SIZES.update({"base": 4, "tuned": 2, "target": 2, "items": 12})
    if given.tokens:
        keep("fusing", {**figures("fusing"), "tokens": tokens()})
    elif not given.page:
        kept = figures("fusing") if not given.quick else {}
        kept = {"machine": machine(), "python": sys.version.split()[0], "sizes": SIZES, "seeds": kept.get("seeds", {}),
                "tokens": kept.get("tokens", [])}  # fmt: skip
        for seed in given.seeds:
            if str(seed) not in kept["seeds"]:
                kept["seeds"][str(seed)] = measure(seed)
                said = json.loads((CACHE / f"seed-{seed}" / "FuseLLM" / "fusion.json").read_text())
                kept["steps"] = said["steps"]
                print(seed, json.dumps(kept["seeds"][str(seed)], indent=1), flush=True)
                if not given.quick:
                    keep("fusing", kept)
    if given.write:
        text = given.write.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        given.write.write_text(before + BEGIN + "\n".join(page()) + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
