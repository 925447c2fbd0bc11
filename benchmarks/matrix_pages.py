"""Sections of the page of costs: an 8B model as planned, one layer of it, and one matrix against the papers' formulas."""

from __future__ import annotations

from benchmarks.pages import fold, linked, table

LAYERS = {"1B": 16, "8B": 32}
COLUMNS = ("method", "matrices", "processor, s", "model, h", "planned, h", "memory, GB", "planned, GB")
MATRIX_COLUMNS = ("method", "matrix", "formula, s", "before, s", "now, s", "formula / now", "before / now")


def one_layer(data: dict) -> list[str]:
    """What `layer.py` has measured: whether the plan of an 8B model tells the truth."""
    if not data:
        return []
    tables: list[str] = []
    for machine, sizes in data["machines"].items():
        rows = []
        for size, of_methods in sizes.items():
            for name, each in of_methods.items():
                parts = each["matrices"].values()
                whole = len(parts) == each["of"]
                processor = sum(part["count"] * part["processor"] for part in parts)
                peaks = [part["peak"] for part in parts if "peak" in part]  # none where less memory is taken since
                hours = processor * LAYERS[size] / 2 / 3600
                shapes = ", ".join(f"{part['count']} of {shape}" for shape, part in each["matrices"].items())
                rows.append(
                    (linked(name), f"{size}: {shapes}",
                     f"{processor:.0f}", f"{hours:.1f}" if whole else "", f"{each['hours']:.1f}",
                     f"{max(peaks) / 1000:.1f}" if len(peaks) == len(parts) else "",
                     f"{max(part['planned'] for part in parts) / 1000:.1f}")
                )  # fmt: skip
        tables += [f"{machine}:", "", *table(COLUMNS, rows, left=("matrices",)), ""]
    return [
        "## One layer of an 8B model",
        "",
        "A layer of the shapes of Llama 3.1 8B, three fine-tunes, one thread: its processor time, that of all layers on two",
        "cores, and what `mergery plan` says of the model on an ordinary machine; the memory of the layer, and as planned.",
        "Plans take a core to make 30 billion operations in float64 a second, as an AMD EPYC with AVX2 does; one with AVX-512",
        "makes about twice as many.",
        "",
        *tables,
    ]


def planned(data: dict) -> list[str]:
    """What `layer.py --plans` has asked: hours and memory of an 8B model by every method on matrices."""
    if not data.get("plans"):
        return []
    rows = [
        (linked(name), f"{hours:.1f}", f"{memory / 1000:.1f}", f"{least / 1000:.1f}")
        for name, (hours, memory, least) in sorted(data["plans"].items(), key=lambda pair: pair[1][0])
    ]
    columns = ("method", "hours", "memory, GB", "with --threads 1, GB")
    return [
        "## An 8B model",
        "",
        "What `mergery plan` says of three fine-tunes of Llama 3.1 8B and their base, on an ordinary machine with two cores.",
        "It is careful for newer processors: what a layer took, below, shows by how much.",
        "",
        *table(columns, rows),
        "",
    ]


def one_matrix(data: dict) -> list[str]:
    """What `matrix_speed.py` has measured: against the papers' formulas and the state before the present arithmetic."""
    if not data:
        return []
    tables: list[str] = []
    for machine, shapes in data["machines"].items():
        rows = []
        for shape, of_methods in shapes.items():
            for name, each in ((name, each) for name, each in of_methods.items() if "now" in each):
                before = next((key for key in each if key not in ("now", "published")), None)
                seconds = [each[key][0] if key in each else None for key in ("published", before, "now")]
                times = [f"{other / seconds[2]:.1f}" if other and seconds[2] else "" for other in seconds[:2]]
                shown = [f"{value:.1f}" if value else "" for value in seconds]
                rows.append((linked(name), shape.replace("x", " x "), *shown, *times))
        tables += [f"{machine}:", "", *table(MATRIX_COLUMNS, rows, left=("matrix",)), ""]
    return [
        "## One matrix",
        "",
        "Processor time of three fine-tunes' matrices, outputs x inputs, in one thread and a process of its own.",
        "`formula` is what the paper states, by the decompositions that it names, in float32; `before` is Mergery as first",
        "written, in float64. An 8B model has sides of 4096 and 14336: twice as wide takes about eight times as long.",
        "",
        *fold("Figures", tables[:-1]),
    ]
