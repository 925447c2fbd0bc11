"""`mergery diagnose`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergery.cli.common import Document, console, flowing, print_json, table, wait_without_spinning

if TYPE_CHECKING:
    from mergery.alignment.diagnosis.verdict import Diagnosis


@flowing
def diagnose(model: str, other: str, /, *, json: Document = False) -> None:
    """Say how far two models are from each other, and which doors that opens: merge, align, rebase, transport, distil.

    A sample of their weights is read, layer by layer: the same weights, one lineage, an order of neurons that differs, turned
    coordinates, other beginnings or other architectures are told apart, with the figures that say so.

    Parameters
    ----------
    model
        A model folder, a weight file or a hub id.
    other
        The model that it is to go with.
    """
    wait_without_spinning()
    from mergery import api

    found = api.diagnose(model, other)
    if json:
        print_json(found.plain())
    else:
        _show(found)


def _show(found: Diagnosis) -> None:
    from mergery.alignment.diagnosis.verdict import WORDS, mean

    screen = console()
    screen.print(f"{found.models[0]} and {found.models[1]}: {WORDS[found.verdict]}", style="bold")
    for line in found.why:
        screen.print(f"  {line}")
    if not found.facts["tokenizer"]:
        screen.print("  their tokenizers differ")
    if found.matrices:
        figures = table("matrices", "cosine", "distance", "rows found", "elsewhere", "lengths apart")
        for role in dict.fromkeys(each.role for each in found.matrices):
            some = [each for each in found.matrices if each.role == role]
            turned = [mean(some, name, turned=True) for name in ("found", "moved", "lengths")]
            figures.add_row(
                role, f"{mean(some, 'cosine'):.3f}", f"{mean(some, 'distance'):.3f}", f"{turned[0]:.0%}",
                f"{turned[1]:.0%}", f"{turned[2]:.1e}",
            )  # fmt: skip
        screen.print()
        screen.print(figures)
    screen.print()
    shown = table("door", "", "why")
    for door in found.doors:
        shown.add_row(door.name, door.state, door.why)
    screen.print(shown)
    for door in found.doors:
        if door.command:
            screen.print(f"  {door.command}")
