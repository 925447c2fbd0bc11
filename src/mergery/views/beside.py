"""A model beside one that it is a part of: a language model and a multimodal one, a vision model and a whole CLIP.

Parts that one of the two does not have at all are copied or left out. A part that both have must match in full.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from mergery.architecture import ParsedName, part_of, read_architecture
from mergery.architecture.roles import is_behind
from mergery.architecture.sections import projector_of
from mergery.architecture.spelling import language_family
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import SECTIONS, Config
from mergery.errors import listed
from mergery.graph.findings import Findings
from mergery.graph.nodes import Node
from mergery.graph.view import View

_NUMBER = re.compile(r"\.\d+\.")


_HEAD = "head"
_WHOLE = {"language", "vision", "audio"}


def placed(donor: View, view: View, findings: Findings) -> View:
    """The view as its donor would call it, where one of the two is a vision or audio model that is a part of the other.

    A part's tensors get the prefix that they have in the whole, and its config stands where the whole has it; of a whole only
    the part is left, under the part's names.
    """
    if view is donor or view.nodes.keys() == donor.nodes.keys():
        return view
    inner = _prefix(view, donor)
    if inner is not None:
        prefix, part = inner
        named = {prefix + name: node for name, node in view.nodes.items()}
        section = next((key for key in SECTIONS[part] if key in donor.config), SECTIONS[part][0])
        same = view.config.family == donor.config.family  # of one kind, one with a head or a projection
        config = view.config if same or not view.config else Config({section: view.config.plain()})
        if prefix:
            findings.warnings.append(
                f"{view.name} is the {part} part of {donor.name}, where {prefix!r} stands before its names"
            )
        return _renamed(view, named, config)
    outer = _prefix(donor, view)
    if outer is None:
        return view
    prefix, part = outer
    nodes: dict[str, Node] = {}
    dropped = dict(view.dropped)
    units = {name: _unit(name, view.architecture.names[name]) for name in view.nodes}
    headed = "language" not in units.values()  # whose head is the part's own, and is never left out
    for name, node in view.nodes.items():
        if units[name] == part and name.startswith(prefix):
            nodes[name.removeprefix(prefix)] = node
        elif units[name] == _HEAD and headed:
            nodes[name] = node
        else:
            dropped[name] = f"the {part_of(name)} part of {view.name}; {donor.name} is {_alone({part})}"
    config = view.config if view.config.family == donor.config.family else view.config.section(part)
    return replace(_renamed(view, nodes, config), dropped=dropped)


def _prefix(view: View, whole: View) -> tuple[str, str] | None:
    """What stands before a view's names in a model that it is a vision or audio part of, and which part; None where it is none.

    Most of its names must be found there, and under no other prefix as many.
    """
    sections = any(view.config.section(part) for part in ("vision", "audio"))
    if len(whole.nodes) <= len(view.nodes) or sections:
        return None
    first = [name for name in view.nodes if not _NUMBER.search(name)]
    prefixes = {
        other.removesuffix(name)
        for name in first
        for other in whole.nodes
        if other.endswith(name) and (other == name or other[: -len(name)].endswith("."))
    }
    counts = {prefix: sum(prefix + name in whole.nodes for name in view.nodes) for prefix in prefixes}
    best = max(counts, key=lambda each: counts[each], default=None)
    if best is None or 2 * counts[best] <= len(view.nodes) or sum(n == counts[best] for n in counts.values()) > 1:
        return None
    parts = {part_of(best + name) for name in view.nodes if best + name in whole.nodes}
    others = {part_of(name) for name in whole.nodes} - parts
    main = parts - {"projector"}
    part = main.pop() if len(main) == 1 else ""
    return (best, part) if part in ("vision", "audio") and others else None


def _renamed(view: View, nodes: Mapping[str, Node], config: Config) -> View:
    infos = [TensorInfo(name, node.shape, node.dtype) for name, node in nodes.items()]
    return replace(view, nodes=nodes, architecture=read_architecture(infos, config), config=config)


def beside(donor: View, view: View, missing: list[str], extra: list[str], findings: Findings) -> dict[str, str] | None:
    """What may be left where one of two models has whole parts that the other does not have. `view` is under the donor's names.

    Returns the reasons of the tensors of `view` that are left out; None where a part that both have does not match in full, and
    where they have none in common.
    """
    names = {**view.architecture.names, **donor.architecture.names}
    if any(name not in names for name in extra):
        return None
    units = {name: _unit(name, names[name]) for name in {*donor.nodes, *view.nodes} if name in names}
    mine, theirs = ({units[name] for name in each.nodes if name in units} for each in (donor, view))
    lacking, added = ({units[name] for name in each} for each in (missing, extra))
    families = [language_family(each.config) for each in (donor, view)]
    strangers = "language" in mine & theirs and (families[0] is None or families[0] != families[1])
    heads = any(_HEAD in each and "language" not in each for each in (lacking, added))  # which is no part by itself
    projectors = all(
        any(unit not in _WHOLE for unit in each) for each in (lacking, added)
    )  # perhaps one, in two spellings
    if lacking & theirs or added & mine or not mine & theirs & _WHOLE or strangers or heads or projectors:
        return None
    if missing:
        what = _alone(theirs) or f"a model without {listed(sorted(lacking))}"
        findings.warnings.append(
            f"{view.name} is {what}: {len(missing)} other tensors of {donor.name} are copied (such as {missing[0]!r})"
        )
    what = _alone(mine) or f"a model without {listed(sorted(added))}"
    return {name: f"the {names[name].part} part of {view.name}; {donor.name} is {what}" for name in extra}


def _unit(name: str, parsed: ParsedName) -> str:
    """What a tensor is there or missing with: a tower, the language model, its head, or one projector."""
    if parsed.part == "language":
        return _HEAD if is_behind(name, parsed.roles) else parsed.part
    return projector_of(name) or parsed.part


def _alone(units: set[str]) -> str:
    """`a vision model alone`; empty for a model of several parts."""
    parts = units & _WHOLE
    return f"{'an' if parts == {'audio'} else 'a'} {next(iter(parts))} model alone" if len(parts) == 1 else ""
