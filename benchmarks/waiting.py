"""How long one waits for a merge, as `mergery plan` foretells it: the table of docs/choosing.md.

    python -m benchmarks.waiting --write docs/choosing.md

A base and three fine-tunes of the shape of Llama 3.2 1B and Llama 3.1 8B, in bfloat16, on two cores. Only headers are read, so
that the files are sparse and take no room.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.pages import table
from benchmarks.sparse import llama_config, llama_shapes, sparse

import mergery
from mergery.report.explain import explain
from mergery.run.workers import Options

COLUMNS = ("method", "about as long", "time, 1B", "time, 8B", "memory, 1B", "memory, 8B")
LEFT = ("about as long",)
START, END = "<!-- table: benchmarks/waiting.py -->", "<!-- end of table -->"
ALIKE = {  # a method, and those that take about as long
    "linear": "`slerp`, `nuslerp`, `model_stock`, `run_average`",
    "task_arithmetic": "`dare_linear`, `dare_ties`, `ram`",
    "ties": "",
    "breadcrumbs": "`della`, `sce`, `pcb`, `consensus`, `emr`",
    "iso_c": "`svc`, `subspace_boosting`",
    "ace": "",
    "cart": "`star`, `resmerge`",
    "swudi_a": "`swudi`",
    "tsv_merge": "`dc_merge`, `actmat`",
    "knots": "",
}
SIZES = {
    "1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "tie_word_embeddings": True,
    },
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}  # fmt: skip


def models(folder: Path, size: str) -> list[Path]:
    """A base and three fine-tunes, sparse."""
    config = llama_config(**SIZES[size])
    shapes = llama_shapes(config)
    if config["tie_word_embeddings"]:
        del shapes["lm_head.weight"]
    return [sparse(folder / size / name, shapes, config) for name in ("base", "a", "b", "c")]


def foretold(method: str, folders: list[Path]) -> tuple[float, int]:
    """Seconds and bytes that the plan foretells for two workers."""
    named = {folder.name: str(folder) for folder in folders}
    based = method != "linear"
    merge = {"method": method, "models": ["a", "b", "c"], **({"base": "base"} if based else {})}
    plan = mergery.plan({"models": named if based else {n: p for n, p in named.items() if n != "base"}, "merge": merge})
    told = explain(plan, Options(threads=2))
    plan.close()
    return told["seconds"], told["peak_memory"]


def time(seconds: float) -> str:
    """A time as one says it."""
    if seconds < 55:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"


def size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 950e6 else f"{count / 1e6:.0f} MB"


def rows() -> list[list[str]]:
    """A row for each method."""
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: models(Path(scratch), name) for name in SIZES}
        told = {method: [foretold(method, found[name]) for name in SIZES] for method in ALIKE}
    return [
        [
            f"`{method}`",
            alike,
            *(time(seconds) for seconds, _ in told[method]),
            *(size(peak) for _, peak in told[method]),
        ]
        for method, alike in ALIKE.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.waiting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, help="the page whose table is exchanged")
    options = parser.parse_args()
    text = "\n".join(table(COLUMNS, rows(), left=LEFT))
    if options.write is None:
        print(text)
        return
    page = options.write.read_text()
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    options.write.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    main()
