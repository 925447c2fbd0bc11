"""Where mergekit 0.1.5 is wrong or silent: each claim is run, with both programs on the same files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.parity.cases import BARE, based, slices, two
from tests.parity.compare import Tensors, loaded, rms, stored
from tests.parity.programs import Mergekit, mergery, mergery_merge

if TYPE_CHECKING:
    from tests.parity.__main__ import Session

Outcome = tuple[str, str, bool]  # what mergekit did, what Mergery did, whether both are as claimed
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Difference:
    """A claim, by the name that `docs/mergekit.md` gives it, and how to see it."""

    name: str
    see: Callable[[Bench], Outcome]


@dataclass
class Bench:
    """A fresh folder, both programs and the tiny models."""

    session: Session
    folder: Path
    python: Path

    def theirs(self, text: str, family: str = "llama", dtype: str = "float32") -> Path:
        return self.session.theirs(self.folder, "mergekit", text, family, dtype)

    def mine(self, text: str, family: str = "llama", dtype: str = "float32") -> Path:
        return self.session.mine(self.folder, text, family, dtype)

    def complaint(self, run: Callable[[], object]) -> str:
        """The message with which a program refuses; empty where it does not."""
        try:
            run()
        except ValueError as error:
            return str(error)
        return ""

    def member(self, name: str, family: str = "llama", dtype: str = "float32") -> Path:
        return self.session.members(family, dtype)[name]

    def variant(self, name: str, change: Callable[[Tensors], Tensors], of: str = "base") -> Path:
        """A copy of a member of the float32 Llamas with other weights."""
        copy = self.folder / name
        shutil.copytree(self.member(of), copy)
        save_file(change(load_file(copy / WEIGHTS)), copy / WEIGHTS, {"format": "pt"})
        return copy


ALL: list[Difference] = []


def difference(name: str) -> Callable[[Callable[[Bench], Outcome]], Callable[[Bench], Outcome]]:
    def add(see: Callable[[Bench], Outcome]) -> Callable[[Bench], Outcome]:
        ALL.append(Difference(name, see))
        return see

    return add


def check(session: Session, claim: Difference, python: Path) -> tuple[list[str], str | None]:
    """The cells of the table, and what does not hold."""
    folder = session.fresh()
    try:
        theirs, mine, holds = claim.see(Bench(session, folder, python))
    except (ValueError, KeyError, OSError) as error:
        return [claim.name, "", ""], f"{type(error).__name__}: {error}"
    if holds:
        shutil.rmtree(folder)
    return [claim.name, theirs, mine], None if holds else "not as claimed"


def brief(message: str) -> str:
    """The first line of a refusal, without the folder's name."""
    if not message:
        return "accepts it"
    line = message.removeprefix("Mergery fails: ").splitlines()[0]
    return "refuses: " + re.sub(r"(?<![\w.])/\S*/", "", line).removeprefix("mergery: ")


# --- lost weights -------------------------------------------------------------------------------------------


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


# --- numbers ------------------------------------------------------------------------------------------------


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


# --- files and folders --------------------------------------------------------------------------------------


def silent(bench: Bench, text: str, sound: str) -> Outcome:
    """mergekit passes over a mistake; Mergery names it."""
    wrong = stored(bench.theirs(text))
    bench.folder = bench.session.fresh()
    right = stored(bench.theirs(sound))
    refusal = bench.complaint(lambda: bench.mine(text))
    hint = re.search(r"try: (.*)", refusal)
    same = all(torch.equal(tensor, right[name]) for name, tensor in wrong.items())
    return (
        "merges as if the line were not there",
        brief(refusal) + (f" ({hint[1]})" if hint else ""),
        same and bool(refusal),
    )


@difference("misspelt parameter")
def parameter(bench: Bench) -> Outcome:
    return silent(bench, based("ties", "densty: 0.1"), based("ties"))


@difference("misspelt key")
def key(bench: Bench) -> Outcome:
    text = two("linear", own="weight: 1|weight: 2")
    return silent(bench, text.replace("parameters: {}", "parametres: {normalize: false}"), text)


@difference("layers in the wrong order")
def backwards(bench: Bench) -> Outcome:
    text = slices("passthrough", "a 0 2", "b 3 1")
    layers = {int(number) for name in stored(bench.theirs(text)) for number in re.findall(r"layers\.(\d+)", name)}
    refusal = bench.complaint(lambda: bench.mine(text))
    return f"passes over the slice: {len(layers)} layers", brief(refusal), len(layers) == 2 and bool(refusal)


@difference("config without base_model")
def donor(bench: Bench) -> Outcome:
    paths = []
    for number, length in enumerate((64, 128, 256)):
        path = bench.variant(f"length-{number}", lambda weights: weights, of="abc"[number])
        config = json.loads((path / "config.json").read_text())
        config["max_position_embeddings"] = length
        (path / "config.json").write_text(json.dumps(config))
        paths.append(path)
    text = (
        "merge_method: linear\nparameters: {weight: 1}\nmodels: ["
        + ", ".join(f"{{model: {path}}}" for path in paths)
        + "]\n"
    )
    file = bench.folder / "config.yml"
    file.write_text(text)

    def length_of(out: Path) -> int:
        return json.loads((out / "config.json").read_text())["max_position_embeddings"]

    seen: list[int] = []
    for seed in range(8):
        with Mergekit(bench.python, bench.folder / f"log-{seed}", PYTHONHASHSEED=str(seed)) as mergekit:
            mergekit.merge(file, bench.folder / f"out-{seed}")
        seen.append(length_of(bench.folder / f"out-{seed}"))
        if len(set(seen)) > 1:
            break
    mine = length_of(bench.mine(text))
    warned = "max_position_embeddings" in mergery("plan", file).stdout
    return (
        f"max_position_embeddings of {len(seen)} runs: {', '.join(map(str, seen))}",
        f"always that of the first model: {mine}; the plan warns that the models differ",
        len(set(seen)) > 1 and mine == 64 and warned,
    )


@difference("used output folder")
def stale(bench: Bench) -> Outcome:
    text = two("linear")
    bench.session.mergekit.options = {"out_shard_size": 40_000}
    try:
        bench.theirs(text)
    finally:
        bench.session.mergekit.options = {}
    out = bench.theirs(text.replace("0.37", "0.9"))
    old = sorted(path.name for path in out.glob("*-of-*")) + [path.name for path in out.glob("*.index.json")]
    bench.mine(text)
    refusal = bench.complaint(lambda: bench.mine(text.replace("0.37", "0.9")))
    return (
        f"leaves the {len(old)} files of the earlier merge, index included, beside the new one",
        brief(refusal),
        any(name.endswith("index.json") for name in old) and bool(refusal),
    )


@difference("output onto an input")
def onto(bench: Bench) -> Outcome:
    one = bench.variant("one", lambda weights: weights, of="a")
    before = stored(one)
    text = two("linear").replace("$a", str(one))
    config = bench.session.file(bench.folder, "config.yml", text, "llama", "float32")
    refusal = mergery_merge(config, one) or ""
    unharmed = all(torch.equal(tensor, before[name]) for name, tensor in stored(one).items())
    replaced = mergery_merge(config, one, "--replace") or ""
    unharmed = unharmed and all(torch.equal(tensor, before[name]) for name, tensor in stored(one).items())
    bench.session.mergekit.merge(config, one)
    overwritten = not torch.equal(stored(one)["lm_head.weight"], before["lm_head.weight"])
    return "overwrites the input", brief(refusal), overwritten and unharmed and bool(refusal) and bool(replaced)


@difference("edited stage")
def edited(bench: Bench) -> Outcome:
    text = "name: blend\n" + two("linear") + "---\n" + two("linear", own="weight: 1|weight: 1").replace("$a", "blend")
    name = "lm_head.weight"
    first = stored(bench.theirs(text))[name]
    shutil.rmtree(bench.folder / "mergekit")
    second = stored(bench.theirs(text.replace("0.37", "5.0")))[name]
    mine = [stored(bench.mine(text))[name]]
    shutil.rmtree(bench.folder / "mergery")
    mine.append(stored(bench.mine(text.replace("0.37", "5.0")))[name])
    return (
        "goes on with the stage of the earlier run",
        "merges what the file says; stages are not stored",
        torch.equal(first, second) and not torch.equal(mine[0], mine[1]),
    )


@difference("generation_config.json")
def generation(bench: Bench) -> Outcome:
    text = two("linear", top="tokenizer_source: base\nbase_model: $a")
    theirs, mine = bench.theirs(text), bench.mine(text)
    there = [(path / "generation_config.json").exists() for path in (theirs, mine)]
    return "is not written with tokenizer_source", "is taken along", there == [False, True]


@difference("plus sign in a path")
def plus(bench: Bench) -> Outcome:
    path = bench.variant("math+code", lambda weights: weights, of="a")
    text = two("linear").replace("$a", str(path))
    error = bench.complaint(lambda: bench.theirs(text))
    return "takes what follows for an adapter and fails", "merges it", bool(error) and bool(bench.mine(text))
