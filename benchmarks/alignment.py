"""What alignment is worth: two networks from different seeds, and the loss on the way between them, before and after.

    python -m benchmarks.alignment --write docs/alignment.md        everything, some minutes of one core
    python -m benchmarks.alignment --only digits-64-0               one piece: digits-WIDTH-PAIR or text-PAIR
    python -m benchmarks.alignment --only text-0 --rows learned     some ways of one piece; its others are kept
    python -m benchmarks.alignment --page                           the page from the figures that are kept

Small networks for handwritten digits over widths (two hidden layers), and small Llamas on the text of Python's own library.
Each pair has other seeds for its weights and for the order of its data. The barrier is how much higher the loss is on the
way, at its worst of nine points, than between the losses of the two ends, on data that neither has seen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.pages import HERE, figures, keep, machine, table
from safetensors.torch import load_file, save_file
from torch import nn

WIDTHS = (16, 32, 64, 128, 256, 512)
PAIRS = 3
WAY = np.linspace(0.0, 1.0, 9)
DIGITS = {
    "naive": "as they are", "weights": "weights", "activations": "activations", "straight-through": "straight-through",
    "learned": "learned",
}  # fmt: skip
MIDDLES = ("naive", "weights", "activations", "learned")  # of which the accuracy in the middle is shown
ROTATING = {"spaces": ["mlp", "heads", "qk", "vo", "rotation"]}
TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "naive": ("as they are", {}),
    "mlp": ("weights, neurons alone", {"spaces": ["mlp"]}),
    "weights": ("weights, all spaces", {}),
    "rotation": ("weights, the residual stream rotated", ROTATING),
    "activations": ("activations, all spaces", {"method": "activations"}),
    "straight-through": ("straight-through, the residual stream rotated", {"method": "straight-through", **ROTATING}),
    "learned-order": ("learned, all spaces", {"method": "learned"}),
    "learned": ("learned, the residual stream rotated", {"method": "learned", **ROTATING}),
}
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alignment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=None, help="pieces to measure; train-SEED makes one model")
    parser.add_argument(
        "--rows", nargs="*", default=None, help="ways to align that are measured; all where none is said"
    )
    parser.add_argument("--page", action="store_true", help="write the page from what is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [f"digits-{width}-{pair}" for width in WIDTHS for pair in range(PAIRS)]
    wanted += [f"text-{pair}" for pair in range(PAIRS)]
    for piece in [] if options.page else options.only or wanted:
        kind, *rest = piece.split("-")
        if kind == "train":
            print(train_text(int(rest[0]), texts()[0]))
            continue
        rows = options.rows or list(DIGITS if kind == "digits" else TEXTS)
        *width, pair = map(int, rest)
        found = digits(width[0], pair, rows) if kind == "digits" else text(pair, rows)
        data = figures("alignment")
        before = data.get("pieces", {})
        where = " and ".join(dict.fromkeys([*filter(None, data.get("machine", "").split(" and ")), machine()]))
        keep("alignment", {**data, "machine": where, "pieces": {**before, piece: {**before.get(piece, {}), **found}}})
        print(piece, json.dumps(found))
    data = figures("alignment")
    place = HERE.parent / "docs" / "alignment.md"
    place.write_text(page(data, place.read_text()))
    draw(data, place.with_suffix(".png"))


def barrier(losses: list[float]) -> float:
    """How far the loss on the way is above the line between its ends, at its worst."""
    ends = (1 - WAY) * losses[0] + WAY * losses[-1]
    return float(np.max(np.array(losses) - ends))


def between(one: dict[str, Any], other: dict[str, Any], loss: Callable[[dict[str, Any]], float]) -> list[float]:
    """The loss at each point of the way from one state dict to another."""
    return [loss({name: (1 - t) * one[name] + t * other[name] for name in one}) for t in WAY.tolist()]


# --- digits ----------------------------------------------------------------------------------------------------------------


def digits(width: int, pair: int, rows: list[str]) -> dict[str, Any]:
    """Barriers of one pair of networks of a width."""
    import mergery

    train, test = digits_data()
    one, other = (train_digits(width, 2 * pair + turn, train) for turn in range(2))

    def loss(state: dict[str, Any]) -> float:
        return float(nn.functional.cross_entropy(outputs(state, test[0])[-1], test[1]))

    def accuracy(state: dict[str, Any]) -> float:
        return float((outputs(state, test[0])[-1].argmax(1) == test[1]).float().mean())

    with tempfile.TemporaryDirectory() as root:
        folders = [as_folder(state, Path(root) / name) for state, name in ((one, "one"), (other, "other"))]
        mergery.align(folders[1], folders[0], Path(root) / "out")
        aligned = {"naive": other, "weights": load_file(Path(root) / "out" / "model.safetensors")}
        aligned |= {
            name: learnt_digits(folders, name, train) for name in ("straight-through", "learned") if name in rows
        }
    aligned["activations"] = by_activations(one, other, train[0])
    found: dict[str, Any] = {"accuracy": [accuracy(one), accuracy(other)]}
    for name in rows:
        middle = {key: (one[key] + aligned[name][key]) / 2 for key in one}
        found[name] = {"barrier": barrier(between(one, aligned[name], loss)), "middle": accuracy(middle)}
    return found


def by_activations(one: dict[str, Any], other: dict[str, Any], images: torch.Tensor) -> dict[str, Any]:
    """The other network with its neurons in the order in which their outputs correlate most."""
    from mergery.alignment.matching.activations import Moments
    from mergery.alignment.matching.units import Scores, identity

    found, hidden = dict(other), [outputs(each, images)[:-1] for each in (one, other)]
    for layer, (mine, theirs) in enumerate(zip(*hidden, strict=True)):
        width = mine.shape[1]
        moments, scores = Moments.empty(width), Scores(width, signs=False)
        moments.add(mine, theirs)
        scores.signed += moments.correlation
        order = torch.from_numpy(scores.solved(identity(width, signs=False))[0].order)
        for name in (f"{layer}.weight", f"{layer}.bias"):
            found[name] = found[name][order]
        found[f"{layer + 1}.weight"] = found[f"{layer + 1}.weight"][:, order]
    return found


class DigitAnswers:
    """The loss on the digits that networks were trained on: a batch for each step, and each fourth of them to choose by."""

    def __init__(self, data: tuple[torch.Tensor, torch.Tensor]) -> None:
        kept = torch.arange(len(data[0])) % 4 == 3
        self.learnt, self.kept = ((data[0][which], data[1][which]) for which in (~kept, kept))

    def slopes(self, weights: Mapping[str, np.ndarray], step: int) -> tuple[float, dict[str, np.ndarray]]:
        state = {name: torch.from_numpy(each).requires_grad_() for name, each in weights.items()}
        rows = torch.from_numpy(np.random.default_rng(step).choice(len(self.learnt[0]), 128, replace=False))
        loss = nn.functional.cross_entropy(outputs(state, self.learnt[0][rows])[-1], self.learnt[1][rows])
        slopes = torch.autograd.grad(loss, list(state.values()))
        return float(loss), {name: each.numpy().reshape(-1) for name, each in zip(state, slopes, strict=True)}

    def held_out(self, weights: Mapping[str, np.ndarray]) -> float:
        state = {name: torch.from_numpy(each) for name, each in weights.items()}
        return float(nn.functional.cross_entropy(outputs(state, self.kept[0])[-1], self.kept[1]))


def learnt_digits(folders: list[Path], method: str, data: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The other network in coordinates that are learnt on the digits that both were trained on."""
    from mergery.alignment.finding import opened
    from mergery.alignment.matching.learning.blending import Held
    from mergery.alignment.matching.learning.descent import LearnedMatching
    from mergery.alignment.matching.pairs import Models
    from mergery.alignment.running import align_recipe
    from mergery.recipe.aligning import LEARNT

    with opened(align_recipe(folders[1], folders[0]), ("reference", "model")) as views:
        models = Models(*views)
        found = LearnedMatching(models, DigitAnswers(data), method, *LEARNT[method]).run()
        moved = Held.of(models).between(found, 1.0)
        return {name: torch.from_numpy(moved[name].reshape(node.shape)) for name, node in views[1].nodes.items()}


def digits_data() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels, to train on and to test on."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = torch.from_numpy(found.data[order] / 16.0).float()
    labels = torch.from_numpy(found.target[order])
    return (images[:1300], labels[:1300]), (images[1300:], labels[1300:])


def train_digits(width: int, seed: int, data: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    layers = [nn.Linear(*sizes) for sizes in ((64, width), (width, width), (width, 10))]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    steps = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
    for _ in range(40):
        for rows in torch.randperm(len(data[0])).split(64):
            steps.zero_grad()
            nn.functional.cross_entropy(net(data[0][rows]), data[1][rows]).backward()
            steps.step()
    return {
        f"{number}.{word}": getattr(layer, word).detach().clone()
        for number, layer in enumerate(layers)
        for word in ("weight", "bias")
    }


def outputs(state: dict[str, Any], images: torch.Tensor) -> list[torch.Tensor]:
    """What each layer says."""
    found, rows = [], images
    for layer in range(3):
        rows = rows @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        rows = rows.relu() if layer < 2 else rows
        found.append(rows)
    return found


def as_folder(state: dict[str, Any], folder: Path) -> Path:
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "mlp"}))
    return folder


# --- text ------------------------------------------------------------------------------------------------------------------

LENGTH, BATCH, STEPS = 64, 16, 700
TRAINED = 1_500_000  # letters of the corpus that models are trained on


def text(pair: int, rows: list[str]) -> dict[str, Any]:
    """Barriers of one pair of small Llamas."""
    import mergery

    corpus, held = texts()
    with tempfile.TemporaryDirectory() as kept:
        root = Path(kept)
        folders = [train_text(2 * pair + turn, corpus) for turn in range(2)]
        (root / "texts.txt").write_text(held[:60_000])
        learnt = [{"text": corpus[start : start + LENGTH]} for start in range(0, TRAINED, TRAINED // 2400)]
        (root / "learnt.jsonl").write_text("".join(json.dumps(each) + "\n" for each in learnt))
        tokens = torch.tensor(encode(held[60_000:160_000]))
        tokens = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)[:256]
        module = loaded(folders[0])

        def loss(state: dict[str, Any]) -> float:
            module.load_state_dict(state, strict=False)
            with torch.no_grad():
                return float(np.mean([float(module(rows, labels=rows).loss) for rows in tokens.split(64)]))

        one, other = (load_file(folder / "model.safetensors") for folder in folders)
        found: dict[str, Any] = {"losses": [loss(one), loss(other)]}
        for name in rows:
            state, more = other, TEXTS[name][1]
            if name != "naive":
                data: dict[str, Any] = {}
                if "method" in more:
                    own = ("texts.txt", 60) if name == "activations" else ("learnt.jsonl", 2400)
                    data = {"data": root / own[0], "samples": own[1], "length": LENGTH}
                mergery.align(folders[1], folders[0], root / name, **more, **data)
                state = load_file(root / name / "model.safetensors")
            losses = between(one, state, loss)
            found[name] = {"barrier": barrier(losses), "middle": losses[len(WAY) // 2]}
    return found


def texts() -> tuple[str, str]:
    """The text of Python's own library: to train on, and to measure on."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in folder.glob("*.py") if path.stat().st_size > 4000)
    every = [path.read_text(encoding="utf-8", errors="ignore") for path in files]
    held = "\n".join(every[::8])
    return "\n".join(each for number, each in enumerate(every) if number % 8), held


def alphabet() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    return {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}


def tokenizer() -> Any:
    """One token for each byte."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.BPE(vocab=alphabet(), merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return made


def encode(text: str) -> list[int]:
    return tokenizer().encode(text).ids


def train_text(seed: int, corpus: str) -> Path:
    """A small Llama from a seed, kept for the next run."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = HERE / ".cache" / "alignment" / f"text-{seed}-{STEPS}"
    if (folder / "tokenizer_config.json").exists():
        return folder
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    module = LlamaForCausalLM(config)
    tokens = torch.tensor(encode(corpus[:TRAINED]))
    steps = torch.optim.AdamW(module.parameters(), 3e-3, weight_decay=0.05, betas=(0.9, 0.95))
    rate = torch.optim.lr_scheduler.OneCycleLR(steps, 3e-3, STEPS, pct_start=0.1)
    for _ in range(STEPS):
        starts = torch.randint(0, len(tokens) - LENGTH, (BATCH,))
        rows = torch.stack([tokens[start : start + LENGTH] for start in starts.tolist()])
        steps.zero_grad()
        module(rows, labels=rows).loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        steps.step()
        rate.step()
    module.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def loaded(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder).eval()


# --- the page --------------------------------------------------------------------------------------------------------------


def spread(values: list[float], digits: int = 3) -> str:
    """The mean, and the least and the largest."""
    if not values:
        return ""
    ends = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ({ends})" if len(values) > 1 else f"{values[0]:.{digits}f}"


def of_width(data: dict[str, Any], width: int) -> list[dict[str, Any]]:
    return [found for name, found in data["pieces"].items() if name.startswith(f"digits-{width}-")]


def page(data: dict[str, Any], text: str) -> str:
    """The page with the figures in their place."""
    widths = [width for width in WIDTHS if of_width(data, width)]
    ways = [name for name in DIGITS if any(name in each for width in widths for each in of_width(data, width))]
    rows = []
    for width in widths:
        found = of_width(data, width)
        cells = [spread([each[name]["barrier"] for each in found if name in each], 2) for name in ways]
        shown = [[each[name]["middle"] for each in found if name in each] for name in MIDDLES if name in ways]
        middles = [f"{statistics.mean(each):.3f}" if each else "" for each in shown]
        ends = statistics.mean(value for each in found for value in each["accuracy"])
        rows.append([str(width), *cells, " / ".join(middles), f"{ends:.3f}"])
    pairs = [found for name, found in data["pieces"].items() if name.startswith("text-")]
    lines = []
    for name, (words, _) in TEXTS.items():
        found = [each[name] for each in pairs if name in each]
        if found:
            lines.append(
                [words, spread([each["barrier"] for each in found]), spread([each["middle"] for each in found])]
            )
    ends = spread([value for each in pairs for value in each["losses"]])
    most, least = (pick(len(of_width(data, width)) for width in widths) for pick in (max, min))
    counts = f"{most} pairs" if most == least else f"{least} or {most} pairs"
    number = f"{len(pairs)} pairs" if len(pairs) > 1 else "one pair"
    told = [
        f"Networks with two hidden layers for handwritten digits, {counts} for each width, each trained from its own seed.",
        "The barrier is how much higher the loss on unseen digits is on the way between the two, at its worst of nine points,",
        "than between the losses of the ends: mean (least to largest). Accuracy in the middle is "
        + " / ".join(DIGITS[name] for name in MIDDLES if name in ways)
        + ".",
        "What is learned is learned on the digits that both were trained on, 128 a step, and a quarter of them held out.",
        "Empty cells were not measured.",
        "",
        *table(
            ["width", *(f"barrier, {DIGITS[name]}" for name in ways), "accuracy in the middle", "of the ends"],
            rows,
        ),
        "",
        "![Barrier over width](alignment.png)",
        "",
        f"Small Llamas (two layers, 64 channels) on the bytes of Python's library, {number}, each model from its own seed,",
        f"with its data in its own order; the ends' losses are {ends} nats a byte, and that of a model",
        "that knows nothing is 5.545. Activations are of 60 rows of unseen text. What is learned is learned on 2400 pieces of",
        "64 letters, a quarter of them held out, of what both were trained on; the barrier is on text that neither has seen.",
        "",
        *table(["aligned by", "barrier, nats a byte", "loss in the middle"], lines),
        "",
        f"Measured by `python -m benchmarks.alignment` on {data['machine']}.",
    ]
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return "\n".join([before.rstrip("\n"), "", BEGIN, "", *told, "", END]) + (after or "\n")


def draw(data: dict[str, Any], file: Path) -> None:
    """The barrier over the width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    widths = [width for width in WIDTHS if of_width(data, width)]
    for name, words in DIGITS.items():
        values = [[each[name]["barrier"] for each in of_width(data, width) if name in each] for width in widths]
        if not all(values):
            continue
        means = [statistics.mean(each) for each in values]
        axes.plot(widths, means, marker="o", label=words)
        axes.fill_between(widths, [min(each) for each in values], [max(each) for each in values], alpha=0.15)
    axes.set(xscale="log", xlabel="width", ylabel="loss barrier")
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    axes.legend(title="aligned by", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
