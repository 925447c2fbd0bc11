"""Inputs that are no plain models: adapters and quantised files. Told by their tensors, never by what a config says alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergery.checkpoints.adapters import Adapter, read_adapter
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.config import SCHEME
from mergery.checkpoints.quantised.codes import Codes, find_codes
from mergery.errors import Where, listed
from mergery.graph.findings import Findings


def refuse_adapters(checkpoints: Mapping[str, tuple[Checkpoint, Where | None]], findings: Findings) -> set[str]:
    """Name the adapters among the models, in one problem for each thing to do. Returns their names."""
    adapters: dict[str, Adapter] = {}
    models: list[Checkpoint] = []
    for name, (checkpoint, _) in checkpoints.items():
        if like_one_of(checkpoint, models):
            continue
        adapter = read_adapter(checkpoint)
        if adapter is None:
            models.append(checkpoint)
        else:
            adapters[name] = adapter
    alike: dict[str, dict[str, Adapter]] = {}
    for name, adapter in adapters.items():
        alike.setdefault(_way_out(adapter), {})[name] = adapter
    for way_out, group in alike.items():
        first = next(iter(group))
        names = listed(list(group))
        one = len(group) == 1
        beside = group[first].beside
        what = f"{names} {'is an adapter, not a model' if one else 'are adapters, not models'}"
        if beside:
            what = f"{names} {'has an adapter' if one else 'have adapters'} beside {'its' if one else 'their'} weights"
        facts = [
            ("" if one else f"{name} is ") + each.words + (f", for {each.base}" if each.base else "")
            for name, each in group.items()
        ]
        why = "; ".join(facts) + "; factors that are averaged one by one give another product"
        model = group[first].base or "MODEL"
        hint = way_out.format(f"{first}: {model}+{checkpoints[first][0].location}")
        findings.fail(what, where=checkpoints[first][1], why=why, hint=hint)
    return set(adapters)


def _way_out(adapter: Adapter) -> str:
    """What to do about an adapter that stands where a model should; `{}` is how the first of several is put on its model."""
    if adapter.beside:
        return "merge it in first: peft's merge_and_unload(), then save_pretrained(), and name that folder"
    if adapter.kind not in ("LoRA", "DoRA"):
        return "merge it into its model first, with the tool that trained it, and name that folder"
    return "name the model that it was made for before it, with a +, as in {}"


def like_one_of(checkpoint: Checkpoint, others: Sequence[Checkpoint]) -> bool:
    """Whether one of the others has the same config and headers, as fine-tunes of one base have: there may be 100,000."""
    return any(other.config == checkpoint.config and other.tensors == checkpoint.tensors for other in others)


def check_quantised(
    name: str, checkpoint: Checkpoint, place: Where | None, plain: list[Checkpoint], findings: Findings
) -> bool:
    """Refuse files whose numbers are codes, not weights. True for plain ones; what a config says wrongly is a warning.

    `plain` are checkpoints that were found to be, and gets those that are.
    """
    found = None if like_one_of(checkpoint, plain) else quantisation(checkpoint)
    if found is not None:
        findings.fail(
            f"the model {name!r} is quantised ({found.scheme})",
            where=place,
            why=found.why,
            hint="use its bfloat16, float16 or float32 version; this layout is not decoded",
        )
        return False
    plain.append(checkpoint)
    if scheme := _declared(checkpoint):
        findings.warnings.append(
            f"{name}: config.json has a {SCHEME} ({scheme}), but its weights are plain numbers; it is left out of the output"
        )
    return True


def quantisation(checkpoint: Checkpoint) -> Codes | None:
    """How a checkpoint is quantised, and what says so; None where it is not."""
    return find_codes(checkpoint.tensors, declared=_declared(checkpoint))


def leftover_scheme(checkpoint: Checkpoint) -> str:
    """What a config says of quantisation, where the weights are plain: left from the base of an adapter. Else empty."""
    return _declared(checkpoint) if quantisation(checkpoint) is None else ""


def _declared(checkpoint: Checkpoint) -> str:
    """The config's word for how its weights are quantised; empty where it says nothing."""
    said = checkpoint.config.quantisation
    return str(said.get("quant_method", "quantised")) if isinstance(said, dict) else "quantised" if said else ""
