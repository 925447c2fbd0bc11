"""What an evaluation costs: a Llama of 10 million parameters and 1,000 items of each kind of task.

    python -m benchmarks.evaluate [--items 1000] [--threads 2]

The model has random weights and the texts are of made-up words: only time is measured here. Each kind is a process of its own,
`mergery evaluate` from start to end; processor time is that process's, over all cores, and says more than the clock where a
machine is shared. Batches of 1 and of 32 are then held against one another on a tenth of the items, one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def build(folder: Path) -> None:
    """A Llama of 10 million parameters and a byte-pair tokenizer of 8,192 words, trained on made-up text."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator((words(rng, 200) for _ in range(400)), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=688, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    print(f"{model.num_parameters() / 1e6:.1f} million parameters, {len(fast)} tokens")
    model.save_pretrained(folder)


def words(rng: random.Random, count: int) -> str:
    """Made-up words of two to four syllables."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    return " ".join("".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(count))


def write_tasks(folder: Path, items: int) -> list[Path]:
    """A task of each kind: four choices, a generation of 16 tokens, a text of about a hundred words."""
    rng = random.Random(1)
    rows = {
        "choice": [
            {
                "question": words(rng, rng.randint(10, 40)),
                "choices": [words(rng, rng.randint(1, 6)) for _ in range(4)],
                "answer": rng.randrange(4),
            }
            for _ in range(items)
        ],
        "letters": [
            {
                "question": words(rng, rng.randint(10, 40)),
                "choices": [words(rng, rng.randint(1, 6)) for _ in range(4)],
                "answer": rng.randrange(4),
            }
            for _ in range(items)
        ],
        "generation": [{"prompt": words(rng, rng.randint(10, 40)), "answer": "ba"} for _ in range(items)],
        "perplexity": [{"text": words(rng, rng.randint(20, 180))} for _ in range(items)],
    }
    headers = {"letters": {"letters": True}, "generation": {"max_tokens": 16}}
    files = []
    for name, lines in rows.items():
        head = [{"task": headers[name]}] if name in headers else []
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in [*head, *lines]))
        files.append(file)
    return files


def measure(folder: Path, task: Path, threads: int, batch: int, name: str) -> tuple[float, float, Path]:
    """Seconds by the clock and of processors of one `mergery evaluate`, and its folder of results."""
    out = folder / name
    command = [
        sys.executable, "-m", "mergery", "evaluate", str(folder / "model"), "--tasks", str(task), "--results", str(out),
        "--threads", str(threads), "--batch", str(batch), "--quiet",
    ]  # fmt: skip
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, out


def differ(a: Path, b: Path) -> tuple[float, int]:
    """The largest relative difference between two results of one task, and the items that were decided differently."""
    from mergery.evaluation import read_result

    worst, other = 0.0, 0
    results = [read_result(next(place.glob(f"*/{a.stem}-*"))) for place in (a.parent, b.parent)]
    for one, two in zip(*(sorted(result.items, key=lambda item: item.item) for result in results), strict=True):
        numbers = [item.details.get("logs") or list(item.values.values()) for item in (one, two)]
        worst = max([worst, *(abs(x - y) / max(abs(x), 1.0) for x, y in zip(*numbers, strict=True))])
        decided = [(item.details.get("chosen"), item.details.get("text")) for item in (one, two)]
        other += decided[0] != decided[1]
    return worst, other


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        build(folder / "model")
        print(f"{chosen.items} items, {chosen.threads} threads\n")
        print(f"{'task':12}{'seconds':>10}{'processor':>12}{'worst difference':>20}{'decided otherwise':>20}")
        (folder / "few").mkdir()
        few = write_tasks(folder / "few", max(1, chosen.items // 10))
        for task, part in zip(write_tasks(folder, chosen.items), few, strict=True):
            seconds, processor, _ = measure(folder, task, chosen.threads, 32, "results")
            places = [measure(folder, part, chosen.threads, batch, f"few-{batch}")[2] for batch in (32, 1)]
            worst, other = differ(*(place / part.name for place in places))
            print(f"{task.stem:12}{seconds:10.1f}{processor:12.1f}{worst:20.1e}{other:20}", flush=True)


if __name__ == "__main__":
    main()
