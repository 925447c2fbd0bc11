"""`mergery doctor`."""

from __future__ import annotations

from mergery.cli.common import Document, console, flowing, print_json, table


@flowing
def doctor(*, json: Document = False) -> None:
    """Say what this machine has for merging, what is missing, and what that costs."""
    from mergery.report.machine import look_around

    found = look_around()
    if json:
        print_json([{"what": each.what, "found": each.found, "costs": each.costs, "try": each.hint} for each in found])
        return
    out = console(width=80)
    rows = table(show_header=False)
    for each in found:
        rows.add_row(each.what, each.found)
        if each.costs:
            rows.add_row("", f"{each.costs}: {each.hint}", style="yellow")
    out.print(rows)
