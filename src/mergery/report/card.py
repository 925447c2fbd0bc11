"""The model card: what was merged, how, and whom to cite."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mergery.graph.nodes import Computed, Merged, Node, Stored
from mergery.graph.walking import is_computed, merges_below
from mergery.method import find
from mergery.method.catalogue import source
from mergery.planning.adapter_output import AdapterPlan
from mergery.planning.digest import content_mark
from mergery.planning.plan import Plan
from mergery.planning.remarks import COPIED
from mergery.recipe import Merge, Source
from mergery.recipe.calibrating import REFINERS
from mergery.recipe.document import write_yaml
from mergery.report.energies import kept_lines
from mergery.report.words import several, vocabulary_line

PURSUIT = "Goddard and Neto 2025 (arXiv 2506.06607)"


def make_card(plan: Plan) -> str:
    """`README.md` of a merged model: front matter that the hub understands, lineage, recipe, citations."""
    recipe = plan.recipe
    marks = {name: checkpoint.fingerprint() for name, checkpoint in plan.checkpoints.items()}
    hub = [mark["location"] for mark in marks.values() if "commit" in mark]
    adapter = plan.adapter
    front: dict[str, Any] = {
        "library_name": "transformers" if adapter is None else "peft",
        "tags": ["merge", "mergery"],
    }
    if adapter is not None:
        front |= {"base_model": adapter.base} if adapter.base else {}
    elif hub:
        front["base_model"] = hub
    merges = [m for m in recipe.models.values() if isinstance(m, Merge)] + [recipe.merge]
    given = treatments(plan)
    methods = list(dict.fromkeys([*(merge.method for merge in merges), *used(plan)]))
    title = "# A fragment of a merged model" if plan.only else "# A merged model" if adapter is None else "# An adapter"
    lines = ["---", write_yaml(front).strip(), "---", "", title, ""]
    sources = sum(isinstance(model, Source) for model in recipe.models.values())
    lines += [f"Made by merging {several(sources, 'model')} with Mergery: {', '.join(methods)}.", "", "## Lineage", ""]
    lines += ["| name | source | revision or fingerprint |", "|---|---|---|"]
    for name, checkpoint in plan.checkpoints.items():
        stamp = marks[name].get("commit") or _digest(marks[name])
        lines.append(f"| {name} | `{checkpoint.source}` | `{stamp[:16]}` |")
    donors = f"Config and tensor names come from `{recipe.donor}`; the tokenizer from {plan.tokenizer_from}."
    lines += ["", donors if adapter is None else _for_its_base(adapter), ""]
    if plan.vocabulary is not None:
        lines += [f"Vocabulary: {vocabulary_line(plan.vocabulary.facts())}.", ""]
    merged = sum(is_computed(step.node) for step in plan.steps)
    refined = len(plan.refined.tensors) if plan.refined is not None else 0
    counts = f"{merged} tensors were merged" + (f", {refined} merged and refined," if refined else "")
    lines += [f"{counts} and {len(plan.steps) - merged - refined} copied; all are {plan.dtype}.", ""]
    if adapter is not None:
        lines += [*kept_lines(adapter), ""]
    if len(given) > 1:
        lines += [
            *(f"- {what}: {several(count, 'tensor')} ({roles})" for what, count, roles in given),
            "",
        ]
    listed = len(given) > 1  # then what is copied stands above
    remarks = [note for note in plan.notes if not (listed and note.startswith(COPIED))] + list(plan.warnings)
    if remarks:
        lines += ["## Remarks", "", *(f"- {remark}" for remark in remarks), ""]
    lines += ["## Recipe", "", "```yaml", write_yaml(recipe.plain()).strip(), "```", ""]
    papers = [(name, find(name)) for name in methods]
    cited = [f"- {name}: {method.summary} {source(method)}" for name, method in papers if method.paper]
    if plan.vocabulary is not None and plan.vocabulary.wanted.unknown == "omp":
        cited.append(f"- rows of new tokens: orthogonal matching pursuit. {PURSUIT}")
    if recipe.refine is not None:
        refiner = REFINERS[recipe.refine.method]
        cited.append(f"- {refiner.title}: {refiner.summary}")
    if cited:
        lines += ["## Citation", "", *cited, ""]
    return "\n".join(lines)


def _for_its_base(adapter: AdapterPlan) -> str:
    base = f"`{adapter.base}`" if adapter.base else "a model that its inputs do not name alike"
    return f"It is for {base}; alpha is the rank, so that the factors are what is added."


def used(plan: Plan) -> list[str]:
    """The methods by which tensors were made, stages and the rest included."""
    merges = merges_below([step.node for step in plan.steps])
    return list(dict.fromkeys(node.method.name for nodes in merges.values() for node in nodes))


def treatments(plan: Plan) -> list[tuple[str, int, str]]:
    """What tensors got, without settings and inner stages, how many got it, and their roles."""
    counts: dict[str, int] = {}
    roles: dict[str, dict[str, None]] = {}
    for step in plan.steps:
        refined = plan.refined is not None and step.name in plan.refined.tensors
        what = "merged and refined" if refined else _names(step.node)
        parsed = plan.view.architecture.names.get(step.name)
        counts[what] = counts.get(what, 0) + 1
        roles.setdefault(what, {}).update({parsed.roles[0].split(".")[0]: None} if parsed else {})
    return [(what, count, ", ".join(roles[what])) for what, count in counts.items()]


def _names(node: Node) -> str:
    if isinstance(node, Merged):
        return f"`{node.method.name}`"
    if isinstance(node, Stored):
        return f"copy of `{node.model}`"
    if isinstance(node, Computed):
        return node.what
    return " and ".join(dict.fromkeys(map(_names, node.sources))) or "zeros"


def _digest(mark: dict[str, Any]) -> str:
    """One hash of a fingerprint, wherever the model lies."""
    return hashlib.sha256(json.dumps(content_mark(mark), sort_keys=True, default=str).encode()).hexdigest()
