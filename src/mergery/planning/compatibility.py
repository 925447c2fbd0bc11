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


def check_families(views: Mapping[str, View], merge: Merge, allowed: Collection[str], findings: Findings) -> None:
    """Refuse models whose configs say that their weights mean different things, and warn of lesser differences.

    `allowed` are facts in which they may differ.
    """
    configs = {name: view.config for name, view in views.items() if view.config}
    if not configs:
        return
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
        return
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
    for name, found in wrong.items():
        keys, texts = found[::2], found[1::2]
        findings.fail(
            f"{first[0]!r} and {name!r} use their weights differently",
            where=merge.place,
            why="; ".join(texts),
            hint=f"merge models of one base; to merge these all the same, say allow: [{', '.join(keys)}]",
        )


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
