"""A model with adapters on it: a view in which each tensor that they change is made while it is read.

Whatever does not fit is noted: nothing of an adapter is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from mergery.architecture.fused import FusedPart, transposed
from mergery.checkpoints.adapted import AdaptedCheckpoint
from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.lora import LoraAdapter, Update, read_lora
from mergery.dtypes import DType
from mergery.errors import MergeryError, Where, listed
from mergery.graph.findings import Findings
from mergery.graph.fused import from_parts, take_part
from mergery.graph.gathering import from_rows
from mergery.graph.nodes import Node, Stored
from mergery.graph.view import View
from mergery.views.heads import extended
from mergery.views.modules import Modules, orientation
from mergery.views.placed import Placed
from mergery.views.products import adapted, with_bias
from mergery.views.respelling import expert_parts

ALLOW = "adapter_base"
_ID = re.compile(r"[\w.-]+/(?P<name>[\w.-]+)(@.*)?", re.ASCII)
_HEAD = re.compile(r"(?:score|classifier|classification_head|qa_outputs|v_head)\b")
_VARIANT = re.compile(r"(-unsloth)?-(bnb-)?(4|8)-?bits?$|-gptq.*$|-awq$")


def adapted_view(
    view: View, checkpoint: AdaptedCheckpoint, place: Where | None, allowed: Collection[str], findings: Findings
) -> View | None:
    """The view of a base with its checkpoint's adapters on it; None where there are problems, which are noted."""
    before = len(findings.problems)
    adapters: list[LoraAdapter] = []
    for each in checkpoint.adapters:
        try:
            adapters.append(read_lora(each))
        except MergeryError as error:
            findings.problems.append(error.at(place))
    for each in adapters:
        if ALLOW not in allowed:
            check_base(each, checkpoint.base, view.name, place, findings)
    adding = _Adding(view, checkpoint.rounding, checkpoint.dtype, place, findings)
    for each in adapters:
        adding.take(each)
    made = adding.view()
    return made if len(findings.problems) == before else None


def check_base(adapter: LoraAdapter, base: Checkpoint, name: str, place: Where | None, findings: Findings) -> None:
    """Refuse an adapter that names another model than the one that it stands on. Both must be known by ids of the hub."""
    wanted = _known_as(adapter.base)
    known = {_known_as(each): each for each in (base.location, base.config.get("_name_or_path")) if _known_as(each)}
    if wanted and known and wanted not in known:
        findings.fail(
            f"the adapter {adapter.label!r} was made for another model than {name!r}",
            where=place,
            why=f"its config names {adapter.base}, and {name!r} is {next(iter(known.values()))}",
            hint=f"name the model that it was made for; to put it on this one all the same, say allow: [{ALLOW}]",
        )


def _known_as(name: object) -> str | None:
    """The part of a hub id that tells models apart; versions of one in few bits count as one."""
    match = _ID.fullmatch(name) if isinstance(name, str) else None
    return _VARIANT.sub("", match["name"].lower()) if match else None


@dataclass
class _Adding:
    """The tensors of a base on which adapters are put, one after the other."""

    base: View
    rounding: str
    dtype: DType | None  # of peft's roundings; None: each tensor's own
    place: Where | None
    findings: Findings
    updates: dict[str, list[Placed]] = field(default_factory=dict)  # by the tensor's name
    parts: dict[str, dict[str, tuple[FusedPart, list[Placed]]]] = field(default_factory=dict)  # by tensor and part
    replaced: dict[str, Node] = field(default_factory=dict)
    biases: dict[str, list[tuple[Node, float]]] = field(default_factory=dict)
    untied: list[str] = field(default_factory=list)
    stored: dict[tuple[int, str], Node] = field(default_factory=dict)  # by adapter and tensor

    @cached_property
    def names(self) -> Modules:
        return Modules(self.base)

    # --- adapters -------------------------------------------------------------------------------------------------------

    def take(self, adapter: LoraAdapter) -> None:
        """Note what an adapter changes; what it has and the base has not is one problem, but for what the recipe drops."""
        lacking: list[str] = []
        for name, stored in adapter.whole.items():
            if not self._replace(adapter, name, stored):
                lacking.append(name)
        for module, (stored, ids) in adapter.tokens.items():
            if not self._tokens(adapter, module, stored, ids):
                lacking.append(module)
        for update in adapter.updates:
            if not self._place(adapter, update):
                lacking.append(update.module)
        dropped = {self.names.alias(name) for name in self.base.dropped}
        lacking = [
            each for each in lacking if not {self.names.alias(each), self.names.alias(f"{each}.weight")} & dropped
        ]
        if lacking and all(each in adapter.whole and _HEAD.match(each) for each in lacking):
            sizes = adapter.checkpoint.tensors[adapter.whole[lacking[0]]].shape
            self.findings.fail(
                f"the adapter {adapter.label!r} brings a head that {self.base.name!r} does not have",
                where=self.place,
                why=f"{listed(lacking)} was trained whole, {list(sizes)}",
                hint=f"load the base as what the adapter was trained as, with num_labels={sizes[0]}, save it, and name that",
            )
        elif lacking:
            made_for = f"; it was made for {adapter.base}" if adapter.base else ""
            self.findings.fail(
                f"the adapter {adapter.label!r} does not fit {self.base.name!r}",
                where=self.place,
                why=f"it changes {listed(lacking)}, which {self.base.name!r} does not have{made_for}",
                hint="name the model that it was made for",
            )

    def _stored(self, adapter: LoraAdapter, info: TensorInfo) -> Node:
        """The node of an adapter's tensor: one for all that it changes, such as the gates and ups of experts."""
        return self.stored.setdefault((id(adapter), info.name), Stored(adapter.label, adapter.checkpoint, info))

    def _misfit(self, adapter: LoraAdapter, name: str, why: str) -> None:
        self.findings.fail(
            f"the adapter {adapter.label!r} does not fit {name!r} of {self.base.name!r}",
            where=self.place,
            why=why,
            hint="name the model that it was made for",
        )

    def _replace(self, adapter: LoraAdapter, name: str, stored: str) -> bool:
        node = self._stored(adapter, adapter.checkpoint.tensors[stored])
        found = self.names.find(name)
        if found is None and (tied := self.names.tied(name)) is not None:
            found = self._untie(name, tied)
        if found is None:
            return False
        own = self.base.nodes.get(found, node)
        if node.shape != own.shape and not (
            len(own.shape) == 2 and node.shape[1:] == own.shape[1:] and self._has_tokens(found)
        ):
            self._misfit(adapter, found, f"{stored!r} is {list(node.shape)} there, and the base's {list(own.shape)}")
        elif node.shape == own.shape or node.shape[0] > own.shape[0]:
            self.replaced[found] = node
        else:
            self._misfit(adapter, found, f"it has {node.shape[0]} rows, and the base {own.shape[0]}")
        return True

    def _untie(self, name: str, tied: str) -> str:
        """A head of its own, where the base ties it to its embeddings."""
        self.untied.append(name)
        self.replaced.setdefault(name, self.base.nodes[tied])
        return name

    def _has_tokens(self, name: str) -> bool:
        return bool({"embed", "head"} & set(self.base.architecture.names[name].roles))

    def _tokens(self, adapter: LoraAdapter, module: str, stored: str, ids: tuple[int, ...]) -> bool:
        found = self.names.find(f"{module}.weight")
        if found is None:
            return False
        own, rows = (
            self.replaced.get(found, self.base.nodes[found]),
            self._stored(adapter, adapter.checkpoint.tensors[stored]),
        )
        if len(own.shape) != 2 or rows.shape[1:] != own.shape[1:] or max(ids, default=0) >= own.shape[0]:
            self._misfit(
                adapter, found, f"{stored!r} has rows {list(ids)} of {list(rows.shape)}, and it is {list(own.shape)}"
            )
            return True
        which, at = np.zeros(own.shape[0], dtype=np.int64), np.arange(own.shape[0], dtype=np.int64)
        which[list(ids)], at[list(ids)] = 1, np.arange(len(ids))
        self.replaced[found] = from_rows(found, own.shape, (own, rows), which, at, own.shape[1])
        return True

    def _place(self, adapter: LoraAdapter, update: Update) -> bool:
        for candidate in (*(f"{update.module}.{each}" for each in update.parameters), f"{update.module}.weight"):
            found = self.names.find(candidate)
            if found is not None:
                if len(update.parameters) > 1 and not self._fits(found, update):
                    continue  # of parameters that wrap one another, only shapes tell which is which
                self._put(adapter, update, found)
                return True
            if self.names.alias(candidate) in self.names.in_stacks:
                name, part = self.names.in_stacks[self.names.alias(candidate)]
                self._put_in_part(adapter, update, name, part)
                return True
            if update.experts > 1 and (experts := self.names.experts(candidate, update)):
                for name, expert, rows in experts:
                    self._put(adapter, update, name, expert, rows)
                return True
            if (tied := self.names.tied(candidate)) is not None:
                self._put(adapter, update, self._untie(candidate, tied))
                return True
        return False

    def _fits(self, name: str, update: Update) -> bool:
        return orientation(self.node(name).shape, update, fallback=False) is not None

    def _put(
        self,
        adapter: LoraAdapter,
        update: Update,
        name: str,
        expert: int | None = None,
        rows: tuple[int, int] | None = None,
    ) -> None:
        shape = self.node(name).shape
        flip: bool | None = False
        if expert is None:
            flip = orientation(shape, update, fallback=transposed(name, shape, self.base.config))
        if flip is None or not self.node(name).dtype.floating:
            what = (
                f"its factors are {list(update.up.shape)} and {list(update.down.shape)}, and the tensor {list(shape)}"
            )
            self._misfit(adapter, name, what)
            return
        self.updates.setdefault(name, []).append(self._placed(adapter, update, expert, rows, flip=flip))
        self._bias(adapter, update, name)

    def _put_in_part(self, adapter: LoraAdapter, update: Update, name: str, part: FusedPart) -> None:
        if (update.up.shape[0], update.down.shape[1]) != part.shape:
            what = f"its factors are {list(update.up.shape)} and {list(update.down.shape)}, and {part.key} {list(part.shape)}"
            self._misfit(adapter, name, what)
            return
        placed = self._placed(adapter, update, None, None, flip=False)
        self.parts.setdefault(name, {}).setdefault(part.key, (part, []))[1].append(placed)

    def _placed(
        self, adapter: LoraAdapter, update: Update, expert: int | None, rows: tuple[int, int] | None, *, flip: bool
    ) -> Placed:
        nodes = [None if each is None else self._stored(adapter, each) for each in (update.alpha, update.magnitude)]
        down, up = self._stored(adapter, update.down), self._stored(adapter, update.up)
        return Placed(update, adapter.label, down, up, nodes[0], nodes[1], expert, rows, flip)

    def _bias(self, adapter: LoraAdapter, update: Update, name: str) -> None:
        if update.up_bias is None:
            return
        bias = f"{name.removesuffix('.weight')}.bias"
        if bias not in self.base.nodes:
            self._misfit(adapter, name, f"it adds {update.up_bias.name!r} to a bias that the model does not have")
        elif self.base.nodes[bias].shape != update.up_bias.shape:
            self._misfit(adapter, bias, f"{update.up_bias.name!r} is {list(update.up_bias.shape)}")
        else:
            self.biases.setdefault(bias, []).append((self._stored(adapter, update.up_bias), update.scale))

    # --- the result -----------------------------------------------------------------------------------------------------

    def node(self, name: str) -> Node:
        """What stands for a tensor before anything is added to it."""
        return self.replaced[name] if name in self.replaced else self.base.nodes[name]

    def _made(self, name: str) -> Node:
        node = self.node(name)
        dtype = self.dtype or self.base.nodes.get(name, node).dtype
        if name in self.parts:
            own = self.parts[name]
            parts = [part for _, part in expert_parts(self.base, name, self.names.alias(name), node)]
            pieces = [take_part(f"{name} [{part.key}]", node, part) for part in parts]
            for place, part in enumerate(parts):
                if part.key in own:
                    piece, updates = pieces[place], own[part.key][1]
                    pieces[place] = adapted(f"{name} [{part.key}]", piece, dtype, updates, self.rounding)
            node = from_parts(name, node.shape, parts, pieces)
        if name in self.updates:
            node = adapted(name, node, dtype, self.updates[name], self.rounding)
        for added, scale in self.biases.get(name, ()):
            node = with_bias(name, node, added, scale)
        return node

    def view(self) -> View:
        """The base's view with all that was taken."""
        touched = {*self.updates, *self.parts, *self.replaced, *self.biases}
        nodes = {name: self._made(name) if name in touched else node for name, node in self.base.nodes.items()}
        view = replace(self.base, nodes=nodes, config=self._config())
        heads = {name: self._made(name) for name in self.untied}
        if heads:
            said = f"{', '.join(heads)} is no longer tied to the embeddings: an adapter changes it"
            self.findings.warnings.append(f"{self.base.name}: {said}")
        return extended(view, heads) if heads else view

    def _config(self) -> Config:
        """The base's config with a head that is tied no longer, and as many tokens as there are rows."""
        config = self.base.config
        if not config:
            return config
        config = config.with_tied(False) if self.untied else config
        grown = {
            self.replaced[name].shape[0] for name in self.base.nodes if name in self.replaced and self._grown(name)
        }
        if grown:
            rows, section = max(grown), config.language.plain()
            self.findings.warnings.append(f"{self.base.name}: an adapter brings embeddings of {rows:,} rows")
            if "vocab_size" in section:
                return config.with_language(section | {"vocab_size": rows})
        return config

    def _grown(self, name: str) -> bool:
        return self.replaced[name].shape[0] > self.base.nodes[name].shape[0]
