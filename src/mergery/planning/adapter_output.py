"""A merged view as an adapter: the factors of what stands between it and its base, under the names of peft."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergery.architecture import Architecture, read_architecture
from mergery.architecture.fused import transposed
from mergery.checkpoints.adapted import AdaptedCheckpoint, NoModel, without_adapters
from mergery.checkpoints.adapters import read_adapter
from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.file_kinds import ADAPTER
from mergery.checkpoints.lora import PREFIX
from mergery.dtypes import F32, OUTPUT_DTYPES, DType
from mergery.errors import listed
from mergery.graph.findings import Findings
from mergery.graph.nodes import Node, Stored
from mergery.graph.view import View
from mergery.recipe import Recipe
from mergery.views.factored import Energies, Factors, Wanted, base_of, factored, unchanged

STEM = "adapter_model"
ONE_FILE = 1 << 62  # bytes
EMBEDDING = ("lora_embedding_A", "lora_embedding_B")


@dataclass(frozen=True)
class AdapterPlan:
    """An adapter as planned: its tensors as a view, their headers, its config, and what is noted of it while it is made."""

    view: View
    headers: Mapping[str, TensorInfo]
    config: bytes
    energies: Energies
    made: Mapping[str, Node]  # by module: both factors as one tensor
    ranks: Mapping[str, int]  # by module

    @property
    def base(self) -> str | None:
        """The model that the adapter is for, as its config names it."""
        return json.loads(self.config)["base_model_name_or_path"]

    @property
    def files(self) -> dict[str, bytes]:
        return {ADAPTER: self.config}


def adapter_plan(recipe: Recipe, view: View, views: Mapping[str, View], findings: Findings) -> AdapterPlan | None:
    """The adapter that makes a recipe's merged view of its base; None where there are problems, which are noted."""
    if recipe.wanted_vocabulary is not None:
        why, hint = "an adapter has the tokens of its base", "leave out 'vocabulary' and output.tokenizer"
        findings.fail("an adapter cannot have a vocabulary of its own", where=recipe.merge.place, why=why, hint=hint)
        return None
    return _Making(recipe, view, views, findings).plan()


class _Making:
    def __init__(self, recipe: Recipe, view: View, views: Mapping[str, View], findings: Findings) -> None:
        assert recipe.output.adapter is not None
        self.recipe, self.view, self.findings, self.wanted = recipe, view, findings, recipe.output.adapter
        self.place = recipe.merge.place
        base = recipe.output.adapter.base or recipe.merge.base
        self.base = views.get(base) if base else None
        self.energies, self.recent = Energies(), Wanted().recent
        self.dtype: DType = OUTPUT_DTYPES[recipe.output.dtype] if recipe.output.dtype else F32
        self.nodes: dict[str, Node] = {}
        self.factors: dict[str, Factors] = {}
        self.whole: list[str] = []
        self.turned: list[bool] = []
        self.biases: dict[str, Node] = {}
        self.multiplied: list[str] = []  # modules whose adapters are merged in full

    def plan(self) -> AdapterPlan | None:
        before, baseless = len(self.findings.problems), []
        for name, node in self.view.nodes.items():
            base = self.base.nodes.get(name) if self.base is not None else base_of(node)
            if base is None and isinstance(node, Stored):
                continue  # nothing was merged here: it is the base's own
            if base is None or base.shape != node.shape:
                baseless.append(name)
            elif not unchanged(node, base):
                self.take(name, node, base)
        if baseless:
            self.findings.fail(
                "what stands between this merge and a base is not known",
                where=self.place,
                why=f"{listed(baseless)} has no counterpart of its shape in a base",
                hint="name the base in the merge, or as output: {adapter: {base: NAME}}"
                if self.base is None
                else f"leave it out of the adapter: drop: [{baseless[0]}]; or name a base that has it",
            )
        elif not self.nodes and not self.biases:
            self.findings.fail(
                "nothing is left for an adapter",
                where=self.place,
                why="the merge is the base itself",
                hint="name models that differ from their base",
            )
        if self.multiplied:
            self.not_in_core_space()
        if len(self.findings.problems) > before:
            return None
        for module, bias in self.biases.items():  # peft wraps the modules that it has factors for
            inner = f"{module}.base_layer" if module in self.factors else module
            self.nodes[f"{PREFIX}{inner}.bias"] = bias
        donor = NoModel(self.view.donor.label, STEM)
        infos = [TensorInfo(name, node.shape, self._dtype(node)) for name, node in self.nodes.items()]
        architecture = read_architecture(infos, Config())
        view = View(self.view.name, self.nodes, architecture, Config(), donor, self.view.dropped)
        made = {name: each.made for name, each in self.factors.items()}
        headers = {info.name: info for info in infos}
        ranks = {name: each.rank for name, each in self.factors.items()}
        return AdapterPlan(view, headers, self.config(), self.energies, made, ranks)

    def _dtype(self, node: Node) -> DType:
        return node.dtype if isinstance(node, Stored) else self.dtype

    def take(self, name: str, node: Node, base: Node) -> None:
        """Put a tensor that differs from its base into the adapter: as factors, or whole."""
        roles = self.view.architecture.names[name].roles
        if not node.dtype.floating:
            return
        module, _, last = name.rpartition(".")
        matrix = len(node.shape) == 2 and last == "weight" and "norm" not in roles
        table = bool({"embed", "head"} & set(roles))
        whole = table and base_of(node) is None and self.wanted.embeddings == "whole"
        if not matrix and len(node.shape) > 1:
            self.findings.fail(
                f"{name!r} cannot be in an adapter",
                where=self.place,
                why=f"it is {list(node.shape)}: only matrices and vectors can",
                hint="leave it as in the base: parts: [{where: {role: expert}, take: base}]",
            )
        elif matrix and not whole:
            if table and self.wanted.embeddings == "base":
                return
            self.take_factors(name, module, node, base, embedding="embed" in roles)
        else:
            if last == "bias":
                self.biases[module] = node
                return
            if module not in self.whole:
                self.whole.append(module)
            self.nodes[f"{PREFIX}{name}"] = node

    def take_factors(self, name: str, module: str, node: Node, base: Node, *, embedding: bool) -> None:
        turned = embedding or transposed(name, node.shape, self.view.config)
        rank = self.wanted.rank_of(module)
        wanted = Wanted(rank, self.wanted.space, self.wanted.pico, self.recent)
        made = factored(name, node, base, wanted, self.energies, turned=turned)
        if made is None:
            return
        self.factors[module] = made
        self.multiplied += [module] if made.space == "full" else []
        self.turned += [turned] if not embedding else []
        a, b = EMBEDDING if embedding else ("lora_A.weight", "lora_B.weight")
        self.nodes[f"{PREFIX}{module}.{a}"], self.nodes[f"{PREFIX}{module}.{b}"] = made.down, made.up

    def not_in_core_space(self) -> None:
        """Note what the recipe asks for that only products of factors have, where there are others."""
        full = self.wanted.space == "full"
        asked = ["calibrate"] * self.wanted.pico + ["space"] * (self.wanted.space is not None and not full)
        if not asked:
            return
        why = "so the recipe says" if full else "not all are adapters on one base, or the method needs whole models"
        self.findings.fail(
            f"adapter: {' and '.join(asked)} can only be had of factors",
            where=self.place,
            why=f"{listed(self.multiplied)} is merged in full: {why}",
            hint="leave out 'space: full'" if full else f"leave out {' and '.join(asked)}",
        )

    # --- adapter_config.json --------------------------------------------------------------------------------------------

    def config(self) -> bytes:
        """peft's config. Scales are in the factors: alpha is the rank."""
        ranks = {module: made.rank for module, made in self.factors.items()}
        counts = Counter(ranks.values())
        most = max(counts, key=lambda rank: (counts[rank], rank), default=1)
        pattern = {module: rank for module, rank in ranks.items() if rank != most}
        names = self.view.config.get("architectures")
        causal = isinstance(names, list) and any(str(name).endswith("ForCausalLM") for name in names)
        said: dict[str, Any] = {
            "alpha_pattern": pattern,
            "base_model_name_or_path": self.base_name(),
            "bias": "all" if self.biases else "none",
            "fan_in_fan_out": any(self.turned),
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": most,
            "lora_dropout": 0.0,
            "modules_to_save": self.whole or None,
            "peft_type": "LORA",
            "r": most,
            "rank_pattern": pattern,
            "target_modules": targets(ranks, self.view.architecture),
            "task_type": "CAUSAL_LM" if causal else None,
            "use_dora": False,
            "use_rslora": False,
        }
        return (json.dumps(said, indent=2) + "\n").encode()

    def base_name(self) -> str | None:
        """What the adapter's config names as its base: where the base lies, or what all inputs name."""
        if self.base is None:
            below: tuple[Checkpoint, ...] = (without_adapters(self.view.donor),)
        elif isinstance(
            self.base.donor, AdaptedCheckpoint
        ):  # then the adapters that the base has are no part of this one
            below = (self.base.donor.base, *self.base.donor.adapters)
        else:
            below = (self.base.donor,)
        if isinstance(below[0], NoModel):
            return None
        return "+".join(
            each.location.partition("@")[0] if "commit" in each.fingerprint() else each.location for each in below
        )


def recorded_bases(checkpoints: Mapping[str, Checkpoint]) -> dict[str, str]:
    """The models that adapters without their model name as their own, by the adapters' names."""
    found: dict[str, str] = {}
    for name, checkpoint in checkpoints.items():
        for each in checkpoint.adapters if isinstance(checkpoint, AdaptedCheckpoint) else ():
            said = read_adapter(each)
            if said is not None and said.base:
                found[name] = said.base
    return found


def targets(modules: Sequence[str] | Mapping[str, int], architecture: Architecture) -> list[str]:
    """`target_modules`: the last words of the modules' names, where no other matrix bears one of them; else the whole names."""
    words = sorted({module.rpartition(".")[2] for module in modules})
    others = [name.removesuffix(".weight") for name in architecture.names if name.endswith(".weight")]
    alike = [name for name in others if name.rpartition(".")[2] in words]
    return words if set(alike) <= set(modules) else sorted(modules)


def with_recorded_base(plan: AdapterPlan, checkpoints: Mapping[str, Checkpoint], findings: Findings) -> AdapterPlan:
    """The plan with the base that all adapters name, where their model is not at hand."""
    said = json.loads(plan.config)
    bases = recorded_bases(checkpoints)
    if said["base_model_name_or_path"] or not bases:
        return plan
    if len(set(bases.values())) > 1:
        named = "; ".join(f"{name} is for {base}" for name, base in bases.items())
        findings.warnings.append(f"the adapters name different models, so that the output names none: {named}")
        return plan
    said["base_model_name_or_path"] = next(iter(bases.values()))
    return replace(plan, config=(json.dumps(said, indent=2) + "\n").encode())
