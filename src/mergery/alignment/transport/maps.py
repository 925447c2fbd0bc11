"""Plans of transport as maps between neurons: out of the source's into the target's, and back.

A transported weight is `out @ W @ into`: `into` lifts what the target reads into the source's coordinates, `out` brings what
the source says back into the target's. In the mode `normalised` each neuron is an average of neurons, as they say in units of
their own deviation; in the others the plans are taken as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergery.alignment.transport.costs import Features, correlation, cost_of

if TYPE_CHECKING:
    from torch import Tensor

    from mergery.alignment.transport.sinkhorn import Solution


class Maps:
    """The maps of one pair of layers in one space.

    solution: the plan's potentials (target, source). order: of the source's neurons, where they are shuffled on purpose.
    """

    def __init__(
        self,
        target: Features,
        source: Features,
        solution: Solution,
        *,
        mode: str,
        sign: str,
        scale: str,
        order: Tensor | None,
    ) -> None:
        self.target, self.source, self.solution = target, source, solution
        self.mode, self.sign, self.scale, self.order = mode, sign, scale, order

    def out(self, rows: Tensor | None) -> Tensor:
        """(target, source) float32; of the target's neurons `rows` alone."""
        plan, signs = self._plan(rows)
        if self.mode != "normalised":
            return plan.float()
        mapped = plan / plan.sum(1, keepdim=True)
        mapped = mapped if signs is None else mapped * signs
        if self.scale == "regression":
            own = self.target.values if rows is None else self.target.values[:, rows]
            mapped = mapped * _fit(own, self.source.values, mapped)[:, None]
        if self.scale != "none":
            size = self.target.scale if rows is None else self.target.scale[rows]
            mapped = mapped * size[:, None] * _inverse(self.source.scale)[None, :]
        return mapped.float()

    def into(self, columns: Tensor | None) -> Tensor:
        """(source, target) float32; of the target's neurons `columns` alone."""
        plan, signs = self._plan(None)
        if self.mode == "normalised":
            plan = plan / plan.sum(0, keepdim=True)
            plan = plan if signs is None else plan * signs
            if self.scale == "regression":
                plan = plan * _fit(self.source.values, self.target.values, plan.T)[None, :]
            if self.scale != "none":
                plan = plan * _inverse(self.target.scale)[:, None] * self.source.scale[None, :]
        return (plan if columns is None else plan[columns]).T.float()

    def _plan(self, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The plan, made again from its potentials, and the signs of correlations, where these count."""
        target = self.target
        if rows is not None:
            target = Features(target.values[:, rows], target.scale[rows], target.dead[rows], target.size[rows])
        found = correlation(target, self.source)
        plan = self.solution.plan(cost_of(found, signed=self.sign == "signed"), rows)
        signs = found.sign().double() if self.sign == "signed" else None
        if self.order is not None:
            return plan[:, self.order], None if signs is None else signs[:, self.order]
        return plan, signs


def _fit(own: Tensor, others: Tensor, mapped: Tensor) -> Tensor:
    """How much of each neuron its average of others tells, by least squares: float64 (n,), never below 0.

    A neuron that nothing of the others is like gets next to nothing, instead of noise of its own size.
    """
    average = (others @ mapped.T.float()).double()
    return ((own.double() * average).sum(0) / average.square().sum(0).clamp(min=1e-30)).clamp(min=0.0)


def _inverse(scale: Tensor) -> Tensor:
    """One over a deviation; 0 for what does not vary."""
    return scale.reciprocal().masked_fill(scale == 0, 0.0)
