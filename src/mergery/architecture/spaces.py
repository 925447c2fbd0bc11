"""Which axes of a model's tensors are one space: what a change of coordinates has to change together.

A space is what some tensors write and others read: the residual stream, the neurons of an MLP, the dimensions of its heads, its
experts, its tokens. Where a tensor writes, a change T of the space's coordinates multiplies it with T; where it reads, with the
inverse; so the model computes what it did, as long as what stands between, norms, rotary positions and activations, does
not see the change. What each family leaves free stands in `symmetries.py`. A tensor whose place is not known is named.

Spaces are called `residual`, `vocabulary`, and of a layer `layers.3.mlp`, `layers.3.experts`, `layers.3.experts.5.mlp`,
`layers.3.shared.mlp`, `layers.3.queries`, `.keys`, `.values` and `.mixed`, the values as attention has mixed them. The hidden
layers of a plain chain of matrices are `hidden.0`, `hidden.1` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mergery.architecture.fused import FusedPart, fused_parts, heads_of, transposed
from mergery.architecture.names import Architecture, ParsedName
from mergery.architecture.norms import norms_before
from mergery.architecture.spelling import ties_head
from mergery.architecture.symmetries import CHAIN, Symmetries, rotated_share, symmetries_of
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config

RESIDUAL, VOCABULARY = "residual", "vocabulary"


class Axis(NamedTuple):
    """A tensor's axis in a space: one that reads it, or one that writes it; `signed` where a sign of the space reaches it.

    Gains of norms, and rows of a gate that an activation follows, take part in an order but not in signs.
    """

    space: str
    reads: bool = False
    signed: bool = True


class Piece(NamedTuple):
    """A matrix or a vector, a tensor of its own or part of a fused one, with the space of each axis as it is stored.

    None is an axis that nothing changes. `expert` is the number of an expert, or `shared`; else empty.
    """

    tensor: str
    part: FusedPart | None
    role: str
    layer: int | None
    expert: str
    axes: tuple[Axis | None, ...]


class Space(NamedTuple):
    """A space's size; `signs` says whether signs of single coordinates change nothing that the model computes."""

    size: int
    signs: bool = False


@dataclass(frozen=True)
class Attention:
    """A layer's heads: how many query and key heads, the size of one, and what its queries and keys leave free.

    `free` is `planes` (a turn and a scale of each pair of coordinates that rotary positions turn together), `signs` (of each
    pair, where heads are normed), `any` (each invertible matrix), or empty. The rest behind the pairs is free but for norms.
    """

    queries: int
    keys: int
    size: int
    free: str
    pairs: tuple[tuple[int, int], ...]
    order: bool = True  # whether heads may change places

    @property
    def shared(self) -> int:
        """Query heads of one key head."""
        return self.queries // self.keys


@dataclass(frozen=True)
class Spaces:
    """The pieces of a model's tensors, in their order; the spaces; and the tensors whose place is not known, and why."""

    pieces: tuple[Piece, ...]
    sizes: Mapping[str, Space]
    attention: Mapping[int, Attention]  # by layer
    unknown: Mapping[str, str]
    norm: str  # of the residual stream: rms or layer
    fixed: str = ""  # why the channels of the residual stream must stay, where they must
    before: Mapping[str, str] = field(
        default_factory=dict
    )  # of tensors that read it: the gains of the norm before them
    offset: float = 0.0  # what norms add to their gains
    seen: str = ""  # why a rotation of the residual stream is seen, where it is


def read_spaces(tensors: Iterable[TensorInfo], architecture: Architecture, config: Config) -> Spaces | None:
    """The spaces of a model's tensors; None where its family is none of those whose symmetries are known."""
    free = symmetries_of(config)
    if free is None:
        return None
    infos = list(tensors)
    return _chain(infos) if free is CHAIN else _Reading(infos, architecture, config, free).spaces()


class _Reading:
    def __init__(self, infos: list[TensorInfo], architecture: Architecture, config: Config, free: Symmetries) -> None:
        self.infos, self.names, self.config, self.free = infos, architecture.names, config, free
        own = config.language
        sizes = (own.get(key) for key in ("hidden_size", "n_embd", "d_model"))
        self.hidden = next((size for size in sizes if isinstance(size, int)), 0)
        self.sizes: dict[str, Space] = {RESIDUAL: Space(self.hidden, free.norm == "rms")}
        self.attention: dict[int, Attention] = {}
        self.unknown: dict[str, str] = {}
        self.pooled = behind_pooler([info.name for info in infos])
        self.gated = {
            (self.names[info.name].layer, _expert(info.name))
            for info in infos
            if {"mlp.gate", "mlp.gate_up"} & set(self.names[info.name].roles)
        }

    def spaces(self) -> Spaces:
        for info in self.infos:
            if {"attention.q", "attention.qkv"} & set(self.names[info.name].roles):
                self.heads(info.name, self.names[info.name])
        pieces: list[Piece] = []
        for info in self.infos:
            found = self.of_tensor(info)
            if isinstance(found, str):
                self.unknown[info.name] = found
            else:
                pieces += found
        before, seen = norms_before(pieces, _reads_residual, self.config.language.get)
        own = (self.free.norm, self.fixed(), before, self.free.offset, seen)
        return Spaces(tuple(pieces), self.sizes, self.attention, self.unknown, *own)

    def fixed(self) -> str:
        """Why channels must stay: what a model without a head answers is the residual stream itself."""
        named = self.config.get("architectures")
        last = str(named[0]) if isinstance(named, list) and named else ""
        bare = last.endswith("Model") and not last.endswith(("HeadModel", "HeadsModel"))
        headed = any(self.names[info.name].roles[0] == "head" for info in self.infos) or ties_head(self.config)
        return "the model has no head: its channels are what it answers" if bare or not headed else ""

    def heads(self, name: str, parsed: ParsedName) -> None:
        """Note how a layer's heads lie."""
        shape = heads_of(name, self.config)
        if shape is None or parsed.layer is None or parsed.layer in self.attention:
            return
        normed = [
            info for info in self.infos
            if self.names[info.name].layer == parsed.layer and "attention.norm" in self.names[info.name].roles
        ]  # fmt: skip
        plain = self.free.norm == "rms" and not any(info.name.endswith("bias") for info in normed)
        free = "" if normed and not (plain and self.free.rotary) else "signs" if normed else "planes"
        free = free if self.free.rotary else "" if normed else "any"
        turned = int(rotated_share(self.config, self.free, shape[2]) * shape[2]) // 2 * 2
        half = turned // 2
        pairs = tuple(
            (f, f + half) if self.free.rotary == "half" else (2 * f, 2 * f + 1)
            for f in range(half if self.free.rotary else 0)
        )
        self.attention[parsed.layer] = Attention(*shape, free, pairs, self.free.heads)

    def of_tensor(self, info: TensorInfo) -> list[Piece] | str:
        """The pieces of a tensor, or why its place is not known."""
        parsed, shape = self.names[info.name], info.shape
        if parsed.roles[0] == "buffer" or "buffer" in parsed.roles:
            axes: tuple[Axis | None, ...] = (None,) * len(shape)
            if parsed.roles[0] == "router" and len(shape) == 1:  # the bias that balances experts
                axes = (Axis(f"layers.{parsed.layer}.experts"),)
            return self.checked(info.name, None, parsed, shape, axes, "buffer", "")
        if parsed.part != "language":
            return "it is no part of the language model"
        parts = fused_parts(info.name, shape, parsed.roles, self.config)
        if parts is None:
            return "the config does not say how it is fused"
        if not parts:
            flip = transposed(info.name, shape, self.config)
            return self.piece(info.name, None, parsed, parsed.roles, shape, flip=flip)
        pieces: list[Piece] = []
        for part in parts:
            found = self.piece(info.name, part, parsed, part.roles, part.shape, flip=part.transposed)
            if isinstance(found, str):
                return found
            pieces += found
        return pieces

    def piece(
        self,
        name: str,
        part: FusedPart | None,
        parsed: ParsedName,
        roles: tuple[str, ...],
        shape: tuple[int, ...],
        *,
        flip: bool,
    ) -> list[Piece] | str:
        expert = part.key.split()[1] if part is not None and part.key.startswith("expert") else _expert(name)
        role = next((role for role in roles if role not in ("expert", "linear", "bias")), roles[0])
        upright = shape[::-1] if flip and len(shape) == 2 else shape
        axes = self.axes(name, role, parsed.layer, expert, upright)
        if isinstance(axes, str):
            return axes
        axes = axes[::-1] if flip and len(axes) == 2 else axes
        return self.checked(name, part, parsed, shape, axes, role, expert)

    def checked(
        self, name: str, part: FusedPart | None, parsed: ParsedName, shape: tuple[int, ...],
        axes: tuple[Axis | None, ...], role: str, expert: str,
    ) -> list[Piece] | str:  # fmt: skip
        """A piece, once its axes have the sizes of their spaces."""
        if len(axes) != len(shape):
            return f"it is {list(shape)}"
        for length, axis in zip(shape, axes, strict=True):
            if axis is None:
                continue
            known = self.sizes.setdefault(axis.space, Space(length))
            if known.size != length:
                return f"it is {list(shape)}, and {axis.space} has {known.size}"
        return [Piece(name, part, role, parsed.layer, expert, axes)]

    def axes(
        self, name: str, role: str, layer: int | None, expert: str, shape: tuple[int, ...]
    ) -> tuple[Axis | None, ...] | str:
        """The axes of a piece of a shape, outputs first; for a vector, its only one."""
        vector, own = len(shape) == 1, f"layers.{layer}"
        residual = Axis(RESIDUAL, reads=True)
        if role == "embed" and not vector:
            return (self.tokens(shape[0]), Axis(RESIDUAL))
        if role == "head":
            read = None if name in self.pooled else residual
            return (self.tokens(shape[0]),) if vector else (self.tokens(shape[0]), read)
        if role == "attention.norm":
            return self.head_norm(name, layer, shape)
        if role == "norm" and vector and shape[0] == self.hidden:
            return (Axis(RESIDUAL, signed=name.endswith("bias")),)
        if role == "router":
            count = None if "shared_expert" in name else Axis(f"{own}.experts")
            return (count,) if vector else (count, residual)
        if role in ("mlp.gate", "mlp.up", "mlp.down"):
            space = f"{own}.{'shared.' if expert == 'shared' else f'experts.{expert}.' if expert else ''}mlp"
            free = (layer, expert) in self.gated or (layer, "") in self.gated
            if role == "mlp.down" and vector:
                return (Axis(RESIDUAL),)
            self.sizes.setdefault(space, Space(shape[1 if role == "mlp.down" else 0], free))
            if role == "mlp.down":
                return (Axis(RESIDUAL), Axis(space, reads=True, signed=free))
            inner = Axis(space, signed=free and role == "mlp.up")
            return (inner,) if vector else (inner, residual)
        if role in ("attention.q", "attention.k", "attention.v", "attention.o"):
            return self.of_heads(role, layer, vector=vector)
        if _BEFORE_HEAD.search(name):
            return (Axis(RESIDUAL),) if vector else (Axis(RESIDUAL), residual)
        if _POOLER.search(name):
            return (None,) if vector else (None, residual)
        return f"no rule says what the axes of a tensor of the role {role!r} stand for"

    def tokens(self, rows: int) -> Axis | None:
        return Axis(VOCABULARY) if rows == self.config.language.get("vocab_size") else None

    def of_heads(self, role: str, layer: int | None, *, vector: bool) -> tuple[Axis | None, ...] | str:
        heads = self.attention.get(layer) if layer is not None else None
        if heads is None:
            return "the config does not say how its heads lie"
        residual = Axis(RESIDUAL, reads=True)
        for word, count in (
            ("queries", heads.queries), ("keys", heads.keys), ("values", heads.keys), ("mixed", heads.queries),
        ):  # fmt: skip
            self.sizes.setdefault(f"layers.{layer}.{word}", Space(count * heads.size))
        if role == "attention.o":
            return (Axis(RESIDUAL),) if vector else (Axis(RESIDUAL), Axis(f"layers.{layer}.mixed", reads=True))
        word = {"attention.q": "queries", "attention.k": "keys", "attention.v": "values"}[role]
        inner = Axis(f"layers.{layer}.{word}")
        return (inner,) if vector else (inner, residual)

    def head_norm(self, name: str, layer: int | None, shape: tuple[int, ...]) -> tuple[Axis | None, ...] | str:
        """A norm of queries or keys: of each head by itself, which all share, or over all."""
        heads = self.attention.get(layer) if layer is not None else None
        if heads is None or len(shape) != 1:
            return "a norm of heads of another kind"
        if shape[0] == heads.size:
            return (None,)
        word = "keys" if re.search(r"(^|\.)k_?(layer)?_?norm|key_?(layer)?_?norm", name) else "queries"
        return (Axis(f"layers.{layer}.{word}", signed=False),)


def behind_pooler(names: Collection[str]) -> set[str]:
    """The heads among a model's tensors that read what a pooler writes, and not the residual stream."""
    pooled = any(_POOLER.search(name) for name in names)
    return {name for name in names if pooled and _BEHIND_POOLER.search(name)}


def _reads_residual(piece: Piece) -> bool:
    return any(axis is not None and axis.space == RESIDUAL and axis.reads for axis in piece.axes)


_BEFORE_HEAD = re.compile(r"(^|\.)(cls\.predictions\.transform|lm_head)\.dense\.(weight|bias)$")
_POOLER = re.compile(r"(^|\.)(pooler|classifier)\.dense\.(weight|bias)$")  # what it writes is no channel of the stream,
_BEHIND_POOLER = re.compile(r"(^|\.)(classifier(\.out_proj)?|cls\.seq_relationship)\.weight$")  # and these read that
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_WEIGHT = re.compile(r"(^|\.)weight$")


def _expert(name: str) -> str:
    match = _EXPERT.search(name)
    return match[1] if match else "shared" if re.search(r"\.shared_(expert|mlp)s?\.", name) else ""


def _chain(infos: list[TensorInfo]) -> Spaces:
    """A plain chain of matrices [out, in] with element-wise activations between them, in the order of their names' numbers."""

    def place(name: str) -> list[tuple[int, str]]:
        return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"\.|(\d+)", name) if word]

    shapes = {info.name: info.shape for info in infos}
    matrices = sorted((name for name in shapes if len(shapes[name]) == 2 and _WEIGHT.search(name)), key=place)
    pieces: list[Piece] = []
    sizes: dict[str, Space] = {}
    unknown = dict.fromkeys(shapes, "it is neither a matrix of the chain nor the bias of one")
    width = None
    for number, name in enumerate(matrices):
        out, into = shapes[name]
        if width is not None and width != into:
            unknown[name] = f"it reads {into} numbers, and the matrix before it writes {width}"
            break
        width = out
        written = Axis(f"hidden.{number}") if name != matrices[-1] else None
        read = Axis(f"hidden.{number - 1}", reads=True) if number else None
        if written:
            sizes[written.space] = Space(out)
        bias = _WEIGHT.sub(r"\1bias", name)
        for each, axes in ((name, (written, read)), (bias, (written,))):
            if shapes.get(each, ())[:1] == (out,):
                pieces.append(Piece(each, None, "linear", None, "", axes))
                unknown.pop(each)
    return Spaces(tuple(pieces), sizes, {}, unknown, "layer")
