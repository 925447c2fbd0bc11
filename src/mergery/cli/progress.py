"""What a person sees of a run: progress bars on a terminal, plain lines elsewhere, or JSON events."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Literal

from mergery.report.words import count, several, size, vocabulary_line

if TYPE_CHECKING:
    from mergery.api import Result
    from mergery.planning.plan import Plan

PLAIN_INTERVAL = 5.0  # seconds between lines where there is no terminal


class Reporter:
    """Says nothing. The other reporters say more."""

    def plan(self, plan: Plan) -> None:
        """The merge is about to start."""

    def event(self, event: dict[str, Any]) -> None:
        """Something happened."""

    def close(self) -> None:
        """No more events will come."""

    def result(self, result: Result) -> None:
        """The merge is done."""


class JsonReporter(Reporter):
    """One JSON object a line on standard output."""

    def write(self, event: dict[str, Any]) -> None:
        print(json.dumps(event, default=str), flush=True)

    def plan(self, plan: Plan) -> None:
        self.write({
            "event": "plan", "digest": plan.digest, "tensors": len(plan.steps), "bytes_in": plan.bytes_in,
            "bytes_out": plan.bytes_out, "warnings": list(plan.warnings),
        })  # fmt: skip

    def event(self, event: dict[str, Any]) -> None:
        self.write(event)

    def result(self, result: Result) -> None:
        if result.already:
            self.write({"event": "done", "folder": str(result.folder), "seconds": 0, "already": True})


class PlainReporter(Reporter):
    """Lines of text on standard error, now and then."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.compiling = False

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def remark(self, event: dict[str, Any]) -> None:
        """Say what happens once."""
        if event["event"] == "start" and event["resumed"]:
            self.say(f"going on: {event['resumed']} of {event['tensors']} tensors are done")
        if event["event"] == "compile" and not self.compiling:
            self.compiling = True
            self.say("compiling what merges, for this processor; the next run will not have to")

    def plan(self, plan: Plan) -> None:
        for warning in plan.warnings:
            self.say(f"warning: {warning}")
        self.say(summary(plan))

    def event(self, event: dict[str, Any]) -> None:
        self.remark(event)
        if event["event"] not in ("progress", "download") or time.monotonic() - self.last < PLAIN_INTERVAL:
            return
        self.last = time.monotonic()
        what = f"downloading {event['model']}: " if event["event"] == "download" else ""
        self.say(f"{what}{size(event['bytes'])} of {size(event['total'])}")

    def result(self, result: Result) -> None:
        if result.already:
            self.say(f"{result.folder} is already there, made by the same plan")
        else:
            self.say(f"wrote {result.folder} in {result.seconds:.1f} s")


class BarReporter(PlainReporter):
    """A progress bar on the terminal."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
            TimeRemainingColumn(), console=self.console, transient=True,
        )  # fmt: skip
        self.tasks: dict[str, Any] = {}

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def event(self, event: dict[str, Any]) -> None:
        self.remark(event)
        if event["event"] not in ("progress", "download"):
            return
        name = f"downloading {event['model']}" if event["event"] == "download" else "merging"
        if name not in self.tasks:
            self.bar.start()
            self.tasks[name] = self.bar.add_task(name, total=event["total"])
        self.bar.update(self.tasks[name], completed=event["bytes"], total=event["total"])

    def close(self) -> None:
        self.bar.stop()


def reporter(kind: Literal["auto", "json", "quiet"]) -> Reporter:
    """The reporter that suits where the output goes."""
    if kind == "json":
        return JsonReporter()
    if kind == "quiet":
        return Reporter()
    return BarReporter() if sys.stderr.isatty() else PlainReporter()


def summary(plan: Plan) -> str:
    """One line about what is going to happen."""
    merged = plan.recipe.merge
    return (
        f"{merged.method} of {', '.join(n for n in merged.names() if n != merged.base)}"
        + (f" on {merged.base}" if merged.base else "")
        + f": {len(plan.steps)} tensors, {size(plan.bytes_in)} in, {size(plan.bytes_out)} out"
    )


def show_plan(facts: dict[str, Any]) -> None:
    """Print a plan for a person."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    models = Table("model", "source", "revision", "tensors", box=None, header_style="bold", pad_edge=False)
    for name, model in facts["models"].items():
        models.add_row(name, model["location"], str(model.get("revision", ""))[:12], str(model["tensors"]))
    console.print(models, markup=False)
    console.print()
    table = Table("tensors", "layers", "roles", "what they get", box=None, header_style="bold", pad_edge=False)
    for part in facts["parts"][:40]:
        time = f", about {part['seconds']:.0f} s" if part["seconds"] >= 1 else ""
        what = f"{part['what']}: {part['route']}{time}" if "route" in part else part["what"]
        table.add_row(str(part["tensors"]), part["layers"] or "-", ", ".join(part["roles"]), what)
    console.print(table, markup=False)
    if len(facts["parts"]) > 40:
        console.print(f"... and {len(facts['parts']) - 40} more; see --json")
    output = facts["output"]
    console.print()
    shards = several(len(output["shards"]), "file")
    lines = [
        ("output", f"{output['tensors']} tensors in {output['dtype']}, {output['layers']} layers, {shards}"),
        ("config from", output["config"]),
        ("tokenizer from", output["tokenizer"]),
        *([("vocabulary", vocabulary_line(output["vocabulary"]))] if output["vocabulary"] else []),
        ("reads", size(facts["bytes_in"])),
        ("writes", size(facts["bytes_out"])),
        ("peak memory", f"about {size(facts['peak_memory'])}"),
        *([("on each GPU", f"about {size(facts['device_memory'])}")] if facts["device_memory"] else []),
        ("time", f"about {facts['seconds']:.0f} s" if facts["seconds"] >= 1 else "about a second"),
    ]
    for name, text in lines:
        console.print(f"[bold]{name:15}[/bold]", end="")
        console.print(text, markup=False)
    for change in facts["changes"]:
        what = f"{change['model']}: {change['what']}"
        console.print(f"{what} (exact)" if change["exact"] else f"{what}; loses {change['loses']}", markup=False)
    if facts["chat"]:
        console.print("[bold]chat template[/bold]", facts["chat"].get("error", "a conversation in it:"))
        for line in facts["chat"].get("text", "").splitlines():
            console.print(f"  {line}", markup=False)
    for name, why in facts["dropped"].items():
        console.print(f"left out: {name} ({why})", markup=False)
    for warning in facts["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def show_checkpoint(facts: dict[str, Any]) -> None:
    """Print what a checkpoint is for a person."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)

    def line(name: str, text: str) -> None:
        console.print(f"[bold]{name:15}[/bold]", end="")
        console.print(text, markup=False)

    kind = facts["family"] or "unknown: there is no config.json with a model_type"
    line("model", facts["location"])
    line("family", kind + (f", language model {facts['language_model']}" if facts["language_model"] else ""))
    line("layers", f"{facts['layers']} ({facts['stack']})" if facts["stack"] else "none with numbers")
    line("parameters", f"{count(facts['parameters'])} in {facts['tensors']} tensors, {size(facts['bytes'])}")
    if len(facts["parts"]) > 1:
        line("parts", ", ".join(f"{part} {count(number)}" for part, number in facts["parts"].items()))
    line("dtypes", ", ".join(f"{dtype} ({number})" for dtype, number in facts["dtypes"].items()))
    if facts["quantised"]:
        line("quantised", f"{facts['quantised']['method']}: {facts['quantised']['why']}; it cannot be merged")
    tied = {True: "tied to the embeddings", False: "its own", None: "the config does not say"}[facts["tied"]["head"]]
    line("head", tied + "".join(f"; {alias} is {name}" for alias, name in facts["tied"]["aliases"].items()))
    for fused in facts["fused"]:
        keys = list(fused["parts"])
        made = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
        line("fused", f"{fused['tensors']} such as {fused['such_as']}: {made}")
    line("tokenizer", _tokenizer(facts["tokenizer"]))
    console.print()
    table = Table(
        "part", "role", "tensors", "parameters", "shapes", "such as", box=None, header_style="bold", pad_edge=False
    )
    for row in facts["roles"]:
        shapes = ", ".join(row["shapes"])
        numbers = (str(row["tensors"]), count(row["parameters"]))
        table.add_row(row["part"], row["role"], *numbers, shapes, row["such_as"])
    console.print(table, markup=False)
    for other in facts.get("merging", ()):
        console.print()
        verdict = "merges with this model" if other["merges"] else "does not merge with this model"
        console.print(f"{other['location']} {verdict}", style="bold", markup=False)
        for text in (*other["why_not"], *other["remarks"]):
            console.print(f"  {text}", markup=False)


def _tokenizer(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "none"
    kind = " ".join(filter(None, (facts["type"], f"({facts['class']})" if facts["class"] else "")))
    words = f", {facts['vocabulary']} tokens" if facts["vocabulary"] else ""
    special = ", ".join(f"{key.removesuffix('_token')} {value}" for key, value in facts["special"].items())
    template = "a chat template" if facts["chat_template"] else "no chat template"
    return f"{kind or 'of an unknown type'}{words}{'; ' + special if special else ''}; {template}"
