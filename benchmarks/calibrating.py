"""What calibrating takes: memory against two of the model's blocks, and time against a plain forward pass of transformers.

    python -m benchmarks.calibrating --write docs/calibration.md

A random Llama of 0.4 B parameters in bfloat16 runs over the same rows in two processes, each on one thread: the whole model in
float32 in transformers, and `mergery calibrate`. Times are of the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.models import SIZES, build
from benchmarks.pages import HERE, figures, keep, table

START, END = "<!-- table: benchmarks/calibrating.py -->", "<!-- end of table -->"
ROWS, LENGTH = 16, 128


def tokenizer(folder: Path) -> None:
    """A word-level tokenizer of as many tokens as the data have."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "<e>": 1} | {f"w{index}": index + 2 for index in range(1000)}
    made = Tokenizer(models.WordLevel(words, unk_token="<e>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<e>").save_pretrained(folder)


def data(path: Path) -> Path:
    """Rows of words, drawn by a rule."""
    text = [" ".join(f"w{(row * 37 + place * place) % 1000}" for place in range(LENGTH)) for row in range(ROWS)]
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in text))
    return path


def told(started: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.process_time() - started, "peak": peak}))


def forward(model: Path, texts: Path) -> None:
    """A plain pass of the whole model, in a process of its own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    words = AutoTokenizer.from_pretrained(model)
    module = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    rows = [
        words(json.loads(line)["text"], return_tensors="pt")["input_ids"] for line in texts.read_text().splitlines()
    ]
    started = time.process_time()
    with torch.no_grad():
        module(torch.cat(rows))
    told(started)


def calibrated(model: Path, texts: Path, stats: str) -> None:
    """`mergery calibrate`, in a process of its own."""
    import mergery

    options = mergery.CalibrationOptions(tuple(stats.split(",")), threads=1)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        mergery.calibrate(model, texts, Path(folder) / "stats", options=options)
        told(started)


def child(*arguments: str) -> dict[str, float]:
    """What a process of this script tells."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.calibrating", *arguments]
    found = subprocess.run(command, cwd=HERE.parent, env=env, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def measure() -> dict[str, Any]:
    """Peak memory and processor time of a pass and of calibrations."""
    with tempfile.TemporaryDirectory() as scratch:
        (model,) = build("0.4B", experts=0)
        tokenizer(model)
        texts = data(Path(scratch, "texts.jsonl"))
        ways = {
            "a forward pass": ("forward",),
            **{f"`--stats {each}`": ("calibrate", each) for each in ("activation", "gram")},
        }
        return {name: child(way[0], str(model), str(texts), *way[1:]) for name, way in ways.items()}


def lines(found: dict[str, Any]) -> list[str]:
    """The table, and what memory is held to."""
    hidden, inner, _ = SIZES["0.4B"]
    block = 4 * (4 * hidden * hidden + 3 * hidden * inner)
    plain = found["a forward pass"]["seconds"]
    rows = [[name, f"{each['seconds'] / plain:.2f}", f"{each['peak'] / 1e9:.2f} GB"] for name, each in found.items()]
    limit = f"Two blocks of the model and 1 GB are {(2 * block + 1e9) / 1e9:.2f} GB."
    return [*table(("0.4 B parameters, 16 rows of 128 tokens", "processor time", "peak memory"), rows), "", limit]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibrating",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("way", nargs="*", help="of a child process")
    parser.add_argument("--write", type=Path, help="the page whose table is exchanged")
    parser.add_argument("--kept", action="store_true", help="of the figures that were measured before")
    options = parser.parse_args()
    if options.way:
        way, model, texts, *more = options.way
        forward(Path(model), Path(texts)) if way == "forward" else calibrated(Path(model), Path(texts), *more)
        return
    found = figures("calibrating") if options.kept else measure()
    keep("calibrating", found)
    text = "\n".join(lines(found))
    print(text)
    if options.write is not None:
        before, _, rest = options.write.read_text().partition(START)
        options.write.write_text(f"{before}{START}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
