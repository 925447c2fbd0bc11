"""The three models of a rebase as they are run and read: the old base, its fine-tune, and the new base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mergery.architecture.fused import fused_parts, transposed
from mergery.architecture.spaces import behind_pooler
from mergery.architecture.spelling import language_family
from mergery.calibration.model import StreamedModel, Unit
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.tokenizer.reading import Tokenizer, fingerprint, read_tokenizer
from mergery.errors import MergeryError, PlanError, Where, listed
from mergery.views.sizes import read_sizes

READERS = ("attention.q", "attention.k", "attention.v", "attention.qkv", "mlp.gate", "mlp.up", "mlp.gate_up", "router")
WRITERS = ("attention.o", "mlp.down")


@dataclass(frozen=True)
class Matrix:
    """One matrix of a parameter: the parameter itself, or one of a stack of experts."""

    index: int
    start: int
    shape: tuple[int, int]  # as it is stored
    turned: bool  # whether that is [in, out]
    roles: tuple[str, ...]
    cuts: tuple[tuple[str, Tensor], ...]  # of a fused one, the role and the rows of each part; of others, of itself

    def of(self, weights: Tensor) -> Tensor:
        """The matrix [out, in] in the weights of its parameter: a view."""
        size = self.shape[0] * self.shape[1]
        matrix = weights.reshape(-1)[self.start : self.start + size].view(self.shape)
        return matrix.T if self.turned else matrix

    @property
    def reads(self) -> bool:
        """Whether its inputs are the residual stream."""
        return any(role in READERS for role in self.roles)

    @property
    def writes(self) -> bool:
        """Whether its outputs are added to the residual stream."""
        return any(role in WRITERS for role in self.roles)


class Heads(NamedTuple):
    """How attention is cut into heads."""

    queries: int
    keys: int
    size: int


@dataclass(frozen=True)
class Trio:
    """The old base A, its fine-tune X and the new base B."""

    old: StreamedModel
    tuned: StreamedModel
    new: StreamedModel

    @cached_property
    def width(self) -> int:
        """Channels of the new base's residual stream."""
        return int(self.new.module.get_input_embeddings().weight.shape[1])

    @cached_property
    def heads(self) -> tuple[Heads, Heads] | None:
        """The heads of both bases, where both are known and equally many."""
        found = [_heads(model) for model in (self.old, self.new)]
        first, second = found
        if first is None or second is None or first[:2] != second[:2]:
            return None
        return first, second

    @cached_property
    def tokens(self) -> tuple[Tensor, Tensor]:
        """Rows of the same tokens in both bases."""
        return shared_tokens(self.old.view.donor, self.new.view.donor, self._rows(self.old), self._rows(self.new))

    @staticmethod
    def _rows(model: StreamedModel) -> int:
        return int(model.module.get_input_embeddings().weight.shape[0])

    @property
    def tables(self) -> dict[str, str]:
        """The parameters outside blocks that have a row for each token, or each position: which of these."""
        found: dict[str, str] = {}
        rows, pooled = self._rows(self.new), behind_pooler(self.new.view.nodes)
        for unit in self.new.units:
            for _, _, name in [] if unit.layer else unit.parameters:
                shape = self.new.nodes[name].shape
                pieces = self.new.stored(name)
                roles = self.new.roles(pieces[0][0]) if pieces else ()
                if pieces and pieces[0][0] in pooled:
                    continue
                if len(shape) == 2 and ("embed" in roles or "head" in roles) and shape[1] == self.width:
                    found[name] = "tokens" if shape[0] == rows else "positions"
        return found

    def change(self, name: str) -> Tensor:
        """What the fine-tune has learned of a parameter, float64."""
        return self.tuned.read(name).double() - self.old.read(name).double()

    def check(self) -> None:
        """Raise PlanError where the models cannot be walked through side by side."""
        kinds = [language_family(model.view.config) for model in (self.old, self.new)]
        where = Where(self.new.view.donor.location)
        if kinds[0] != kinds[1]:
            raise PlanError(
                "the bases are of different families",
                where=where,
                why=f"the old one is {kinds[0]}, the new one {kinds[1]}: their blocks have other parts",
                hint="`mergery diagnose OLD NEW` says what else can be done with them",
            )
        for model in (self.old, self.new):
            rows = getattr(model.module.get_input_embeddings(), "weight", None)
            if rows is None or rows.dim() != 2:
                why = f"{model.view.name} has no rows of tokens, from which the map of its residual stream begins"
                hint = "--way shift or transplant, where the bases have one shape"
                raise PlanError("Theseus carries models of text", where=where, why=why, hint=hint)
        mine, theirs = ([unit.name for unit in model.units if unit.layer] for model in (self.old, self.new))
        if mine != theirs:
            raise PlanError(
                "the bases have different numbers of layers",
                where=where,
                why=f"the old one has {len(mine)}, the new one {len(theirs)}",
                hint="a rebase carries each layer into the same one; take bases of one depth",
            )
        wrong = [
            name
            for name, node in self.old.nodes.items()
            if name not in self.tuned.nodes or self.tuned.nodes[name].shape != node.shape
        ]
        if wrong:
            raise PlanError(
                "the fine-tune is not of the old base's shape",
                where=Where(self.tuned.view.donor.location),
                why=f"{listed(wrong)} differ, or are missing",
                hint="name the base that it was trained from with --from",
            )
        missing = [name for name in self.new.nodes if name not in self.old.nodes and name not in self.tables]
        if missing:
            raise PlanError(
                "the new base has weights that the old one lacks",
                where=where,
                why=listed(missing),
                hint="take bases of one family and one kind of block",
            )


def _heads(model: StreamedModel) -> Heads | None:
    try:
        sizes = read_sizes(model.view.config.language, "intermediate_size")
    except PlanError:
        return None
    return Heads(sizes.heads, sizes.kv_heads, sizes.head)


def shared_tokens(old: Checkpoint, new: Checkpoint, of_old: int, of_new: int) -> tuple[Tensor, Tensor]:
    """Rows of embeddings that belong to one token in both models: by the tokenizers, or by their numbers without these."""
    tokenizers = [_tokenizer(each) for each in (old, new)]
    first, second = tokenizers
    if first is None or second is None or first.digest == second.digest:
        same = torch.arange(min(of_old, of_new))
        return same, same
    pairs = [
        (first.tokens[token], index)
        for token, index in second.tokens.items()
        if token in first.tokens and first.tokens[token] < of_old and index < of_new
    ]
    pairs.sort(key=lambda pair: pair[1])
    mine, theirs = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
    return mine, theirs


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    try:
        return read_tokenizer(checkpoint)
    except MergeryError:
        return None


def same_tokenizer(old: Checkpoint, new: Checkpoint) -> bool:
    """Whether both cut texts into the same tokens, as far as their files tell."""
    first, second = (_tokenizer(each) for each in (old, new))
    if first is None or second is None:
        return True
    return fingerprint(old) == fingerprint(new) or (first.tokens == second.tokens and first.merges == second.merges)


# --- the matrices of a parameter ------------------------------------------------------------------------------------------


def matrices(model: StreamedModel, name: str) -> list[Matrix]:
    """The matrices of a parameter; none where it is a vector."""
    shape = model.nodes[name].shape
    if len(shape) not in (2, 3):
        return []
    size = shape[-2] * shape[-1]
    found: list[Matrix] = []
    for index in range(shape[0] if len(shape) == 3 else 1):
        pieces = model.stored(name, index * size, (index + 1) * size)
        if not pieces:
            return []
        tensor = pieces[0][0]
        stored = model.view.nodes[tensor].shape
        turned = transposed(tensor, stored, model.view.config)
        cuts = _cuts(model, pieces, (shape[-2], shape[-1]), index * size, turned)
        roles = tuple(dict.fromkeys(role for piece in pieces for role in model.roles(piece[0])))
        found.append(Matrix(index, index * size, (shape[-2], shape[-1]), turned, roles, cuts))
    return found


def _cuts(
    model: StreamedModel, pieces: Sequence[tuple[str, int, int, int]], shape: tuple[int, int], start: int, turned: bool
) -> tuple[tuple[str, Tensor], ...]:
    outputs = shape[1] if turned else shape[0]
    if len(pieces) > 1 and not turned and all(length % shape[1] == 0 for *_, length in pieces):
        rows = [((at - start) // shape[1], length // shape[1]) for _, _, at, length in pieces]
        return tuple(
            (_role(model.roles(piece[0])), torch.arange(first, first + count))
            for piece, (first, count) in zip(pieces, rows, strict=True)
        )
    tensor = pieces[0][0]
    stored, roles = model.view.nodes[tensor].shape, model.roles(tensor)
    if len(stored) == 3:
        if "mlp.gate_up" not in roles or outputs % 2:
            return ((_role(roles), torch.arange(outputs)),)
        half = outputs // 2
        return (("mlp.gate", torch.arange(half)), ("mlp.up", torch.arange(half, outputs)))
    parts = fused_parts(tensor, stored, roles, model.view.config) or ()
    if not parts:
        return ((_role(roles), torch.arange(outputs)),)
    return tuple(
        (_role(part.roles), torch.cat([torch.arange(first, first + length) for first, length in part.spans]))
        for part in parts
    )


def _role(roles: Sequence[str]) -> str:
    return next((role for role in roles if role in READERS or role in WRITERS), "")


def in_heads(role: str, rows: Tensor, heads: Heads | None) -> list[Tensor]:
    """The rows of a part, head by head where it has heads."""
    count = 0
    if heads is not None:
        wanted = {
            "attention.q": heads.queries,
            "attention.k": heads.keys,
            "attention.v": heads.keys,
            "attention.o": heads.queries,
        }
        count = wanted.get(role, 0)
        count = count if count * heads.size == len(rows) else 0
    return list(rows.chunk(count)) if count else [rows]


def paired(mine: Matrix, theirs: Matrix, heads: tuple[Heads, Heads] | None) -> list[tuple[Tensor, Tensor]]:
    """The rows of outputs of a matrix in the old base and in the new one that belong together: part by part, head by head.

    Raises PlanError where they are cut otherwise.
    """
    found: list[tuple[Tensor, Tensor]] = []
    if [role for role, _ in mine.cuts] != [role for role, _ in theirs.cuts]:
        raise PlanError("a fused matrix has other parts in the two bases", hint="take bases of one family")
    for (role, rows), (_, others) in zip(mine.cuts, theirs.cuts, strict=True):
        role = "" if role in WRITERS else role  # their outputs are the residual stream
        pairs = (in_heads(role, rows, heads and heads[0]), in_heads(role, others, heads and heads[1]))
        found += zip(*pairs, strict=True) if len(pairs[0]) == len(pairs[1]) else [(rows, others)]
    return found


def paired_inputs(mine: Matrix, theirs: Matrix, heads: tuple[Heads, Heads] | None) -> list[tuple[Tensor, Tensor]]:
    """The same of inputs, which only an attention's output matrix has in heads."""
    sides = [torch.arange(each.shape[0] if each.turned else each.shape[1]) for each in (mine, theirs)]
    role = "attention.o" if "attention.o" in mine.roles else ""
    first, second = (in_heads(role, side, heads and heads[at]) for at, side in enumerate(sides))
    return list(zip(first, second, strict=True)) if len(first) == len(second) else [(sides[0], sides[1])]


def biases_of(unit: Unit, weights: Mapping[str, Any]) -> dict[str, str]:
    """The bias of each matrix of a unit that has one, by the matrix's name."""
    found: dict[str, str] = {}
    for _, own, name in unit.parameters:
        bias = name.removesuffix(own) + "bias"
        if own == "weight" and bias in weights:
            found[name] = bias
    return found
