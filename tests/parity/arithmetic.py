"""Numbers of mergekit 0.1.5 that are not those of the method."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from tests.parity.cases import based, two
from tests.parity.compare import Tensors, rms, stored
from tests.parity.differences import Bench, Outcome, brief, difference


def toward(bench: Bench, name: str, shares: dict[str, float]) -> Path:
    """base + sum of shares times (member - base)."""
    members = {member: stored(bench.member(member)) for member in shares}

    def move(base: Tensors) -> Tensors:
        return {
            tensor: start + sum(share * (members[member][tensor] - start) for member, share in shares.items())
            for tensor, start in base.items()
        }

    return bench.variant(name, move)


def against(bench: Bench, text: str, truth: Callable[[torch.Tensor, list[torch.Tensor]], torch.Tensor]) -> list[float]:
    """The largest error of each program's task vectors against a formula, relative to their root mean square."""
    theirs, mine = stored(bench.theirs(text)), stored(bench.mine(text))
    base, one, two_ = (stored(path) for path in (bench.member("base"), bench.folder / "one", bench.folder / "two"))
    worst = [0.0, 0.0]
    for name, start in base.items():
        origin = start.double()
        wanted = truth(origin, [one[name].double() - origin, two_[name].double() - origin])
        size = rms(wanted - origin)
        for side, result in enumerate((theirs, mine)):
            worst[side] = max(worst[side], rms(result[name].double() - wanted) / size)
    return worst


@difference("SCE on close fine-tunes")
def sce(bench: Bench) -> Outcome:
    one, two_ = toward(bench, "one", {"a": 0.02}), toward(bench, "two", {"b": 0.04})

    def truth(base: torch.Tensor, deltas: list[torch.Tensor]) -> torch.Tensor:
        stack = torch.stack(deltas)
        energy = stack.square().flatten(1).sum(1)
        weight = (energy / energy.sum()).reshape(-1, *[1] * base.dim())
        agrees = stack.sign() == (stack.sum(0) >= 0) * 2 - 1
        return base + (weight * stack * agrees).sum(0) / (weight * agrees).sum(0)

    text = f"merge_method: sce\nbase_model: $base\nmodels: [{{model: {one}}}, {{model: {two_}}}]\n"
    theirs, mine = against(bench, text, truth)
    return (
        f"at differences of rms 2e-4 and 4e-4 the weights become equal: {theirs:.0%} off the formula",
        f"weights as in the formula: {mine:.1%} off",
        theirs > 0.1 and mine < 0.01,
    )


@difference("Model Stock on close fine-tunes")
def stock(bench: Bench) -> Outcome:
    one, two_ = toward(bench, "one", {"a": 0.003, "c": 0.003}), toward(bench, "two", {"b": 0.003, "c": 0.003})

    def truth(base: torch.Tensor, deltas: list[torch.Tensor]) -> torch.Tensor:
        cosine = (deltas[0] * deltas[1]).sum() / (deltas[0].norm() * deltas[1].norm())
        return base + 2 * cosine / (1 + cosine) * (deltas[0] + deltas[1]) / 2

    text = f"merge_method: model_stock\nbase_model: $base\nmodels: [{{model: {one}}}, {{model: {two_}}}]\n"
    theirs, mine = against(bench, text, truth)
    return (
        f"at differences of rms 4e-5 the cosine of small tensors is cut off: {theirs:.0%} off the formula",
        f"as in the formula: {mine:.1%} off",
        theirs > 0.1 and mine < 0.01,
    )


@difference("weights that sum to zero")
def zero(bench: Bench) -> Outcome:
    text = two("linear", own="weight: 1|weight: -1")
    theirs = stored(bench.theirs(text))
    broken = sum(not tensor.isfinite().all() for tensor in theirs.values())
    refusal = bench.complaint(lambda: bench.mine(text))
    return (
        f"writes {broken} tensors of NaN and infinity, without an error",
        brief(refusal),
        broken > 0 and bool(refusal),
    )


@difference("NaN in a model")
def not_a_number(bench: Bench) -> Outcome:
    def spoil(weights: Tensors) -> Tensors:
        weights["model.norm.weight"][3] = torch.nan
        return weights

    text = two("linear").replace("$b", str(bench.variant("spoilt", spoil)))
    theirs = stored(bench.theirs(text))["model.norm.weight"]
    refusal = bench.complaint(lambda: bench.mine(text))
    return "writes the NaN, without an error", brief(refusal), bool(theirs.isnan().any()) and "norm" in refusal


@difference("dtype of Arcee Fusion")
def arcee(bench: Bench) -> Outcome:
    text = based("arcee_fusion", own=" ").replace("dtype: $dtype\n", "")
    theirs, mine = bench.theirs(text, dtype="bfloat16"), bench.mine(text, dtype="bfloat16")
    kinds = [{str(tensor.dtype).removeprefix("torch.") for tensor in stored(path).values()} for path in (theirs, mine)]
    says = json.loads((theirs / "config.json").read_text())["dtype"]
    return (
        f"of bfloat16 models it writes {', '.join(kinds[0])}; its config says {says}",
        f"writes {', '.join(kinds[1])}",
        kinds == [{"float32"}, {"bfloat16"}] and says == "bfloat16",
    )


@difference("randomness of one tensor")
def streams(bench: Bench) -> Outcome:
    text = based("dare_linear", own="weight: 1, density: 0.5")
    other = text.replace("density: 0.5", "density: [{filter: lm_head, value: 1.0}, {value: 0.5}]")
    changed = []
    for run in (bench.session.theirs, lambda folder, name, *rest: bench.session.mine(folder, *rest)):
        outs = []
        for number, each in enumerate((text, other)):
            folder = bench.folder / f"{len(changed)}-{number}"
            folder.mkdir()
            outs.append(stored(run(folder, "out", each, "llama", "float32")))
        changed.append(sum(not torch.equal(tensor, outs[1][name]) for name, tensor in outs[0].items()))
    return (
        f"another density for the head changes {changed[0]} tensors",
        f"it changes {changed[1]}",
        changed[0] > 1 and changed[1] == 1,
    )
