"""docs/transport.md with its figures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.pages import table
from benchmarks.transport.measure import SHARES, STEPS, TARGETS, TUNED, WAYS
from benchmarks.transport.pairs import LITTLE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "transport.md"
BLOCK = re.compile(r"(<!-- made: python -m benchmarks.transport, (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
STUDENT = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
"""Of a 95 % interval, by the number of seeds."""
AGAINST = (
    ("attention", "attention, shrink"),
    ("attention", "attention, shuffled"),
    ("attention and MLP", "attention and MLP, shrink"),
    ("what it learnt", "what it learnt, shuffled"),
)
"""Ways and their controls, compared on the same targets."""


def page(data: Mapping[str, Any]) -> str:
    """The page, its tables made again."""
    makers = {"planted": planted, "pair": pair, "tuned": tuned}
    text = PAGE.read_text(encoding="utf-8")
    return BLOCK.sub(lambda match: match[1] + "\n".join(["", *makers[match[2]](data), ""]) + "\n" + match[3], text)


def planted(data: Mapping[str, Any]) -> list[str]:
    """Errors of planted sources, and sizes by mode."""
    found = data["planted"]
    errors = {(each["source"], each["rows"], each["epsilon"], each["layers"]): each["error"] for each in found["rows"]}
    columns = [(rows, epsilon) for rows in ("tokens", "prompts") for epsilon in (0.1, 0.03, 0.01)]
    sources = list(dict.fromkeys(each["source"] for each in found["rows"]))
    couplings = [each for each in found["rows"] if each["layers"] != "argmin"]
    others = ", ".join(f"{each['error']:.2g} with `{each['layers']}`" for each in couplings)
    outputs, inputs = found["shape"][0], found["source shape"][1]
    sizes = found["sizes"]
    return [
        f"A query matrix of {outputs} outputs, brought over from a source of {inputs} inputs, has "
        f"{sizes['normalised']:.2f} times the norm of the target's in the mode `normalised`, {sizes['released']:.2g} in "
        f"`released` and {sizes['paper']:.2g} in `paper`. `released` over `normalised` is "
        f"{sizes['released'] / sizes['normalised']:.3g}; one over outputs times inputs is {1 / (outputs * inputs):.3g}.",
        "",
        *table(
            ["source: relative error of logits", *(f"{rows}, epsilon {epsilon:g}" for rows, epsilon in columns)],
            [[name, *(f"{errors[name, *each, 'argmin']:.2g}" for each in columns)] for name in sources],
        ),
        "",
        f"The last source with other couplings of layers, tokens and epsilon {couplings[0]['epsilon']:g}: {others}.",
    ]


def _interval(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:+.4f}"
    half = STUDENT.get(len(values), 2.0) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{mean:+.4f} ± {half:.4f}"


def _change(seeds: Sequence[Mapping[str, Any]], key: str, than: str, kind: str) -> str:
    both = [
        (each["scores"][key][kind], each["scores"][than][kind])
        for each in seeds
        if key in each["scores"] and than in each["scores"]
    ]
    few = f" ({len(both)})" if 0 < len(both) < len(seeds) else ""
    return _interval([one - other for one, other in both]) + few if both else ""


def _changes(seeds: Sequence[Mapping[str, Any]], target: str, way: str, control: str = "") -> list[str]:
    """At each share, in bits of code: against a control at the same share, or against the target alone."""
    keys = [
        (f"{target}|{way}|{share}", f"{target}|{control}|{share}" if control else f"{target}|alone") for share in SHARES
    ]
    return [_change(seeds, key, than, "code") for key, than in keys]


def pair(data: Mapping[str, Any]) -> list[str]:
    """Changes in bits per character, by way and share."""
    seeds, lines = data["seeds"], []
    for target in TARGETS:
        alone = f"{target}|alone"
        scores = [each["scores"][alone] for each in seeds if alone in each["scores"]]
        theirs = [each["scores"]["source|alone"] for each in seeds if "source|alone" in each["scores"]]
        own, its = (
            " and ".join(
                f"{np.mean([each[kind] for each in some]):.3f} bits per character of {kind}"
                for kind in ("code", "prose")
            )
            for some in (scores, theirs)
        )
        rows = [[way, *_changes(seeds, target, way)] for way in WAYS]
        rows += [
            [f"*{way}, against {control.rpartition(', ')[2]}*", *_changes(seeds, target, way, control)]
            for way, control in AGAINST
        ]
        lines += [
            f"**{target.capitalize()} target**, alone {own}; the source {its}. Changes of the target's on code:",
            "",
            *table(["what is transported", *(f"alpha {share:g}" for share in SHARES)], rows),
            "",
        ]
    what = f"Means and 95 % intervals over {len(seeds)} targets, with one source; below zero is better."
    return [*lines, f"{what} Where fewer targets were measured, their number stands in brackets."]


def tuned(data: Mapping[str, Any]) -> list[str]:
    """The same after fine-tuning."""
    seeds = data["seeds"]
    rows = []
    for target in TARGETS:
        for way in TUNED:
            key = f"{target}|tuned {way}"
            than = f"{target}|alone" if way == "target alone" else f"{target}|tuned target alone"
            rows.append([target, way, *(_change(seeds, key, than, kind) for kind in ("code", "prose"))])
    return [
        *table(["target", "what is fine-tuned", "code", "prose"], rows, left=["what is fine-tuned"]),
        "",
        f"{STEPS} steps on the {LITTLE:,} characters of code that the target has seen. The line of the target alone is against "
        "the target as it was; the others are against the target with the same fine-tuning.",
    ]
