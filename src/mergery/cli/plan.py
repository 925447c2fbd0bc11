"""`mergery plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from mergery.cli.common import (
    CHUNK,
    Allow,
    DeviceName,
    Document,
    Drop,
    Only,
    RecipeFile,
    Set,
    Threads,
    console,
    flowing,
    print_json,
    read_recipe,
    run_options,
    table,
)

if TYPE_CHECKING:
    from mergery.planning.plan import Plan
    from mergery.run.workers import Options

MOST = 40  # treatments shown


@flowing
def plan(
    recipe: RecipeFile,
    out: Path | None = None,
    /,
    *,
    threads: Threads = 0,
    device: DeviceName = "cpu",
    values: Set = (),
    allow: Allow = (),
    drop: Drop = (),
    only: Only = (),
    graph: str = "",
    json: Document = False,
    quiet: Annotated[bool, Parameter(name=("--quiet", "-q"), help="Print nothing but what is wrong.")] = False,
    verbose: Annotated[
        bool, Parameter(name=("--verbose", "-v"), help="Print every part, however many there are.")
    ] = False,
) -> None:
    """Show what merging RECIPE would do, from headers alone, without writing anything.

    Exits with code 2 and every problem at once when the recipe cannot run.

    Parameters
    ----------
    recipe
        A YAML file: a Mergery recipe or a mergekit file; - is standard input.
    out
        The output folder, to check that it can be written.
    graph
        Show how this tensor of the output comes to be, node by node, and nothing else; a pattern shows several.
    """
    from mergery import api
    from mergery.run.output import outlook, place_of

    options = run_options(threads, CHUNK, device)
    planned = api.plan(read_recipe(recipe, values, allow, drop), only=only)
    output = outlook(planned, place_of(out)) if out is not None else ""
    if quiet:
        planned.close()
    elif graph:
        show_graph(planned, graph, json=json)
    else:
        show(planned, options, json=json, output=output, most=None if verbose else MOST)


def show(plan: Plan, options: Options, *, json: bool, output: str = "", most: int | None = MOST) -> None:
    """Print what a plan would do, and close it. `output` says what would become of the output folder."""
    from mergery.report.explain import explain

    facts = explain(plan, options)
    facts |= {"folder": output} if output else {}
    tokenizer = plan.tokenizer_from
    plan.close()
    if json:
        print_json(facts)
    else:
        facts["output"]["tokenizer"] = tokenizer
        show_facts(facts, most)


def show_graph(plan: Plan, names: str, *, json: bool) -> None:
    """Print how tensors of the output come to be, and close the plan."""
    from mergery.report.trees import lines, trees

    found = trees(plan, names)
    plan.close()
    if json:
        print_json(found)
    else:
        print("\n".join(line for tree in found for line in lines(tree)))


def show_facts(facts: dict[str, Any], most: int | None = MOST) -> None:
    """Print a plan for a person."""
    from mergery.errors import size
    from mergery.report.words import about, several, vocabulary_line

    out = console()
    models = table("model", "source", "revision", "tensors")
    for name, model in facts["models"].items():
        models.add_row(name, model["location"], str(model.get("revision", ""))[:12], str(model["tensors"]))
    out.print(models)
    out.print()
    parts = table("tensors", "layers", "roles", "what they get")
    for part in facts["parts"][:most]:
        time = f", {about(part['seconds'])}" if part["seconds"] >= 1 else ""
        what = f"{part['what']}: {part['route']}{time}" if "route" in part else part["what"]
        parts.add_row(str(part["tensors"]), part["layers"] or "-", ", ".join(part["roles"]), what)
    out.print(parts)
    if most is not None and len(facts["parts"]) > most:
        out.print(f"... and {len(facts['parts']) - most} more; --verbose shows them")
    out.print()
    output = facts["output"]
    files = several(len(output["shards"]), "file")
    lines = [
        ("output", f"{output['tensors']} tensors in {output['dtype']}, {output['layers']} layers, {files}"),
        *(
            [("adapter for", output["adapter"])]
            if "adapter" in output
            else [("config from", output["config"]), ("tokenizer from", output["tokenizer"])]
        ),
        *([("vocabulary", vocabulary_line(output["vocabulary"]))] if output["vocabulary"] else []),
        ("reads", size(facts["bytes_in"])),
        ("writes", size(facts["bytes_out"])),
        ("peak memory", f"about {size(facts['peak_memory'])}"),
        *([("on each GPU", f"about {size(facts['device_memory'])}")] if facts["device_memory"] else []),
        ("time", about(facts["seconds"])),
        *([("folder", facts["folder"])] if "folder" in facts else []),
    ]
    for name, text in lines:
        out.print(f"{name:15}", style="bold", end="")
        out.print(text)
    if facts["chat"]:
        out.print("chat template ", style="bold", end="")
        out.print(facts["chat"].get("error", "a conversation in it:"))
        for line in facts["chat"].get("text", "").splitlines():
            out.print(f"  {line}")
    for note in facts["notes"]:
        out.print(note)
    for text in facts["advice"]:
        out.print(f"advice: {text}")
    for warning in facts["warnings"]:
        out.print(f"warning: {warning}", style="yellow")
