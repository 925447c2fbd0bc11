"""Whether models belong together: families and configs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from mergery.architecture.facts import ALLOWABLE, lesser, meanings
from mergery.architecture.spelling import language_family
from mergery.checkpoints.config import Config
from mergery.graph.findings import Findings
from mergery.graph.view import View
from mergery.recipe import Merge
from mergery.views.vocabulary.rows import token_tensors


def check_families(views: Mapping[str, View], merge: Merge, allowed: Collection[str], findings: Findings) -> bool:
    """Refuse models whose configs say that their weights mean different things, and warn of lesser differences.

    `allowed` are facts in which they may differ. False where names and shapes need not be compared: they differ with these.
    """
    configs = {name: view.config for name, view in views.items() if view.config}
    if not configs:
        return True
    first, *others = configs.items()
    kinds = {name: config.family for name, config in configs.items() if config.family}
    strangers = len({language_family(config) for config in configs.values() if config.family}) > 1
    if strangers and "model_type" not in allowed:
        findings.fail(
            "the models are of different families",
            where=merge.place,
            why=", ".join(f"{name} is {family}" for name, family in kinds.items()),
            hint="merge models that were trained from one base, or say allow: [model_type]",
        )
        return False
    wrong: dict[str, list[str]] = {}
    for name, config in others:
        for key, mine, theirs in config_differences(first[1], config):
            text = f"{key} differs: {first[0]} has {shown(mine)}, {name} has {shown(theirs)}"
            if key == "layer_types" and merge.stack:
                continue  # each layer of a stack keeps its own kind
            if key in ALLOWABLE and key not in allowed:
                wrong.setdefault(name, []).append(key)
                wrong[name].append(text)
            else:
                findings.warnings.append(f"{text}; the output takes its donor's")
    sized = {name: same_sizes(views[first[0]], views[name]) for name in wrong}
    for name, found in wrong.items():
        keys, texts = found[::2], found[1::2]
        hint = f"merge models of one base; to merge these all the same, say allow: [{', '.join(keys)}]"
        if not sized[name]:
            hint = "merge models of one size: tensors of different shapes have no average"
        findings.fail(
            f"{first[0]!r} and {name!r} use their weights differently",
            where=merge.place,
            why="; ".join(texts),
            hint=hint,
        )
    return all(sized.values()) and not any("vision.model_type" in found for found in wrong.values())


def same_sizes(mine: View, theirs: View) -> bool:
    """Whether tensors of one name have one shape, but for the rows of tokens."""
    tables = token_tensors(mine.nodes, mine.architecture)
    for name, node in mine.nodes.items():
        other = theirs.nodes.get(name)
        if (
            other is not None
            and node.shape != other.shape
            and (name not in tables or node.shape[1:] != other.shape[1:])
        ):
            return False
    return True


def config_differences(mine: Config, theirs: Config) -> list[tuple[str, Any, Any]]:
    """Facts that two configs both state, and that differ: those that change what weights mean first."""
    found = []
    for facts in (meanings, lesser):
        a, b = facts(mine), facts(theirs)
        found += [(key, a[key], b[key]) for key in a if key in b and a[key] != b[key]]
    return found


def shown(value: Any) -> str:
    """A config's value in a message, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else text[:97] + "..."
