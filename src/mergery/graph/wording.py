"""Lists of names and layers in messages."""

from __future__ import annotations

from mergery.errors import did_you_mean

SHOWN = 5  # names listed in a message before "and N more"


def listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def nearest(missing: list[str], extra: list[str]) -> str:
    hint = did_you_mean(missing[0], extra) if extra else ""
    return hint if hint.startswith("did you mean") else "check that the files are complete"


def ranges(numbers: list[int]) -> str:
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)
