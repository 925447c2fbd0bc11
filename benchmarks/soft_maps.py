"""What soft maps are worth: OTFusion and ZipIt! on pairs of networks from different seeds, beside exact alignment.

    python -m benchmarks.soft_maps                          what is missing, and the page: some minutes of one core
    python -m benchmarks.soft_maps --only digits-32-0       one piece again: digits-, wider- or halves-WIDTH-PAIR, or text-PAIR
    python -m benchmarks.soft_maps --page                   the page from the figures that are kept

Small networks for handwritten digits: of one width, of two, and trained on half of the digits each; and small Llamas on the
text of Python's own library. Everything goes through recipes, as a user would say it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.pages import HERE, figures, keep, machine, table
from safetensors.torch import load_file

from benchmarks import alignment

WIDTHS, PAIRS, EVERY = (32, 128, 512), 3, 1300
DIGITS: dict[str, tuple[str, Any]] = {
    "naive": ("as they are", None),
    "weights": ("exact order, by weights", {}),
    "transport-weights-0": ("transport, weights, exact", {"method": "transport", "epsilon": 0}),
    "transport-weights": ("transport, weights, soft", {"method": "transport"}),
    "transport-data-0": ("transport, activations, exact", {"method": "transport", "epsilon": 0, "data": True}),
    "transport-data": ("transport, activations, soft", {"method": "transport", "data": True}),
    "zip-pairs": ("zip, pairs alone (budget 0)", {"method": "zip", "budget": 0, "data": True}),
    "zip": ("zip", {"method": "zip", "data": True}),
}
HALVES: dict[str, tuple[str, Any]] = {
    **{name: DIGITS[name] for name in ("naive", "weights", "transport-data-0", "transport-data", "zip-pairs", "zip")},
    "zip-free": ("zip, budget 1", {"method": "zip", "budget": 1, "data": True}),
}
TEXTS: dict[str, tuple[str, Any]] = {
    "naive": ("as they are", None),
    "activations": ("activations, exact", {"method": "activations", "data": True}),
    "transport-data-0": ("transport, activations, exact", {"method": "transport", "epsilon": 0, "data": True}),
    "transport-data": ("transport, activations, soft", {"method": "transport", "data": True}),
    "transport-heads": (
        "transport, activations, soft, heads too",
        {"method": "transport", "data": True, "spaces": ["residual", "mlp", "heads"]},
    ),
    "transport-weights": ("transport, weights, soft", {"method": "transport"}),
    "zip": ("zip", {"method": "zip", "data": True}),
}
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soft_maps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=None, help="pieces to measure again")
    parser.add_argument("--page", action="store_true", help="write the page from what is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {"digits": digits, "wider": wider, "halves": halves}
    wanted = [f"{kind}-{width}-{pair}" for kind in kinds for width in WIDTHS for pair in range(PAIRS)]
    wanted = options.only or [*wanted, *(f"text-{pair}" for pair in range(PAIRS))]
    for piece in [] if options.page else wanted:
        kind, *rest = piece.split("-")
        if options.only or piece not in figures("soft_maps").get("pieces", {}):
            with tempfile.TemporaryDirectory() as root:
                os.environ["XDG_CACHE_HOME"] = root
                found = text(Path(root), int(rest[0])) if kind == "text" else kinds[kind](Path(root), *map(int, rest))
            data = figures("soft_maps")
            keep("soft_maps", {**data, "machine": machine(), "pieces": {**data.get("pieces", {}), piece: found}})
            print(piece, json.dumps(found), flush=True)
    place = HERE.parent / "docs" / "soft-maps.md"
    if place.exists():
        place.write_text(page(figures("soft_maps"), place.read_text()))


# --- digits ----------------------------------------------------------------------------------------------------------------


def merged(root: Path, said: Any, merge: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """The merge of the networks in `a` and `b` as a recipe says."""
    import mergery

    models = {name: str(root / name) for name in ("a", "b")}
    recipe: dict[str, Any] = {"models": models, "merge": merge or {"method": "linear"}}
    if said is not None:
        data = {"data": str(root / "inputs.npy"), "samples": EVERY} if said.get("data") else {}
        recipe["align"] = {"to": "a", **said, **data}
    return mergery.merge(recipe)


def put(root: Path, name: str, state: dict[str, torch.Tensor]) -> None:
    alignment.as_folder(state, root / name)
    (root / name / "config.json").write_text(json.dumps({"model_type": "mlp", "hidden_act": "relu"}))


def accuracy(state: dict[str, Any], test: tuple[torch.Tensor, torch.Tensor]) -> float:
    return float((alignment.outputs(state, test[0])[-1].argmax(1) == test[1]).float().mean())


def digits(root: Path, width: int, pair: int) -> dict[str, float]:
    """Accuracy of the average of two networks of a width."""
    return between(root, (width, width), pair, tuple(DIGITS))


def wider(root: Path, width: int, pair: int) -> dict[str, float]:
    """Accuracy of the average of a network and one of twice its width, in the coordinates of the first."""
    return between(root, (width, 2 * width), pair, tuple(name for name in DIGITS if name.startswith("transport")))


def between(root: Path, widths: tuple[int, int], pair: int, names: tuple[str, ...]) -> dict[str, float]:
    train, test = alignment.digits_data()
    np.save(root / "inputs.npy", train[0].numpy())
    states = [alignment.train_digits(width, 2 * pair + turn, train) for turn, width in enumerate(widths)]
    for name, state in zip("ab", states, strict=True):
        put(root, name, state)
    ends = {name: accuracy(state, test) for name, state in zip("ab", states, strict=True)}
    return {**ends, **{name: accuracy(merged(root, DIGITS[name][1]), test) for name in names}}


def halves(root: Path, width: int, pair: int) -> dict[str, float]:
    """Accuracy on all digits of merges of a network that has seen those below five and one that has seen the others."""
    train, test = alignment.digits_data()
    np.save(root / "inputs.npy", train[0].numpy())
    states = []
    for turn in range(2):
        rows = (train[1] >= 5) == bool(turn)
        states.append(alignment.train_digits(width, 2 * pair + turn, (train[0][rows], train[1][rows])))
        put(root, "ab"[turn], states[-1])

    def joint(both: list[dict[str, Any]]) -> float:
        said = [alignment.outputs(state, test[0])[-1] for state in both]
        return float((torch.cat([said[0][:, :5], said[1][:, 5:]], 1).argmax(1) == test[1]).float().mean())

    def own_heads(said: Any) -> float:
        rests = [[{"where": {"name": f"{layer}.*"}, "take": name} for layer in (1, 2)] for name in "ab"]
        return joint([merged(root, said, {"method": "linear", "parts": rest}) for rest in rests])

    found = {name: accuracy(merged(root, said), test) for name, (_, said) in HALVES.items()}
    found["both"] = joint(states)
    found["naive-heads"] = own_heads(None)
    found["weights-heads"] = own_heads({"spaces": ["mlp"]})
    found["zip-heads"] = own_heads({"method": "zip", "data": True, "stop": 1})
    return found


# --- text ------------------------------------------------------------------------------------------------------------------


def text(root: Path, pair: int) -> dict[str, Any]:
    """Losses of one pair of small Llamas: of the average, and of the mapped model alone."""
    import mergery

    length = alignment.LENGTH
    corpus, held = alignment.texts()
    folders = [alignment.train_text(2 * pair + turn, corpus) for turn in range(2)]
    (root / "texts.txt").write_text(held[:60_000])
    tokens = torch.tensor(alignment.encode(held[60_000:160_000]))
    tokens = tokens[: len(tokens) // length * length].view(-1, length)[:256]
    module = alignment.loaded(folders[0])

    def loss(state: dict[str, Any]) -> float:
        module.load_state_dict(state, strict=False)
        with torch.no_grad():
            return float(np.mean([float(module(rows, labels=rows).loss) for rows in tokens.split(64)]))

    def made(merge: dict[str, Any], said: Any) -> dict[str, Any]:
        data = {"data": str(root / "texts.txt"), "samples": 60, "length": length} if said.get("data") else {}
        models = {name: str(folder) for name, folder in zip("ab", folders, strict=True)}
        return mergery.merge({"models": models, "merge": merge, "align": {"to": "a", **said, **data}})

    one, other = (load_file(folder / "model.safetensors") for folder in folders)
    found: dict[str, Any] = {"losses": [loss(one), loss(other)]}
    for name, (_, said) in TEXTS.items():
        if name == "zip":
            found[name] = {"middle": loss(made({"method": "linear"}, said))}
            continue
        state = other if said is None else made({"method": "passthrough", "models": ["b"]}, said)
        found[name] = {"alone": loss(state), "middle": loss({key: (one[key] + state[key]) / 2 for key in one})}
    return found


# --- the page --------------------------------------------------------------------------------------------------------------


def spread(values: list[float]) -> str:
    """The mean, and the least and the largest."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def of_widths(data: dict[str, Any], kind: str, rows: dict[str, str]) -> list[str]:
    """A table of accuracies: a row for each way, a column for each width."""
    pieces = {
        width: [found for name, found in data["pieces"].items() if name.startswith(f"{kind}-{width}-")]
        for width in WIDTHS
    }
    known = [width for width in WIDTHS if pieces[width]]
    lines = [
        [words, *(spread([found[name] for found in pieces[width]]) for width in known)] for name, words in rows.items()
    ]
    return table(["", *(f"width {width}" for width in known)], lines)


def of_texts(pairs: list[dict[str, Any]]) -> list[str]:
    """What was measured on small Llamas; nothing where nothing was."""
    if not pairs:
        return []
    lines = []
    for name, (words, _) in TEXTS.items():
        found = [pair[name] for pair in pairs]
        alone = spread([each["alone"] for each in found]) if "alone" in found[0] else ""
        lines.append([words, spread([each["middle"] for each in found]), alone])
    number = f"{len(pairs)} pairs" if len(pairs) > 1 else "one pair"
    ends = spread([value for pair in pairs for value in pair["losses"]])
    return [
        f"Small Llamas (two layers, 64 channels) on the bytes of Python's library, {number}; the ends' losses are",
        f"{ends} nats a byte, and that of a model that knows nothing is 5.545:",
        "",
        *table(["aligned by", "loss of the average", "loss of the mapped model alone"], lines),
        "",
    ]


def page(data: dict[str, Any], text: str) -> str:
    """The page with the figures in their place."""
    words = {name: each for name, (each, _) in DIGITS.items()}
    transports = {name: each for name, each in words.items() if name.startswith("transport")}
    own = {
        "both": "both networks side by side, own heads (twice the weights)",
        "naive-heads": "first layer averaged as it is, own rest",
        "weights-heads": "first layer averaged in an exact order, own rest",
        "zip-heads": "zip of the first layer (stop: 1), own rest",
    }
    told = [
        f"Accuracy on unseen digits of the average of two networks with two hidden layers, {PAIRS} pairs for each width,",
        "each network from its own seed: mean (least to largest). Data are the images that both were",
        "trained on, without their labels.",
        "",
        *of_widths(data, "digits", {"a": "the first network", "b": "the second", **words}),
        "",
        "The same where the second network is twice as wide, and is taken into the coordinates of the first:",
        "",
        *of_widths(data, "wider", {"a": "the first network", "b": "the second", **transports}),
        "",
        "Where the first network has seen the digits 0 to 4 alone and the second 5 to 9, accuracy on all ten. One network of",
        "one head:",
        "",
        *of_widths(data, "halves", {name: each for name, (each, _) in HALVES.items()}),
        "",
        "And two networks that share their first layer, where the largest of the first's answers for 0 to 4 and the second's",
        "for 5 to 9 counts:",
        "",
        *of_widths(data, "halves", own),
        "",
        *of_texts([found for name, found in data["pieces"].items() if name.startswith("text-")]),
        f"Measured by `python -m benchmarks.soft_maps` on {data['machine']}.",
    ]
    before, _, rest = text.partition(BEGIN)
    return "\n".join([before.rstrip("\n"), "", BEGIN, "", *told, "", END]) + (rest.partition(END)[2] or "\n")


if __name__ == "__main__":
    main()
