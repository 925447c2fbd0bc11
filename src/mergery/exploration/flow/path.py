"""A path through the layers of models, and the recipe of the plain model that computes the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

OUTPUTS = ("attention.o", "mlp.down")  # what a layer adds to the hidden state comes from these


class Hop(NamedTuple):
    """One step: a layer of a model, and what the hidden state is multiplied with before it."""

    model: str
    layer: int
    scale: float = 1.0


@dataclass(frozen=True)
class Path:
    """Layers in the order in which they are passed. Embeddings, last norm and head are those of `ends`."""

    ends: str
    hops: tuple[Hop, ...]

    @property
    def plain(self) -> list[list[Any]]:
        """The path as plain data: model, layer and scale of each hop."""
        return [[hop.model, hop.layer, hop.scale] for hop in self.hops]

    def recipe(self, sources: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe of a stacked model that computes what the path does.

        Where norms stand before the parts of a layer, as in Llama and GPT-2, a layer adds the same whatever its input is
        multiplied with, but for the norms' epsilon. With the hidden state h = c g of the path, c the product of the scales so
        far, the layer on g adds 1/c of what it adds on h: its output projections are divided by c, and the last norm makes the
        same of g as of h. The first and the last layer must be of `ends`, so that embeddings and head are.
        """
        stack: list[dict[str, Any]] = []
        product = 1.0
        for hop in self.hops:
            product *= hop.scale
            piece: dict[str, Any] = {"models": {hop.model: str(hop.layer)}}
            if product != 1.0:
                piece["scale"] = [{"where": {"role": list(OUTPUTS)}, "value": 1 / product}, {"value": 1.0}]
            stack.append(piece)
        used = {self.ends, *(hop.model for hop in self.hops)}
        models = {name: source for name, source in sources.items() if name in used}
        return {"models": models, "merge": {"method": "passthrough", "stack": _joined(stack)}}


def _joined(stack: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Slices of one model that follow each other, with the same scale, as one."""
    joined: list[dict[str, Any]] = []
    for piece in stack:
        (model, layer), *_ = piece["models"].items()
        if joined and "scale" not in piece and "scale" not in joined[-1] and model in joined[-1]["models"]:
            first, _, last = joined[-1]["models"][model].partition("-")
            if int(last or first) + 1 == int(layer):
                joined[-1] = {"models": {model: f"{first}-{layer}"}}
                continue
        joined.append(dict(piece))
    return joined


def straight(model: str, depth: int) -> Path:
    """The path that is the model itself."""
    return Path(model, tuple(Hop(model, layer) for layer in range(depth)))


def neighbours(path: Path, depths: Mapping[str, int], repeats: int) -> Iterator[Path]:
    """Paths with one change of one layer: left out, that of another model in its place, or passed once more.

    The first and the last hop stay. repeats: how often a layer may be passed at most.
    """
    for place in range(1, len(path.hops) - 1):
        before, own, after = path.hops[:place], path.hops[place], path.hops[place + 1 :]
        yield Path(path.ends, (*before, *after))
        for model, depth in depths.items():
            if model != own.model and own.layer < depth:
                yield Path(path.ends, (*before, Hop(model, own.layer, own.scale), *after))
        if sum(hop[:2] == own[:2] for hop in path.hops) < repeats:
            yield Path(path.ends, (*before, own, Hop(own.model, own.layer), *after))


@dataclass(frozen=True)
class Slots:
    """All layers of all models in their order, so many times one behind the other: what a path may pass.

    depths: the layers of each model, the first being the one whose ends are kept: its first and its last layer are always
            passed, and are no slots.
    """

    depths: Mapping[str, int]
    repeats: int

    @property
    def ends(self) -> str:
        return next(iter(self.depths))

    @property
    def layers(self) -> list[tuple[str, int]]:
        """The layer of each slot."""
        once = [
            (name, layer)
            for name, depth in self.depths.items()
            for layer in range(depth)
            if name != self.ends or 0 < layer < depth - 1
        ]
        return once * self.repeats

    def path(self, passed: Sequence[bool], scales: Sequence[float]) -> Path:
        """The path of the slots that are passed."""
        hops = [
            Hop(*layer, float(scale)) for layer, used, scale in zip(self.layers, passed, scales, strict=True) if used
        ]
        return Path(self.ends, (Hop(self.ends, 0), *hops, Hop(self.ends, self.depths[self.ends] - 1)))

    def start(self) -> list[bool]:
        """The slots of the first model itself: the first repetition."""
        inside = max(0, self.depths[self.ends] - 2)
        return [place < inside for place in range(len(self.layers))]
