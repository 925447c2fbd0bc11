"""The files of slices, and of several documents, that both programs run."""

from __future__ import annotations

from tests.parity.cases import BARE, BOTH, based, case, two


def slices(method: str, *parts: str, top: str = "") -> str:
    """A file of slices: each part is `a 0 2, b 1 3` or the same with ` | ` and more lines of the slice."""
    lines = [f"merge_method: {method}", top, "dtype: $dtype", "slices:"]
    for part in parts:
        sources, _, more = part.partition("|")
        lines.append("  - sources:")
        for source in sources.split(";"):
            member, low, high, *own = source.split(maxsplit=3)
            extra = f", parameters: {own[0]}" if own else ""
            lines.append(f"      - {{model: ${member}, layer_range: [{low}, {high}]{extra}}}")
        lines += ["    " + more.strip()] if more else []
    return "\n".join(line for line in lines if line) + "\n"


STACKS = [
    *case("deeper", slices("passthrough", "a 0 3", "b 1 4"), "llama llama_tied mistral phi3", BOTH),
    *case("shallower", slices("passthrough", "a 0 1", "a 3 4")),
    *case("the same model twice", slices("passthrough", "a 0 3", "a 1 3", "a 2 4")),
    *case(
        "scale in a slice",
        slices(
            "passthrough",
            "a 0 3",
            "a 2 3 {scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.0}, {value: 1.0}]}",
            "a 3 4",
        ),
    ),
    *case(
        "base_model gives config and tokenizer",
        slices("passthrough", "a 0 3", "b 1 4", top="base_model: $base"),
    ),
    *case(
        "slerp of slices",
        slices(
            "slerp",
            "a 0 2; b 1 3",
            "a 1 4; b 1 4 | parameters: {t: 0.9}",
            top="base_model: $a\nparameters: {t: [0.2, 0.6]}",
        ),
        "llama mistral",
    ),
    *case(
        "linear of slices",
        slices(
            "linear",
            "a 0 2 {weight: 0.3}; b 0 2 {weight: [0.2, 0.9]}",
            "a 1 4 {weight: 1}; c 1 4 {weight: 0.5}",
        ),
        dtypes=BOTH,
    ),
    *case(
        "one layer takes the last of a gradient",
        slices(
            "linear",
            "a 0 1 {weight: [0.1, 0.8]}; b 0 1 {weight: 0.4}",
            "a 1 4 {weight: [0, 1]}; b 1 4 {weight: 0.3}",
        ),
    ),
    *case(
        "ties with a base in each slice",
        slices(
            "ties",
            "base 0 2; a 0 2 {weight: 0.5, density: 0.4}; b 0 2 {weight: 0.6} | base_model: $base",
            "c 2 4; a 2 4 {weight: 0.7}; b 2 4 {weight: [0.1, 0.9]} | base_model: $c",
            top="parameters: {density: 0.6, normalize: false}",
        ),
    ),
    *case(
        "task_arithmetic of slices",
        slices(
            "task_arithmetic",
            "base 0 3; a 0 3 {weight: 0.5}",
            "base 1 4; b 1 4 | parameters: {weight: [0.2, 0.7]}",
            top="base_model: $base\nparameters: {weight: 0.9, lambda: 0.8}",
        ),
        "llama mistral",
    ),
    *case(
        "qwen2, the same depth",
        slices("linear", "a 0 2 {weight: 0.3}; b 0 2 {weight: 0.7}", "a 2 4 {weight: 1}; b 2 4 {weight: 2}"),
        "qwen2 gemma2",
    ),
]

STAGES = [
    *case(
        "two documents",
        "name: blend\n"
        + two("slerp", top="base_model: $a", parameters="t: 0.4", own=BARE)
        + "---\n"
        + based("ties", "density: 0.5", own="weight: 0.5").replace("$a", "blend"),
    ),
    *case(
        "two documents, both rounded",
        "name: blend\n"
        + two("slerp", top="base_model: $a", parameters="t: 0.4", own=BARE)
        + "---\n"
        + based("task_arithmetic", own="weight: 0.5|weight: 0.7").replace("$a", "blend"),
        dtypes=BOTH,
    ),
    *case(
        "out of order, a stage of a stage",
        two("linear", own="weight: 0.6|weight: 0.4").replace("$a", "upper")
        + "---\nname: upper\n"
        + based("task_arithmetic", own="weight: 0.5|weight: 1").replace("model: $b\n", "model: lower\n")
        + "---\nname: lower\n"
        + two("linear", own="weight: [0, 1]|weight: 0.5|weight: 0.5"),
    ),
    *case(
        "a stack of a stage",
        "name: blend\n" + two("linear") + "---\n" + slices("passthrough", "a 0 3", "c 1 4").replace("$a", "blend"),
    ),
    *case(
        "a stage as base",
        "name: blend\n"
        + two("linear")
        + "---\n"
        + based("task_arithmetic", own="weight: 0.5").replace("$base", "blend").replace("$a", "$c"),
    ),
]
