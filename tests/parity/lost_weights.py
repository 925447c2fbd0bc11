"""Weights that mergekit 0.1.5 loses, without an error or with one."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from tests.parity.cases import BARE, based, two
from tests.parity.compare import Tensors, loaded, stored
from tests.parity.differences import Bench, Outcome, difference
from tests.parity.stacks import slices


def lost(bench: Bench, family: str) -> Outcome:
    text = two("linear", own="weight: 0.5|weight: 0.5")
    wanted = loaded_average(bench, family)
    theirs, mine = stored(bench.theirs(text, family)), loaded(bench.mine(text, family))
    whole = stored(bench.member("a", family))
    missing = len(whole) - len(theirs.keys() & whole.keys())
    trained = [name for name in wanted if not name.endswith("correction_bias")]  # a buffer, copied from the first model
    gap = max((mine[name] - wanted[name]).abs().max().item() for name in trained)
    return (
        f"writes {len(theirs)} tensors of {len(whole)}, without an error",
        f"merges all {len(whole)}; largest error {gap:.0e}",
        missing > 0 and gap < 1e-6,
    )


def loaded_average(bench: Bench, family: str) -> Tensors:
    a, b = (loaded(bench.member(name, family)) for name in "ab")
    return {name: (tensor + b[name]) / 2 for name, tensor in a.items()}


@difference("experts of DeepSeek-V3")
def experts(bench: Bench) -> Outcome:
    return lost(bench, "deepseek_v3")


@difference("biases of Llama")
def biases(bench: Bench) -> Outcome:
    return lost(bench, "llama_bias")


@difference("norms of Gemma under slerp")
def offsets(bench: Bench) -> Outcome:
    text = two("slerp", top="base_model: $a", parameters="t: 0.4", own=BARE)
    theirs, mine = stored(bench.theirs(text, "gemma2")), stored(bench.mine(text, "gemma2"))
    a, b = (stored(bench.member(name, "gemma2")) for name in "ab")
    norms = [name for name in a if "norm" in name]
    average = {name: 0.6 * a[name] + 0.4 * b[name] for name in norms}
    gaps = [max((side[name] - average[name]).abs().max().item() for name in norms) for side in (theirs, mine)]
    return (
        "turns their offsets from one as if they were directions",
        f"averages them; largest error {gaps[1]:.0e}",
        gaps[0] > 100 * gaps[1] and gaps[1] < 1e-6,
    )


@difference("depth of Qwen2")
def depth(bench: Bench) -> Outcome:
    text = slices("passthrough", "a 0 3", "b 1 4")
    error = bench.complaint(lambda: bench.theirs(text, "qwen2"))
    out = bench.mine(text, "qwen2")
    model = AutoModelForCausalLM.from_pretrained(out)
    loaded(out)
    finite = bool(model(torch.arange(8)[None]).logits.isfinite().all())
    left = sorted(path.name for path in (bench.folder / "mergekit").iterdir())
    kind = error.split(":")[1].strip() if ":" in error else error
    return (
        f"{kind} after the weights are written; leaves {', '.join(left)}",
        f"a model of {model.config.num_hidden_layers} layers that loads and runs",
        bool(error) and "config.json" not in left and finite and model.config.num_hidden_layers == 6,
    )


@difference("head of a stack")
def head(bench: Bench) -> Outcome:
    text = slices("linear", "a 0 2 {weight: 1}", "a 2 4 {weight: 1}; b 2 4 {weight: 1}")
    name = "lm_head.weight"
    theirs, mine = stored(bench.theirs(text))[name], stored(bench.mine(text))[name]
    a, b = (stored(bench.member(each))[name] for each in "ab")
    return (
        "the head of a one-source first slice is the first model's, whatever the last slice merges",
        "the head is merged as the last slice says",
        torch.equal(theirs, a) and torch.allclose(mine, (a + b) / 2, atol=1e-7),
    )


@difference("experts are fused")
def fused(bench: Bench) -> Outcome:
    text = based("ties", "density: 0.5", own="weight: 1")
    theirs, mine = stored(bench.theirs(text, "mixtral")), stored(bench.mine(text, "mixtral"))
    base = stored(bench.member("base", "mixtral"))
    shares = {round(float((mine[name] != tensor).float().mean()), 3) for name, tensor in base.items()}
    return (
        f"merges all experts of a layer as one tensor and writes {len(theirs)} names for {len(base)}",
        f"merges each matrix by itself (kept of each: {', '.join(map(str, sorted(shares)))}), names unchanged",
        theirs.keys() != base.keys() and mine.keys() == base.keys() and shares == {0.5},
    )
