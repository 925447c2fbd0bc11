"""Inputs that are no plain models: adapters and quantised files. Told by their tensors, never by what a config says alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergery.checkpoints.adapted import AdaptedCheckpoint
from mergery.checkpoints.adapters import Adapter, read_adapter
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.config import SCHEME
from mergery.checkpoints.quantised.codes import Codes, find_codes
from mergery.errors import Where, listed
from mergery.graph.findings import Findings
from mergery.recipe import Source

TURNED = "the model comes first, and its adapters behind it: {}"


def refuse_adapters(sources: Mapping[str, tuple[Source, Checkpoint]], findings: Findings) -> set[str]:
    """Name the adapters among the models, in one problem for each thing to do. Returns their names."""
    adapters: dict[str, Adapter] = {}
    models: list[Checkpoint] = []
    for name, (_, checkpoint) in sources.items():
        if like_one_of(checkpoint, models):
            continue
        adapter = read_adapter(checkpoint)
        if adapter is None:
            models.append(checkpoint)
        else:
            adapters[name] = adapter
    alike: dict[str, dict[str, Adapter]] = {}
    for name, adapter in adapters.items():
        way_out = TURNED if _model_behind(sources[name][1]) else _way_out(adapter)
        alike.setdefault(way_out, {})[name] = adapter
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
        source, checkpoint = sources[first]
        parts = _written(source, checkpoint)
        put_right = [group[first].base or "MODEL", *parts]
        if way_out == TURNED and isinstance(checkpoint, AdaptedCheckpoint):
            opened = zip(parts, (checkpoint.base, *checkpoint.adapters), strict=True)
            put_right = [each for each, _ in sorted(opened, key=lambda part: read_adapter(part[1]) is not None)]
        findings.fail(what, where=source.place, why=why, hint=way_out.format(f"{first}: {'+'.join(put_right)}"))
    return set(adapters)


def _model_behind(checkpoint: Checkpoint) -> bool:
    """Whether a model stands where adapters belong, behind one."""
    behind = checkpoint.adapters if isinstance(checkpoint, AdaptedCheckpoint) else ()
    return any(read_adapter(each) is None for each in behind)


def _written(source: Source, checkpoint: Checkpoint) -> list[str]:
    """A model and the adapters on it as the recipe has them, which is from its own folder; else where they lie."""
    opened = (checkpoint.base, *checkpoint.adapters) if isinstance(checkpoint, AdaptedCheckpoint) else (checkpoint,)
    told = [source.path, *source.adapters]
    paths = [part for path in told for part in path.split("+")] if all(isinstance(path, str) for path in told) else []
    return paths if len(paths) == len(opened) else [each.location for each in opened]


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
