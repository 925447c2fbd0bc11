"""What a step of the search costs for MLPs of the widths of language models, on one core.

    python -m benchmarks.fda.cost

Of a random MLP and one a little aside, as transformers' Llama has it. A step takes time in proportion to the number of
anchors and of blocks, so what a preset takes follows from one.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from benchmarks.pages import keep

from mergery.calibration.anchors.blocks import Block
from mergery.calibration.anchors.search import AnchorOptions, find_anchors

SHAPES = {"0.4 B": (1024, 4096, 20), "1.6 B": (2048, 8192, 22)}  # width, inner width, layers
ANCHORS, STEPS = 64, 2


def measure() -> dict[str, Any]:
    """Seconds of a step with one anchor for one block, by the size of the model."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, (width, inner, layers) in SHAPES.items():
        torch.manual_seed(0)
        module = LlamaMLP(LlamaConfig(hidden_size=width, intermediate_size=inner)).requires_grad_(False)
        base = {own: value.detach() for own, value in module.named_parameters()}
        model = {own: value + 0.002 * torch.randn_like(value) for own, value in base.items()}
        block = Block("mlp", module, {own: own for own in base}, width, False)
        seconds = []
        for steps in (0, STEPS):
            began = time.process_time()
            find_anchors(block, base, model, AnchorOptions(anchors=ANCHORS, steps=steps), "model")
            seconds.append(time.process_time() - began)
        found[name] = {"step": (seconds[1] - seconds[0]) / STEPS / ANCHORS, "layers": layers, "width": width}
        print(name, found[name], flush=True)
    return found


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m benchmarks.fda.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    keep("fda-cost", measure())


if __name__ == "__main__":
    main()
