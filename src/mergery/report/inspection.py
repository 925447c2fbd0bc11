"""What a checkpoint is, from its headers and small files: family, roles, layers, sizes, tokenizer, and what merges with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mergery.architecture import Architecture, read_architecture
from mergery.architecture.fused import fused_parts
from mergery.architecture.spelling import HEADS, aliases, canonical_names, language_family, ties_head
from mergery.checkpoints import Checkpoint, Config, TensorInfo, open_checkpoint
from mergery.checkpoints.adapted import AdaptedCheckpoint
from mergery.checkpoints.adapters import read_adapter
from mergery.checkpoints.equality import same_bytes
from mergery.checkpoints.lora import read_lora
from mergery.checkpoints.tokenizer.reading import read_tokenizer
from mergery.errors import MergeryError, Problems
from mergery.planning.inputs import leftover_scheme, quantisation
from mergery.planning.plan import make_plan
from mergery.planning.remarks import left_aside
from mergery.report.memory import memory
from mergery.views.vocabulary.comparing import tokens_in_words, tokens_without_rows
from mergery.views.vocabulary.rows import token_tensors


def inspect(path: Any, others: Sequence[Any] = (), *, needs: bool = False) -> dict[str, Any]:
    """Facts of a checkpoint, and of its merging with others; see `mergery.api.inspect`."""
    with open_checkpoint(path) as checkpoint:
        facts = describe(checkpoint)
        if needs:
            architecture = read_architecture(checkpoint.tensors.values(), checkpoint.config)
            facts["memory"] = memory(checkpoint.tensors, architecture, checkpoint.config)
        if others:
            facts["merging"] = [meeting(checkpoint, other) for other in others]
        return facts


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Facts of one checkpoint; `adapters` are those on it, and all else is of its base."""
    if isinstance(checkpoint, AdaptedCheckpoint):
        found = [(read_lora(each).checkpoint, read_adapter(each)) for each in checkpoint.adapters]
        words = ((each.location, said.words if said else "modules that were trained whole") for each, said in found)
        on_it = [{"location": location, "adapter": said} for location, said in words]
        return {**describe(checkpoint.base), "adapters": on_it}
    config, tensors = checkpoint.config, checkpoint.tensors
    architecture = read_architecture(tensors.values(), config)
    family = config.family
    language = language_family(config)
    adapter, codes = read_adapter(checkpoint), quantisation(checkpoint)
    return {
        "location": str(checkpoint.location),
        "family": family,
        "language_model": language if language != family else None,
        "classes": config.get("architectures") or [],
        "layers": architecture.depth,
        "stack": architecture.stack,
        "tensors": len(tensors),
        "parameters": sum(info.elements for info in tensors.values() if info.dtype.floating),
        "bytes": sum(info.nbytes for info in tensors.values()),
        "dtypes": _count(info.dtype.torch for info in tensors.values()),
        "decoded": checkpoint.decoded or None,
        "adapter": adapter.words if adapter else None,
        "made_for": adapter.base if adapter else None,
        "quantised": {"method": codes.scheme, "why": codes.why} if codes else None,
        "parts": _parts(tensors, architecture),
        "roles": _roles(tensors, architecture),
        "tied": _tied(checkpoint),
        "fused": _fused(tensors, architecture, config),
        "tokenizer": tokenizer_facts(checkpoint),
        "remarks": list(_remarks(checkpoint, architecture)),
    }


def _remarks(checkpoint: Checkpoint, architecture: Architecture) -> Iterator[str]:
    """What a plan would warn of, of this model alone."""
    yield from checkpoint.remarks
    if ties_head(checkpoint.config) and _tied(checkpoint)["head"] is False:
        yield "the head differs from the embeddings, although config.json ties them: it is taken for a head of its own"
    if scheme := leftover_scheme(checkpoint):
        yield f"config.json has a quantization_config ({scheme}), but the weights are plain numbers"
    rows = max(token_tensors(checkpoint.tensors, architecture).values(), default=0)
    try:
        lost = tokens_without_rows(read_tokenizer(checkpoint) if rows else None, rows)
    except MergeryError as error:
        yield f"the tokenizer cannot be read: {error.what}"
        lost = []
    if lost:
        yield f"the tokenizer has {tokens_in_words(lost)} without rows: the embeddings have {rows:,}"
    yield from (text.partition(": ")[2] for text in left_aside({"this": checkpoint}, "this"))


def meeting(checkpoint: Checkpoint, other: Any) -> dict[str, Any]:
    """Whether a model can be merged with a checkpoint, and what stands in the way or changes on it."""
    with open_checkpoint(other) as second:
        names = (_short(checkpoint), _short(second))
        names = names if names[0] != names[1] else (names[0], "the other")
        models = dict(zip(names, (checkpoint, second), strict=True))
        result: dict[str, Any] = {
            "location": str(second.location),
            "merges": True,
            "why_not": [],
            "hints": [],
            "remarks": [],
        }
        try:
            plan = make_plan({"models": models, "merge": {"method": "linear"}})
        except Problems as error:
            hints = [each.hint for each in error.errors if each.hint]
            result |= {"merges": False, "why_not": [_plainly(each) for each in error.errors], "hints": hints}
        except MergeryError as error:
            hints = [error.hint] if error.hint else []
            result |= {"merges": False, "why_not": [_plainly(error)], "hints": hints}
        else:
            result["remarks"] = [*plan.warnings, *_dropped(plan.dropped)]
        return result


def _short(checkpoint: Checkpoint) -> str:
    """The last part of where a checkpoint lies."""
    return str(checkpoint.location).rstrip("/").rpartition("/")[2] or "this"


def _plainly(error: MergeryError) -> str:
    return error.what + (f" ({error.why})" if error.why else "")


def _dropped(dropped: Mapping[str, str]) -> list[str]:
    return [f"{count} tensors are left out: {why}" for why, count in _count(dropped.values()).items()]


def _count(items: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in items:
        found[item] = found.get(item, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _parts(tensors: Mapping[str, TensorInfo], architecture: Architecture) -> dict[str, int]:
    """Parameters of each part of a multimodal model."""
    found: dict[str, int] = {}
    for name, info in tensors.items():
        part = architecture.names[name].part
        found[part] = found.get(part, 0) + info.elements
    return found


def _roles(tensors: Mapping[str, TensorInfo], architecture: Architecture) -> list[dict[str, Any]]:
    """Tensors of the same roles together: how many, how many parameters, one of their shapes and names."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for name, info in tensors.items():
        parsed = architecture.names[name]
        roles = " ".join(role for role in parsed.roles if role != "linear")
        group = groups.setdefault(
            (parsed.part, roles),
            {
                "part": parsed.part, "role": roles or "linear", "tensors": 0, "parameters": 0, "shapes": {}, "such_as": name,
            },
        )  # fmt: skip
        group["tensors"] += 1
        group["parameters"] += info.elements
        group["shapes"][str(list(info.shape))] = None
    for group in groups.values():
        shapes = list(group.pop("shapes"))
        group["shapes"] = shapes[:3] + ([f"and {len(shapes) - 3} more"] if len(shapes) > 3 else [])
    return list(groups.values())


def _tied(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the bytes, or else the config, say of the head, and which tensors stand for others."""
    config = checkpoint.config
    canonical = canonical_names(checkpoint.tensors, config)
    stored = {each: name for name, each in canonical.items()}
    heads = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    found = {
        alias: stored[target]
        for alias, target in aliases(config, stored).items()
        if alias in (*heads, *stored) and (alias not in stored or same_bytes(checkpoint, stored[alias], stored[target]))
    }
    own = any(head in stored and head in aliases(config, stored) and head not in found for head in HEADS)
    return {"head": False if own else ties_head(config), "aliases": {**checkpoint.aliases, **found}}


def _fused(tensors: Mapping[str, TensorInfo], architecture: Architecture, config: Config) -> list[dict[str, Any]]:
    """Kinds of fused tensors: how many there are, and what one is made of."""
    groups: dict[str, dict[str, Any]] = {}
    for name, info in tensors.items():
        parts = fused_parts(name, info.shape, architecture.names[name].roles, config)
        if not parts:
            continue
        made_of = {part.key: list(part.shape) for part in parts}
        kind = " ".join(architecture.names[name].roles)
        group = groups.setdefault(f"{kind} {made_of}", {"such_as": name, "tensors": 0, "parts": made_of})
        group["tensors"] += 1
    return list(groups.values())


def tokenizer_facts(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Type, vocabulary size, special tokens and chat template; None where there is no tokenizer."""
    config = _json(checkpoint, "tokenizer_config.json")
    model = _json(checkpoint, "tokenizer.json")
    names = [name for name in checkpoint.files if name.startswith(("tokenizer", "spiece", "sentencepiece", "vocab"))]
    if not names:
        return None
    special = {key: _text(value) for key, value in config.items() if key.endswith("_token") and _text(value)}
    added = model.get("added_tokens")
    size = _vocabulary(model)
    kind = model["model"].get("type") if isinstance(model.get("model"), dict) else None
    templates = [name for name in checkpoint.files if "chat_template" in name]
    return {
        "files": names,
        "class": config.get("tokenizer_class"),
        "type": kind or ("SentencePiece" if any(name.endswith(".model") for name in names) else None),
        "vocabulary": size,
        "added": len(added) if isinstance(added, list) else None,
        "special": special,
        "chat_template": bool(config.get("chat_template") or templates),
    }


def _vocabulary(model: Mapping[str, Any]) -> int | None:
    """Number of tokens, those added to the model's own included."""
    inner = model.get("model")
    words = inner.get("vocab") if isinstance(inner, dict) else None
    if not isinstance(words, (dict, list)):
        return None
    known = set(words) if isinstance(words, dict) else {word[0] for word in words if isinstance(word, list) and word}
    added = model.get("added_tokens")
    extra = [each.get("content") for each in added if isinstance(each, dict)] if isinstance(added, list) else []
    return len(known | {each for each in extra if isinstance(each, str)})


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _json(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A side file's content; empty where it is missing or no mapping."""
    if name not in checkpoint.files:
        return {}
    try:
        data = json.loads(checkpoint.file(name))
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
