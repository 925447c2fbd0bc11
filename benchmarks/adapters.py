"""How near one adapter out of several comes to their sum, by Mergery and by peft's combinations, and what is kept of each.

    python -m benchmarks.adapters                 measure, and write the figures into docs/adapters.md
    python -m benchmarks.adapters --page          write them again, without measuring

A Llama of four layers, 256 wide, and three adapters of rank 8 on all its matrices: random factors whose products have singular
values that fall by a third from one to the next, as those of trained adapters do, one of the adapters four times as long as the
other two. They are added with weights 1. The error is the length of the difference from the true sum of what they add, over
the length of that sum, all matrices together; kept is the share of each adapter's squared length that lies in the rows and
columns of the output's factors.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.pages import figures, keep, table

PAGE = Path(__file__).parents[1] / "docs" / "adapters.md"
BLOCK = re.compile(r"(<!-- made: python -m benchmarks\.adapters -->\n\n).*?(<!-- end -->)", re.S)
SIZES, RANK, FALL = (4.0, 1.0, 1.0), 8, 0.67
NAMES = ("large", "small", "other")
COMBINATIONS = (
    ("cat", {}),
    ("svd", {"svd_rank": 3 * RANK}),
    ("svd", {"svd_rank": RANK}),
    ("linear", {}),
    ("ties", {"density": 0.5}),
    ("ties_svd", {"density": 0.5, "svd_rank": RANK}),
    ("dare_linear", {"density": 0.5}),
    ("dare_linear_svd", {"density": 0.5, "svd_rank": RANK}),
    ("dare_ties", {"density": 0.5}),
    ("dare_ties_svd", {"density": 0.5, "svd_rank": RANK}),
    ("magnitude_prune", {"density": 0.5}),
    ("magnitude_prune_svd", {"density": 0.5, "svd_rank": RANK}),
)
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("exact", {}),
    (f"--rank {RANK}", {"rank": RANK}),
    (f"--rank {RANK} --calibrate pico", {"rank": RANK, "calibrate": "pico"}),
    (f"--rank {RANK} --space core", {"rank": RANK, "space": "core"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adapters", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="write the page again, without measuring")
    if not parser.parse_args().page:
        with tempfile.TemporaryDirectory() as place:
            keep("adapters", measure(Path(place)))
    PAGE.write_text(page(figures("adapters")), encoding="utf-8")


def page(data: Mapping[str, Any]) -> str:
    """docs/adapters.md with the figures."""
    rows = [
        (row["tool"], f"`{row['way']}`", row["rank"], f"{row['error']:.1e}" if row["error"] < 1e-3 else f"{row['error']:.2f}",
         *(f"{share:.0%}" for share in row["kept"]))
        for row in data["rows"]
    ]  # fmt: skip
    columns = ("tool", "way", "rank", "error", *(f"kept of {name}" for name in NAMES))
    text = "\n".join(table(columns, rows, left=("way",)))
    return BLOCK.sub(lambda match: f"{match[1]}{text}\n\n{match[2]}", PAGE.read_text(encoding="utf-8"))


def measure(place: Path) -> dict[str, Any]:
    """Make the adapters and every merge of them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import mergery

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256, intermediate_size=688, num_hidden_layers=4, vocab_size=512, num_attention_heads=8,
        num_key_value_heads=4,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place / "base")
    for seed, (name, size) in enumerate(zip(NAMES, SIZES, strict=True)):
        make_adapter(place / "base", place / name, seed, size)
    inputs = [products(place / name) for name in NAMES]
    sums = {module: reduce(np.add, (each[module][0] @ each[module][1] for each in inputs)) for module in inputs[0]}
    rows = []
    for way, settings in WAYS:
        out = place / "mergery" / str(len(rows))
        models = {name: str(place / name) for name in NAMES}
        merge = {"method": "linear", "normalize": False}
        mergery.merge({"models": models, "merge": merge, "output": {"adapter": settings or True}}, out)
        rows.append(row("Mergery", way, out, inputs, sums))
    for number, (way, settings) in enumerate(COMBINATIONS):
        out = combined(place, way, settings, number)
        rank = f", svd_rank={settings['svd_rank']}" if "svd_rank" in settings else ""
        rows.append(row("peft", f"{way}{rank}", out, inputs, sums))
    return {"rows": rows}


def make_adapter(base: Path, out: Path, seed: int, size: float) -> None:
    """An adapter of peft whose products have falling singular values."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    made = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear"))
    torch.manual_seed(seed + 1)
    fall = size * torch.tensor([FALL**place for place in range(RANK)])
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_A" in name:
                parameter.copy_(torch.linalg.qr(torch.randn(parameter.shape[1], RANK)).Q.T)
            elif "lora_B" in name:
                parameter.copy_(torch.linalg.qr(torch.randn(parameter.shape[0], RANK)).Q * fall)
    made.save_pretrained(str(out))


def combined(place: Path, way: str, settings: Mapping[str, Any], number: int) -> Path:
    """The adapter that one of peft's combinations makes."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(place / "base"), str(place / NAMES[0]), NAMES[0]
        )
        for name in NAMES[1:]:
            model.load_adapter(str(place / name), name)
        tuner: Any = model.base_model
        tuner.add_weighted_adapter(list(NAMES), [1.0] * len(NAMES), "both", combination_type=way, **settings)
        out = place / "peft" / str(number)
        model.save_pretrained(str(out), selected_adapters=["both"])
    return out / "both"


def products(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What an adapter adds to each module: scaled left and right factors, float64."""
    from safetensors.numpy import load_file

    tensors, said = (
        load_file(folder / "adapter_model.safetensors"),
        json.loads((folder / "adapter_config.json").read_text()),
    )
    found = {}
    for name, left in tensors.items():
        if name.endswith(".lora_B.weight"):
            module = name.removesuffix(".lora_B.weight")
            rank = said["rank_pattern"].get(module.removeprefix("base_model.model."), said["r"])
            alpha = said["alpha_pattern"].get(module.removeprefix("base_model.model."), said["lora_alpha"])
            found[module] = (
                left.astype(np.float64) * (alpha / rank),
                tensors[f"{module}.lora_A.weight"].astype(np.float64),
            )
    return found


def row(tool: str, way: str, out: Path, inputs: list[Any], sums: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What is found of one merge."""
    own = products(out)
    off = sum(float(np.square(own[module][0] @ own[module][1] - true).sum()) for module, true in sums.items())
    error = (off / sum(float(np.square(true).sum()) for true in sums.values())) ** 0.5
    rank = max(left.shape[1] for left, _ in own.values())
    return {"tool": tool, "way": way, "rank": rank, "error": error, "kept": list(shares(own, inputs))}


def shares(own: Mapping[str, Any], inputs: list[Any]) -> Iterator[float]:
    """The share of each adapter's squared length that lies in the columns and rows of an output's factors."""
    bases = {m: (np.linalg.qr(left)[0], np.linalg.qr(right.T)[0]) for m, (left, right) in own.items()}
    for each in inputs:
        held = sum(
            float(np.square((bases[m][0].T @ left) @ (right @ bases[m][1])).sum()) for m, (left, right) in each.items()
        )
        yield held / sum(float(np.square(left @ right).sum()) for left, right in each.values())


if __name__ == "__main__":
    main()
