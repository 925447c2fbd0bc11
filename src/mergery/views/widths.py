"""The widths of a model, changed: its key/value heads, the neurons of its MLP, the channels of its residual stream."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from mergery.architecture import read_architecture
from mergery.architecture.anatomy import Anatomy
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.dtypes import BY_TORCH, F32
from mergery.errors import PlanError, listed
from mergery.graph.findings import Findings
from mergery.graph.gathering import from_ranges
from mergery.graph.nodes import Gathered, Merged, Node, Stored
from mergery.graph.view import Change, View
from mergery.method import find
from mergery.recipe import Source
from mergery.views.sizes import Sizes, read_sizes

MOST = 64  # times the size before: more is a slip of the pen, and would take long to plan

Ranges = tuple[tuple[int, int], ...]  # of an old axis, end to end: (first, length); zeros where the first is -1


class Reshaping:
    """Widths of one model, changed. `dtype` is the output's by its name in torch, where the recipe gives one."""

    def __init__(self, view: View, source: Source, anatomy: Anatomy, dtype: str | None, findings: Findings) -> None:
        self.old, self.source, self.anatomy = view, source, anatomy
        self.dtype, self.findings, self.before = dtype, findings, len(findings.problems)
        self.sizes = read_sizes(view.config.language, anatomy.inner)
        self.spaces: dict[str, tuple[Ranges, ...]] = {}  # the ranges of each new axis; several are averaged
        self.factor = 1.0  # of norms, for a wider residual stream
        self.settings: dict[tuple[float, ...], dict[str, Any]] = {}
        self.number = findings.numbers()

    def view(self) -> View:
        new = self.sizes
        for key, change in (
            ("heads", self.queries), ("kv_heads", self.heads), ("intermediate_size", self.inner), ("hidden_size", self.hidden),
        ):  # fmt: skip
            if key in self.source.convert:
                new = change(new, self.source.convert[key])
        if len(self.findings.problems) > self.before:
            return self.old
        nodes: dict[str, Node] = {}
        unknown: list[str] = []
        for name, node in self.old.nodes.items():
            axes = self.anatomy.of(name)
            if axes is None or len(axes) != len(node.shape):
                unknown.append(name)
            elif self.agrees(name, node, axes):
                nodes[name] = self.tensor(name, node, axes)
        if unknown:
            why = "no conversion is sound while a tensor's place is not known"
            self.fail(
                "",
                f"{self.old.name!r} has {listed(unknown)}, which its family does not",
                why,
                hint="leave out 'convert'",
            )
        if len(self.findings.problems) > self.before:
            return self.old
        infos = [TensorInfo(name, node.shape, node.dtype) for name, node in nodes.items()]
        config = self.config(new)
        return replace(self.old, nodes=nodes, architecture=read_architecture(infos, config), config=config)

    def fail(self, key: str, what: str, why: str = "", hint: str = "") -> None:
        where = self.source.places.get(key, self.source.place)
        self.findings.fail(what, where=where, why=why, hint=hint)

    def say(self, what: str, loss: str = "") -> None:
        self.findings.changes.append(Change(self.old.name, what, loss))

    def queries(self, sizes: Sizes, wanted: int) -> Sizes:
        """More query heads, of zeros, as many for each key/value head; where each has its own, with such of zeros.

        A head of zeros takes the plain mean of its values, and what reads that is zero.
        """
        have, head, own = sizes.heads, sizes.head, sizes.kv_heads == sizes.heads
        name, key, hidden = self.old.name, "heads", self.source.convert.get("hidden_size", sizes.hidden)
        over_all = any(self.anatomy.of(each) == ("Q",) and "norm" in each for each in self.old.nodes)
        if not self.anatomy.grouped or over_all:
            why = (
                "one norm is over the queries of all heads"
                if over_all
                else "its queries stand in columns of a fused tensor"
            )
            self.fail(key, f"{name!r} cannot get more heads", why, "leave out heads")
        elif wanted < have:
            why = f"it has {have} heads; which of them to leave out is a question of data"
            self.fail(key, f"{name!r} cannot be narrowed to {wanted} heads", why, f"heads: {have}")
        elif wanted > MOST * have:
            self.fail(
                key, f"{wanted} heads are more than {MOST} times the {have} of {name!r}", hint=f"heads: {MOST * have}"
            )
        elif hidden % wanted or (not own and wanted % sizes.kv_heads):
            why = f"heads must divide the {hidden} channels, and come out even for {sizes.kv_heads} key/value heads"
            self.fail(key, f"{name!r} cannot have {wanted} heads", why, f"heads: {2 * have}")
        elif own and "kv_heads" in self.source.convert:
            why = f"each of its {have} query heads has its own keys and values, and new ones bring theirs"
            self.fail("kv_heads", f"heads and kv_heads of {name!r} cannot both change", why, "leave out kv_heads")
        elif wanted > have:
            groups = 1 if own else sizes.kv_heads
            old, new = have // groups * head, (wanted - have) // groups * head
            self.spaces["Q"] = (tuple(each for group in range(groups) for each in ((group * old, old), (-1, new))),)
            if own:
                self.spaces["K"] = self.spaces["Q"]
            self.say(f"heads {have} -> {wanted}, the new ones zero")
        return replace(sizes, heads=wanted, kv_heads=wanted if own else sizes.kv_heads)

    def heads(self, sizes: Sizes, wanted: int) -> Sizes:
        """More key/value heads by repetition; fewer by the mean of each group (arXiv 2305.13245)."""
        have, head = sizes.kv_heads, sizes.head
        if not self.anatomy.grouped:
            what = f"kv_heads: every query head of {self.old.name!r} must have its own keys and values"
            self.fail("kv_heads", what, hint="leave out kv_heads")
        elif sizes.heads % wanted or (have % wanted and wanted % have):
            why = f"it has {have}, and {sizes.heads} query heads: the groups must come out even"
            even = [n for n in range(1, sizes.heads + 1) if sizes.heads % n == 0 and (have % n == 0 or n % have == 0)]
            hint = f"one of {', '.join(map(str, even))}"
            self.fail("kv_heads", f"{self.old.name!r} cannot have {wanted} key/value heads", why, hint)
        elif wanted > have:
            times = wanted // have
            self.spaces["K"] = (tuple((j * head, head) for j in range(have) for _ in range(times)),)
            self.say(f"key/value heads {have} -> {wanted}, each repeated {times} times")
        elif wanted < have:
            group = have // wanted
            picks = (tuple(((j * group + i) * head, head) for j in range(wanted)) for i in range(group))
            self.spaces["K"] = tuple(picks)
            self.say(
                f"key/value heads {have} -> {wanted}, each the mean of {group}",
                "the differences between the heads of a group: train it further",
            )
        return replace(sizes, kv_heads=wanted)

    def inner(self, sizes: Sizes, wanted: int) -> Sizes:
        """More neurons, of zeros."""
        have = sizes.inner
        if not any("F" in axis for name in self.old.nodes for axis in self.anatomy.of(name) or ()):
            what = f"intermediate_size: {self.old.name!r} has no MLP outside its experts"
            self.fail("intermediate_size", what, hint="leave out intermediate_size")
        elif wanted < have:
            why = f"it has {have} neurons; which of them to leave out is a question of data"
            hint = "widen the other model to this one's size instead"
            self.fail("intermediate_size", f"{self.old.name!r} cannot be narrowed to {wanted} neurons", why, hint)
        elif wanted > MOST * have:
            what = f"{wanted} neurons are more than {MOST} times the {have} of {self.old.name!r}"
            self.fail("intermediate_size", what, hint=f"intermediate_size: {MOST * have}")
        elif wanted > have:
            self.spaces["F"] = (((0, have), (-1, wanted - have)),)
            self.say(f"inner neurons {have} -> {wanted}, the new ones zero")
        return replace(sizes, inner=wanted)

    def hidden(self, sizes: Sizes, wanted: int) -> Sizes:
        """More channels, of zeros; norms over them are made good by their gains and epsilon."""
        have = sizes.hidden
        key = "hidden_size"
        if self.anatomy.norm == "layer":
            why = "a layer norm takes off the mean of all channels, which zeros change"
            self.fail(key, f"{self.old.name!r} cannot be widened to {wanted} channels", why, "leave out hidden_size")
        elif wanted < have:
            why = f"it has {have} channels; which of them to leave out is a question of data"
            hint = "widen the other model to this one's size instead"
            self.fail(key, f"{self.old.name!r} cannot be narrowed to {wanted} channels", why, hint)
        elif wanted > MOST * have:
            what = f"{wanted} channels are more than {MOST} times the {have} of {self.old.name!r}"
            self.fail(key, what, hint=f"hidden_size: {MOST * have}")
        elif wanted % sizes.heads:
            why = f"hidden_size must be a multiple of the {sizes.heads} attention heads"
            hint = f"hidden_size: {-(-wanted // sizes.heads) * sizes.heads}"
            self.fail(key, f"{self.old.name!r} cannot be widened to {wanted} channels", why, hint)
        elif wanted > have:
            self.factor = math.sqrt(have / wanted)
            self.spaces["R"] = self.spaces["N"] = (((0, have), (-1, wanted - have)),)
            self.say(
                f"channels {have} -> {wanted}, the new ones zero; gains of norms times {self.factor:.6g}",
                self.rounding(),
            )
        return replace(sizes, hidden=wanted)

    def rounding(self) -> str:
        """What scaled norms lose where they are stored in few bits: nothing, if the factor is a power of two."""
        stored = {node.dtype for name, node in self.old.nodes.items() if self.anatomy.of(name) == ("N",)}
        if self.dtype:
            stored = {BY_TORCH[self.dtype]}
        narrow = next((dtype for dtype in stored if dtype.bits < 32), None)
        plain = self.anatomy.norm == "rms" and math.frexp(self.factor)[0] == 0.5
        return "" if narrow is None or plain else f"what rounding scaled weights to {narrow.torch} takes"

    def agrees(self, name: str, node: Node, axes: tuple[str, ...]) -> bool:
        """Whether a tensor has the lengths that the config states."""
        for length, axis in zip(node.shape, axes, strict=True):
            parts = [self.sizes.of(space) for space in axis.split("+")]
            wanted = [part for part in parts if part is not None]
            if len(wanted) == len(parts) and sum(wanted) != length:
                why = f"it is {list(node.shape)}, and the config gives {sum(wanted)}"
                hint = "config.json and weights are of different models: download the model again"
                self.fail(
                    "", f"{name!r} of {self.old.name!r} does not have the shape that its config states", why, hint
                )
                return False
        return True

    def tensor(self, name: str, node: Node, axes: tuple[str, ...]) -> Node:
        """One tensor in its new shape: part by part where spaces are fused."""
        parts: list[Node] = []
        first = 0
        for space in axes[0].split("+"):
            length = self.sizes.of(space) if "+" in axes[0] else node.shape[0]
            assert length is not None
            rows = self.spaces.get(space, (((0, length),),))
            shifted = [tuple((start + first if start >= 0 else -1, size) for start, size in each) for each in rows]
            picks = [self.gather(name, self.scaled(name, node, axes), each, axes[1:]) for each in shifted]
            parts.append(picks[0] if len(picks) == 1 else self.mixed(name, picks, [1 / len(picks)] * len(picks)))
            first += length
        if len(parts) == 1:
            return parts[0]
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        return from_ranges(name, shape, [(part, 0, part.elements) for part in parts])

    def gather(self, name: str, node: Node, rows: Ranges, rest: tuple[str, ...]) -> Node:
        if len(node.shape) == 1:
            return from_ranges(
                name, (_total(rows),), [(node if start >= 0 else None, start, size) for start, size in rows]
            )
        (columns,) = self.spaces.get(rest[0], (((0, node.shape[1]),),))
        return gathered(name, node, rows, columns)

    def scaled(self, name: str, node: Node, axes: tuple[str, ...]) -> Node:
        """Weights that a wider residual stream multiplies.

        With r = d_old / d_new, the mean square over the channels is r times what it was. With epsilon r times what it was
        (which the config gets), the norm gives 1 / sqrt(r) times what it gave, and its gains give that back. Queries and
        keys that are normed with the same epsilon become sqrt(r) times as large, so that it stays in proportion.
        Embeddings that are multiplied by sqrt(d) are made smaller beforehand; where the head shares them, the
        last norm gives it back.
        """
        factor = self.factor
        if factor == 1.0:
            return node
        anatomy, tied = self.anatomy, not any(each.endswith("lm_head.weight") for each in self.old.nodes)
        if axes == ("N",):
            last = self.old.architecture.names[name].layer is None
            if last and tied and anatomy.scales_embeddings:
                return node
            if anatomy.norm == "offset":
                return self.mixed(name, [node, _ones(self.old.name, node.shape[0])], [factor, factor - 1.0])
            return self.mixed(name, [node], [factor])
        embeds = anatomy.scales_embeddings and name.endswith("embed_tokens.weight")
        if embeds or (anatomy.normed_heads and axes[0] in "QK" and name.split(".")[-2] in ("q_proj", "k_proj")):
            return self.mixed(name, [node], [factor])
        return node

    def mixed(self, name: str, nodes: list[Node], weights: list[float]) -> Node:
        """A weighted sum."""
        known = self.settings.setdefault(tuple(weights), {"weight": np.array(weights), "normalize": False})
        names = (self.old.name,) * len(nodes)
        return Merged(find("linear"), name, names, tuple(nodes), None, known, F32, self.number)

    def epsilon(self) -> float:
        value = self.old.config.language.get("rms_norm_eps")
        if not isinstance(value, float):
            raise PlanError(
                f"config.json has rms_norm_eps of {value!r}",
                why="a wider model needs another",
                hint="rms_norm_eps in config.json: a number",
            )
        return value

    def config(self, sizes: Sizes) -> Config:
        section = self.old.config.language.plain()
        wanted = self.source.convert
        if "heads" in wanted:
            section |= {
                "num_attention_heads": sizes.heads,
                "num_key_value_heads": sizes.kv_heads,
                "head_dim": sizes.head,
            }
        if "kv_heads" in wanted:
            section["num_key_value_heads"] = sizes.kv_heads
        if "intermediate_size" in wanted:
            section[self.anatomy.inner] = sizes.inner
        if "hidden_size" in wanted:
            section["hidden_size"] = sizes.hidden
            section["rms_norm_eps"] = self.epsilon() * self.sizes.hidden / sizes.hidden
            section["head_dim"] = sizes.head
        return self.old.config.with_language(section)


def gathered(name: str, node: Node, rows: Ranges, columns: Ranges) -> Node:
    """Rows and columns of a matrix, by ranges."""
    width, shape = node.shape[1], (_total(rows), _total(columns))
    if columns == ((0, width),):
        return from_ranges(name, shape, [(node if first >= 0 else None, first * width, n * width) for first, n in rows])
    index = np.concatenate([np.arange(first, first + n) if first >= 0 else np.full(n, -1) for first, n in rows])
    firsts, sizes = np.array(columns, dtype=np.int64).T
    empty = (index[:, None] < 0) | (firsts[None, :] < 0)
    starts = np.where(empty, 0, index[:, None] * width + firsts[None, :])
    lengths = np.broadcast_to(sizes, starts.shape)
    which = np.where(empty, -1, 0)
    return Gathered(name, shape, node.dtype, (node,), which.reshape(-1), starts.reshape(-1), lengths.reshape(-1))


def _total(ranges: Ranges) -> int:
    return sum(size for _, size in ranges)


def _ones(model: str, length: int) -> Node:
    checkpoint = MemoryCheckpoint({"ones": np.ones(length, np.float32)}, model)
    return Stored(model, checkpoint, checkpoint.tensors["ones"])
