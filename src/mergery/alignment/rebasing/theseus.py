"""Theseus: what a fine-tune has learned, carried into a new base by orthogonal maps of every matrix's inputs and outputs.

    W_B + s T_out' (W_X - W_A) T_in,      T = c polar(C / |C| + r P / |P|)

C is the cross-moment X_A' X_B of a matrix's inputs, or its outputs, in both bases on the same tokens, optionally whitened,
C_A^-w C C_B^-w. P is what weights alone say of the same space, and all of it without texts: the residual stream from the rows
of shared tokens, E_A' E_B; what a matrix writes elsewhere from W_A T W_B', and what one reads elsewhere from W_A' T W_B. On P
rest the directions that the texts never take; where that says nothing either, coordinates stand for themselves. c brings what
is carried to the size that the new base's rows have, |X_A| / |X_B| for inputs and |Y_B| / |Y_A| for outputs: bases of different
widths differ in it. (arXiv 2602.12952, which has r = 0 and c = 1, and takes eigenvectors of each weight's own Gram matrix for
spaces without texts, whose signs are open.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mergery.alignment.rebasing.maps import (
    Moments,
    Rule,
    Side,
    carried,
    carried_gains,
    carried_rows,
    identity,
    map_of,
    unit,
    whole,
)
from mergery.alignment.rebasing.models import Matrix, Trio, biases_of, matrices, paired, paired_inputs
from mergery.alignment.rebasing.options import RebaseOptions
from mergery.calibration.model import StreamedModel, Unit
from mergery.calibration.sequential.lockstep import Weights
from mergery.calibration.sequential.seen import Place, Seen, norms_of

WEAKEST = 1e-3  # share of the identity in what weights say of a space, where both have its width
Key = tuple[str, int]  # a parameter, and which matrix of it


class Theseus:
    """Finds the new weights of blocks, one after the other."""

    prefix: Literal["own", "merged"] = "own"

    def __init__(self, trio: Trio, options: RebaseOptions) -> None:
        self.trio, self.options = trio, options
        self.heads = trio.heads if options.heads == "each" else None
        self.rule = Rule(options.ridge, options.whiten, options.sizes == "matched")
        self.residual = self._residual()
        self.last: Side = self.residual  # what the head reads: of the last norm outside the blocks
        self.interpolated = False  # whether rows of one text are brought to one number, as tokens differ
        self.found: dict[str, Tensor] = {}  # new weights of the unit at hand
        self.untouched: list[str] = []
        self.moments: dict[Key, Moments] = {}
        self.leads: dict[Key, Key] = {}
        self.norms: dict[str, Moments] = {}

    def _residual(self) -> Side:
        """The map of the residual stream, from the rows of tokens that both bases have."""
        trio = self.trio
        old, new = (model.read(_embeddings(model)) for model in (trio.old, trio.new))
        mine, theirs = trio.tokens
        moments = Moments()
        moments.add(old[mine], new[theirs])
        spaces = [(torch.arange(old.shape[1]), torch.arange(new.shape[1]))]
        nothing = torch.zeros(old.shape[1], new.shape[1], dtype=torch.float64)
        return map_of(moments, _with_identity(nothing), spaces, self.rule._replace(ridge=WEAKEST, whiten=0.0))

    # --- what is seen of the bases ----------------------------------------------------------------------------------------

    def wants(self, place: Place) -> bool:
        """Every matrix of attention, MLPs and experts."""
        return True

    def see(self, teacher: int, merged: Seen | None, own: Seen) -> None:
        """Take the inputs of a call in the new base, and in the old one."""
        assert merged is not None
        theirs = {_key(place): place for place in own.leads}
        for place, lead in merged.leads.items():
            self.leads.setdefault(_key(place), _key(lead))
        for place in merged.rows:
            rows, others = merged.of(place), own.of(theirs[_key(place)]) if _key(place) in theirs else None
            if others is None:
                continue
            if self.interpolated and not self._routed(place):
                others = interpolated(others, len(rows))
            if len(others) == len(rows):  # not where a router sends tokens elsewhere
                self.moments.setdefault(_key(place), Moments()).add(others, rows)
        for name, rows in merged.scaled.items():
            others = own.scaled.get(name, [])
            for mine, other in zip(rows, others, strict=False):
                other = interpolated(other, len(mine)) if self.interpolated else other
                if len(mine) == len(other):
                    self.norms.setdefault(name, Moments()).add(other, mine)

    def _routed(self, place: Place) -> bool:
        return "expert" in self.trio.new.roles(self.trio.new.stored(place.name, place.start, place.start + 1)[0][0])

    # --- new weights ------------------------------------------------------------------------------------------------------

    def fitted(self, weights: Weights, teachers: Sequence[StreamedModel]) -> dict[str, Any]:
        """Find the new weights of the unit whose parameters these are: in `found`. The new base itself runs on unchanged."""
        names = set(weights)
        own = next(each for each in self.trio.new.units if names & {name for _, _, name in each.parameters})
        self.found = self.moved(own, weights)
        return {}

    def moved(self, own: Unit, weights: Mapping[str, Any]) -> dict[str, Tensor]:
        """New weights of a unit of the new base, those alone that change; what has been seen is forgotten."""
        trio, scale = self.trio, self.options.scale
        found: dict[str, Tensor] = {}
        priors = self._priors(own, weights)
        biases = biases_of(own, weights)
        norms = norms_of(own)
        for name in weights:
            if name in biases.values() or name in trio.tables:
                continue
            if name in norms:
                side = self._norm(name)
                if side is None:
                    self.untouched.append(name)
                    continue
                width = weights[name].shape[0]
                found[name] = weights[name] + scale * carried_gains(trio.change(name), side, width).float()
                if not own.layer:
                    self.last = side
                if name in biases:
                    forth = self._norm(name, back=False)
                    assert forth is not None
                    change = carried_rows(trio.change(biases[name])[None], forth, width)[0]
                    found[biases[name]] = weights[biases[name]] + scale * change.float()
                continue
            found |= self._matrices(name, weights, priors, biases.get(name))
        self.moments.clear()
        self.leads.clear()
        self.norms.clear()
        return found

    def _matrices(
        self, name: str, weights: Mapping[str, Any], priors: Mapping[Key, tuple[Tensor, Tensor]], bias: str | None
    ) -> dict[str, Tensor]:
        """A parameter of matrices, and the bias behind it. Others are added as they are, where they have one shape."""
        trio, scale = self.trio, self.options.scale
        mine, theirs = matrices(trio.old, name), matrices(trio.new, name)
        old = trio.old.read(name)
        if not mine or len(mine) != len(theirs) or (name, 0) not in priors:
            if old.shape != weights[name].shape:
                self.untouched.append(name)
                return {}
            same = [each for each in (name, bias) if each is not None]
            return {each: weights[each] + scale * trio.change(each).float() for each in same}
        change, made = trio.change(name), weights[name].detach().clone()
        found: dict[str, Tensor] = {name: made}
        old_bias = trio.old.read(bias) if bias is not None else None
        for a, b in zip(mine, theirs, strict=True):
            into, out = self._sides((name, a.index), a, b, old, weights, priors, (bias, old_bias))
            target = b.of(made)
            target.add_(scale * carried(a.of(change), out, into, target.shape).float())
            if bias is not None:
                moved = carried_rows(trio.change(bias).reshape(len(mine), -1)[a.index][None], out, target.shape[0])[0]
                found.setdefault(bias, weights[bias].detach().clone()).reshape(len(mine), -1)[b.index].add_(
                    scale * moved.float()
                )
        return found

    def _sides(
        self,
        key: Key,
        a: Matrix,
        b: Matrix,
        old: Tensor,
        weights: Mapping[str, Any],
        priors: Mapping[Key, tuple[Tensor, Tensor]],
        bias: tuple[str | None, Tensor | None],
    ) -> tuple[Side, Side]:
        """The maps of a matrix's inputs and outputs."""
        moments = self.moments.get(self.leads.get(key, key))
        said_in, said_out = priors[key]
        into = map_of(moments, said_in, paired_inputs(a, b, self.heads), self.rule, back=True)
        behind = None
        if moments is not None:
            both = (bias[1], weights[bias[0]]) if bias[0] is not None and len(old.shape) == 2 else (None, None)
            behind = moments.through(a.of(old), b.of(weights[key[0]]), both)
        if "router" in a.roles and said_out.shape[0] == said_out.shape[1]:
            return into, identity(len(said_out))
        return into, map_of(behind, said_out, paired(a, b, self.heads), self.rule)

    def _norm(self, name: str, *, back: bool = True) -> Side | None:
        """The map of what a norm scales; None where nothing is known of it."""
        old, new = (model.nodes[name].shape[0] for model in (self.trio.old, self.trio.new))
        residual = whole(self.residual, (self._width_of_old, self.trio.width))
        prior = residual if (old, new) == tuple(residual.shape) else _identity_of(new)
        if prior.shape != (old, new):
            return None
        spaces = [(torch.arange(old), torch.arange(new))]
        return map_of(self.norms.get(name), prior, spaces, self.rule._replace(whiten=0.0), back=back)

    @property
    def _width_of_old(self) -> int:
        return int(self.trio.old.module.get_input_embeddings().weight.shape[1])

    # --- what weights say -------------------------------------------------------------------------------------------------

    def _priors(self, own: Unit, weights: Mapping[str, Any]) -> dict[Key, tuple[Tensor, Tensor]]:
        """What weights alone say of the inputs and the outputs of each matrix of a unit: two matrices (old, new)."""
        trio = self.trio
        residual = whole(self.residual, (self._width_of_old, trio.width))
        found: dict[Key, tuple[Tensor, Tensor]] = {}
        inner: dict[str, list[Tensor]] = {}  # what matrices say of the neurons of one MLP
        parts: list[tuple[Key, Matrix, Matrix, str]] = []
        for name in weights:
            mine, theirs = matrices(trio.old, name), matrices(trio.new, name)
            if not mine or len(mine) != len(theirs):
                continue
            old = trio.old.read(name).double()
            for a, b in zip(mine, theirs, strict=True):
                first, second = a.of(old), b.of(weights[name]).double()
                key, group = (name, a.index), f"{name.rpartition('.experts.')[0]} {a.index}"
                if a.reads and (first.shape[1], second.shape[1]) == residual.shape:
                    cross = first @ residual @ second.T
                    found[key] = residual, _with_identity(unit(cross))
                    for rows, others in _neurons(a, b):
                        inner.setdefault(group, []).append(unit(cross[rows[:, None], others[None, :]]))
                        parts.append((key, a, b, group))
                elif a.writes and (len(first), len(second)) == residual.shape:
                    cross = first.T @ residual @ second
                    found[key] = _with_identity(unit(cross)), residual
                    if "mlp.down" in a.roles:
                        inner.setdefault(group, []).append(unit(cross))
                        parts.append((key, a, b, group))
                elif first.shape == second.shape:
                    found[key] = _identity_of(first.shape[1]), _identity_of(len(first))
        for key, a, b, group in parts:
            into, out = found[key]
            said = [each for each in inner[group] if each.shape == inner[group][0].shape]
            neurons = _with_identity(unit(torch.stack(said).sum(0)))
            if "mlp.down" in a.roles:
                found[key] = (neurons if neurons.shape == into.shape else into), out
                continue
            for rows, others in _neurons(a, b):
                out[rows[:, None], others[None, :]] = neurons
        return found

    # --- outside the blocks -----------------------------------------------------------------------------------------------

    def tables(self) -> dict[str, Tensor]:
        """New weights of what has a row for each token or position: rows of tokens that both have are moved."""
        trio, scale = self.trio, self.options.scale
        found: dict[str, Tensor] = {}
        for name, kind in trio.tables.items():
            pieces = trio.new.stored(name)
            tied = "embed" not in trio.new.roles(pieces[0][0])
            side = self.last if tied else self.residual
            if name not in trio.old.nodes:
                self.untouched.append(name)
                continue
            change, made = trio.change(name), trio.new.read(name)
            rows = torch.arange(min(len(change), len(made)))
            mine, theirs = trio.tokens if kind == "tokens" else (rows, rows)
            made[theirs] += scale * carried_rows(change[mine], side, trio.width).float()
            found[name] = made
        return found


def interpolated(rows: Tensor, count: int) -> Tensor:
    """Rows (tokens, width) of a text, as many as another tokenizer gives it: lines between those beside each."""
    if len(rows) == count:
        return rows
    return torch.nn.functional.interpolate(rows.T[None], size=count, mode="linear", align_corners=False)[0].T


def _embeddings(model: StreamedModel) -> str:
    """The parameter of a model's embeddings."""
    wanted = model.module.get_input_embeddings()
    return next(name for part, own, name in _parameters(model) if part is wanted and own == "weight")


def _parameters(model: StreamedModel) -> list[tuple[Any, str, str]]:
    return [each for unit in model.units for each in unit.parameters]


def _key(place: Place) -> Key:
    return place.name, place.start // (place.shape[0] * place.shape[1])


def _neurons(a: Matrix, b: Matrix) -> list[tuple[Tensor, Tensor]]:
    """The outputs of a matrix in both bases that are neurons of an MLP: gate, up, or both."""
    pairs = zip(a.cuts, b.cuts, strict=False)
    return [(rows, others) for (role, rows), (_, others) in pairs if role in ("mlp.gate", "mlp.up")]


def _identity_of(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def _with_identity(matrix: Tensor) -> Tensor:
    """A matrix of mean square 1 with a little of the identity, where it is square."""
    if matrix.shape[0] != matrix.shape[1]:
        return matrix
    return matrix + WEAKEST * _identity_of(len(matrix))
