"""A merged view as an adapter: the factors of what stands between it and its base, under the names of peft."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergery.architecture import read_architecture
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
from mergery.planning.adapter_modules import ModuleNames, Stack
from mergery.recipe import Recipe
from mergery.views.changes import Change, Piece
from mergery.views.factored import Energies, Wanted, base_of, unchanged
from mergery.views.factoring import Factors, factored

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
    factors: Mapping[str, Factors]  # by module, or parameter of one

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
        self.names = ModuleNames(view, views.values())
        self.factors: dict[str, Factors] = {}
        self.stacks: dict[str, Stack] = {}  # those of them that are experts
        self.routers: list[str] = []  # which peft takes for modules or for parameters
        self.whole: list[str] = []
        self.turned: list[bool] = []
        self.biases: dict[str, Node] = {}
        self.multiplied: list[str] = []  # modules whose adapters are merged in full

    def plan(self) -> AdapterPlan | None:
        before, baseless = len(self.findings.problems), []
        stacks = {name: stack for stack in self.names.stacks() for names in stack.names for name in names}
        changed: dict[str, Stack] = {}
        for name, node in self.view.nodes.items():
            base = self.base_of(name)
            if base is None and isinstance(node, Stored):
                continue  # nothing was merged here: it is the base's own
            if base is None or base.shape != node.shape:
                baseless.append(name)
            elif unchanged(node, base):
                continue
            elif name in stacks:
                changed.setdefault(stacks[name].name, stacks[name])
            else:
                self.take(name, node, base)
        if not baseless:
            self.take_stacks(list(changed.values()))
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
        for module in sorted(self.wanted.ranks.keys() - self.factors.keys()):
            alike = [name for name in self.factors if name.endswith(f".{module}")] or list(self.factors)
            hint = f"modules have their whole names here, such as {alike[0]!r}" if alike else "leave it out"
            what = f"ranks names {module!r}, which is no matrix of this adapter"
            self.findings.fail(what, where=self.place, hint=hint)
        if len(self.findings.problems) > before:
            return None
        for module, bias in self.biases.items():  # peft wraps the modules that it has factors for
            inner = f"{module}.base_layer" if module in self.factors else module
            self.nodes[f"{PREFIX}{inner}.bias"] = bias
        donor = NoModel(self.view.donor.label, STEM)
        infos = [TensorInfo(name, node.shape, self._dtype(node)) for name, node in self.nodes.items()]
        architecture = read_architecture(infos, Config())
        view = View(self.view.name, self.nodes, architecture, Config(), donor, self.view.dropped)
        headers = {info.name: info for info in infos}
        return AdapterPlan(view, headers, self.config(), self.energies, self.factors)

    def base_of(self, name: str) -> Node | None:
        """What a tensor is in the base: the one that the recipe names, or that on which its factors stand."""
        return self.base.nodes.get(name) if self.base is not None else base_of(self.view.nodes[name])

    def _dtype(self, node: Node) -> DType:
        return node.dtype if isinstance(node, Stored) else self.dtype

    def take(self, name: str, node: Node, base: Node) -> None:
        """Put a tensor that differs from its base into the adapter: as factors, or whole."""
        roles = self.view.architecture.names[name].roles
        if not node.dtype.floating:
            return
        module, _, last = self.names.of(name).rpartition(".")
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
            self.nodes[f"{PREFIX}{module}.{last}"] = node

    def take_factors(self, name: str, module: str, node: Node, base: Node, *, embedding: bool) -> None:
        turned = embedding or transposed(name, node.shape, self.view.config)
        sides = (node.shape[1], node.shape[0]) if turned else (node.shape[0], node.shape[1])
        change = Change(name, ((Piece(node, base, 0, sides[0]),),), sides, turned)
        made = self.factored(module, change)
        if made is None:
            return
        self.turned += [turned] if not embedding else []
        self.routers += [module] if "router" in self.view.architecture.names[name].roles else []
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
            why=f"merged in full: {listed(self.multiplied)}; {why}",
            hint="leave out 'space: full'" if full else f"leave out {' and '.join(asked)}",
        )

    def factored(self, module: str, change: Change) -> Factors | None:
        """The factors of a change, noted as the module's; None where nothing is changed."""
        wanted = Wanted(self.wanted.rank_of(module), self.wanted.space, self.wanted.pico, self.recent)
        made = factored(change, wanted, self.energies)
        if made is not None:
            self.factors[module] = made
            self.multiplied += [module] if made.space == "full" else []
        return made

    def take_stacks(self, stacks: Sequence[Stack]) -> None:
        """Put experts into the adapter: parameters, which peft wraps one in another, the module's first one innermost."""
        made: dict[str, list[Factors]] = {}
        for stack in sorted(stacks, key=lambda stack: stack.parameter.startswith("down")):
            own = self.factored(stack.name, self.change(stack))
            if own is not None:
                self.stacks[stack.name] = stack
                made.setdefault(stack.module, []).append(own)
        for module, wrapped in made.items():
            for depth, own in enumerate(reversed(wrapped)):
                inner = f"{PREFIX}{module}{'.base_layer' * depth}"
                self.nodes[f"{inner}.lora_A.weight"], self.nodes[f"{inner}.lora_B.weight"] = own.down, own.up

    def change(self, stack: Stack) -> Change:
        """What experts are, and what they are in the base."""
        matrices: list[tuple[Piece, ...]] = []
        rows = inputs = 0
        for number, names in enumerate(stack.names):
            pieces, rows = [], 0
            for name in names:
                node = self.view.nodes[name]
                sides = node.shape[-2:]
                outputs, inputs = reversed(sides) if stack.turned else sides
                base = self.base_of(name) or node  # what nothing was merged of is the base's own
                pieces.append(Piece(node, base, rows, rows + outputs, number if stack.whole else None))
                rows += outputs
            matrices.append(tuple(pieces))
        return Change(stack.name, tuple(matrices), (rows, inputs), stack.turned, stacked=True)

    # --- adapter_config.json --------------------------------------------------------------------------------------------

    def config(self) -> bytes:
        """peft's config. Scales are in the factors: alpha is the rank."""
        ranks = {module: made.rank for module, made in self.factors.items()}
        known_as = {module: f"{module}(\\.weight)?" for module in self.routers}
        counts = Counter(ranks.values())
        most = max(counts, key=lambda rank: (counts[rank], rank), default=1)
        pattern = {known_as.get(module, module): rank for module, rank in ranks.items() if rank != most}
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
            "target_modules": targets([name for name in ranks if name not in self.stacks], self.named()),
            "target_parameters": self.parameters(),
            "task_type": "CAUSAL_LM" if causal else None,
            "use_dora": False,
            "use_rslora": False,
        }
        return (json.dumps(said, indent=2) + "\n").encode()

    def named(self) -> list[str]:
        """All tensors of the model that are no experts, as transformers names them."""
        of_stacks = {name for stack in self.names.stacks() for names in stack.names for name in names}
        return [self.names.of(name) for name in self.view.architecture.names if name not in of_stacks]

    def parameters(self) -> list[str] | None:
        """`target_parameters`: `mlp.experts.down_proj` where the adapter has it of all layers, else whole names."""
        found: list[str] = []
        everywhere = [stack.name for stack in self.names.stacks()]
        for name, stack in self.stacks.items():
            short = f"{'.'.join(stack.module.split('.')[-2:])}.{stack.parameter}"
            alike = [each for each in everywhere if each.endswith(f".{short}")]
            found.append(short if all(each in self.stacks for each in alike) else name)
        return list(dict.fromkeys(found)) or None

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


def targets(modules: Sequence[str], names: Sequence[str]) -> list[str]:
    """`target_modules`: the last words of the modules' names, where no other matrix bears one of them; else the whole names."""
    words = sorted({module.rpartition(".")[2] for module in modules})
    others = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
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
