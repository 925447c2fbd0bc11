"""The demo from end to end: train, merge, score, draw, generate."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from demo.merges import MERGES, run_merge, write_recipe
from demo.plot import draw
from demo.scores import Row, best, score, tabulate
from demo.tasks import TASKS, Items, Task
from demo.train import QUICK, Settings, prepare

HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo; `--quick` is the same in miniature, for tests."""
    options = parse(arguments)
    torch.set_num_threads(1)  # models this small gain nothing from more, and lose much on a busy machine
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    console = Console(highlight=False, soft_wrap=True)
    started = time.perf_counter()

    settings = replace(QUICK if options.quick else Settings(), seed=options.seed)
    tasks = [task for task in TASKS if task.name in ("sort", "climb")] if options.quick else TASKS
    names = ["linear", "ties"] if options.quick else list(MERGES)
    folder: Path = options.folder or (HERE / "quick" if options.quick else HERE)
    models, experts = folder / "models", [task.name for task in tasks]

    heading(console, "Train", "a base and one expert for each task, from scratch")
    with console.status("training"):
        fresh = prepare(models, tasks, settings, lambda line: console.print(f"  {line}"))
    if not fresh:
        console.print(f"  trained before: {shorten(models)}")

    heading(console, "Merge", "by recipe, through the command line")
    merged: dict[str, Path] = {}
    for name in names:
        recipe = write_recipe(name, folder, experts)
        merged[name] = folder / "merged" / recipe.stem
        console.print(f"  mergery merge {shorten(recipe)} {shorten(merged[name])}")
        try:
            run_merge(recipe, merged[name])
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)

    heading(console, "Score", "held-out words answered exactly, in per cent")
    rows: list[Row] = []
    with console.status("scoring"):
        rows.append(score("base", "base", models / "base", tasks))
        rows += [score(f"{expert} expert", "expert", models / expert, tasks) for expert in experts]
        rows += [score(name, "merge", path, tasks) for name, path in merged.items()]
    console.print(tabulate(rows, tasks))
    picture = folder / "merged.png"
    draw(rows, experts, picture)
    console.print(f"  the same as a picture: {shorten(picture)}")

    winner = best(rows)
    assert winner is not None
    heading(console, "Generate", f"with {shorten(winner.folder)}, the merge with the highest mean")
    console.print(show_answers(models / "base", winner, tasks))
    console.print(f"\n  Done in {time.perf_counter() - started:.0f} s. Merged models: {shorten(folder / 'merged')}/")
    command = shorten(Path(sys.executable).with_name("mergery"))
    console.print(f"  Next: {command} plan {shorten(folder / 'recipes' / f'{winner.folder.name}.yaml')}")
    console.print("  and a merge of your own models: docs/first-merge.md")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two tasks, two merges, a few training steps")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and training data")
    parser.add_argument("--folder", type=Path, help="where models, recipes, merges and picture go")
    return parser.parse_args(arguments)


def heading(console: Console, title: str, text: str) -> None:
    console.print(f"\n[bold]{title}[/bold] {text}")


def shorten(path: Path) -> Path:
    """The path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def show_answers(base: Path, winner: Row, tasks: Sequence[Task]) -> Table:
    """What the base and the merge make of two held-out prompts for each task."""
    tokenizer = AutoTokenizer.from_pretrained(winner.folder)
    items, generator = Items(tokenizer), torch.Generator().manual_seed(1)
    drawn = [(task, item) for task in tasks for item in items.draw(task, 2, "test", generator)]
    prompts = [tokenizer.decode(item[1 : Items.answer]) for _, item in drawn]
    wanted = [tokenizer.decode(item[Items.answer : -1]) for _, item in drawn]
    table = Table(header_style="bold")
    for column in ("prompt", "base", winner.name, "the task"):
        table.add_column(column, no_wrap=True)
    answers = [answer(folder, tokenizer, prompts) for folder in (base, winner.folder)]
    for (task, _), prompt, right, *given in zip(drawn, prompts, wanted, *answers, strict=True):
        marked = [f"[green]{text} ✓[/green]" if text == right else f"[red]{text} ✗[/red]" for text in given]
        table.add_row(prompt, *marked, task.meaning)
    return table


def answer(folder: Path, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """Generate greedily after each prompt."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False)
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False)  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
