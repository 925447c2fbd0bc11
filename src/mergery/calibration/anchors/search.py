"""Functional dual anchors: made-up inputs of a block whose gradient at the base's weights points along the task vector.

    min_X sum_p (1 - cos(g_p, t_p - b_p)),   g = - d/d theta Dist(f(theta, X), f(t, X)) at theta = b

b are the base's weights of a block, t a model's, p runs over the block's tensors; tensors that do not differ are left out. A
step down that gradient goes from the base to the model: the anchors stand for what the model has learnt. Shi, Wen and Liu 2025
(arXiv 2510.21223), with the sign and the sum over tensors of their released experiments.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mergery.calibration.anchors.blocks import Block, Weights
from mergery.errors import DataError, RecipeError
from mergery.kernels.random import key

Distance = Literal["cos", "mse", "l1"]
Start = Literal["gauss", "weights"]


@dataclass(frozen=True)
class AnchorOptions:
    """How anchors are found.

    anchors:   how many for each block and model; tokens: of each, for whole blocks.
    start:     `gauss`, normal numbers times `sigma`; `weights`, rows of the model's own matrices.
    distance:  between outputs. aggregate: cosines of each tensor added up, or one of all.
    """

    anchors: int = 64
    tokens: int = 5
    steps: int = 1200
    rate: float = 1e-2
    start: Start = "weights"
    sigma: float = 0.01
    distance: Distance = "cos"
    aggregate: Literal["tensor", "block"] = "tensor"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("anchors", 1), ("tokens", 1), ("steps", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} is {getattr(self, name)}", hint=f"it must be {least} or more")
        if self.rate <= 0.0 or self.sigma <= 0.0:
            raise RecipeError("rate and sigma must be above zero", hint="rate 0.01, sigma 0.01")

    def plain(self) -> dict[str, Any]:
        """The options as plain data."""
        return asdict(self)


PRESETS: dict[tuple[str, bool], AnchorOptions] = {  # by name, and whether blocks are whole
    ("paper", True): AnchorOptions(),
    ("paper", False): AnchorOptions(anchors=8192, steps=200),
    ("cheap", True): AnchorOptions(steps=40),
    ("cheap", False): AnchorOptions(anchors=1024, steps=40),
}
"""The settings of the authors' experiments, and some that take a thirtieth of the time."""


def find_anchors(
    block: Block, base: Weights, model: Weights, options: AnchorOptions, who: str
) -> tuple[Any, float, float]:
    """Anchors of a block for one model, and the loss at the beginning and at the end (the mean of 1 - cos over tensors).

    base, model: weights by name. who: the model's name, part of the key of randomness.
    Returns float32 (anchors, tokens, width), or (anchors, width), on the weights' device. Raises DataError where these are not
    finite.
    """
    import torch

    place = next(iter(base.values())).device
    rows = beginning(block, model, options, who).to(place).requires_grad_(True)
    steered = {name: value.clone().requires_grad_(True) for name, value in base.items()}
    towards = {name: model[name] - base[name] for name in base if not torch.equal(model[name], base[name])}
    if not towards:
        return rows.detach(), 0.0, 0.0  # the model has learnt nothing here
    optimiser = torch.optim.AdamW([rows], lr=options.rate)
    best, first, least = rows.detach().clone(), float("nan"), float("inf")
    for step in range(options.steps + 1):
        loss = mismatch(block, steered, model, towards, rows, options)
        value = float(loss.detach()) / (len(towards) if options.aggregate == "tensor" else 1)
        if step == 0:
            first = value
        if value < least:
            best, least = rows.detach().clone(), value
        if step < options.steps:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    if not (first == first and bool(best.isfinite().all())):
        raise DataError(
            f"the anchors of {block.name} for {who} are not finite", hint="a smaller sigma, or start: weights"
        )
    return best, first, least


def mismatch(
    block: Block, steered: Weights, model: Weights, towards: Weights, rows: Any, options: AnchorOptions
) -> Any:
    """How far the gradients at the base's weights are from pointing along task vectors: a sum of 1 - cos."""
    import torch

    names = list(towards)
    near = nearness(block(steered, rows), block(model, rows), options.distance).mean()
    found = torch.autograd.grad(near, [steered[name] for name in names], create_graph=True, allow_unused=True)
    pairs = [(g.reshape(-1), towards[n].reshape(-1)) for g, n in zip(found, names, strict=True) if g is not None]
    if options.aggregate == "block":
        pairs = [(torch.cat([g for g, _ in pairs]), torch.cat([t for _, t in pairs]))]
    return torch.stack([1.0 - torch.nn.functional.cosine_similarity(g, t, dim=0, eps=1e-30) for g, t in pairs]).sum()


def nearness(out: Any, wanted: Any, distance: str) -> Any:
    """Minus the distance of outputs, one number for each anchor; for `cos` the cosine itself."""
    import torch

    mine, theirs = out.reshape(len(out), -1), wanted.reshape(len(wanted), -1)
    if distance == "cos":
        return torch.nn.functional.cosine_similarity(mine, theirs, dim=1)
    gap = mine - theirs
    return -(gap.square() if distance == "mse" else gap.abs()).mean(dim=1)


def beginning(block: Block, model: Weights, options: AnchorOptions, who: str) -> Any:
    """The anchors where the search begins: float32 (anchors, tokens, width), or (anchors, width)."""
    import torch

    generator = torch.Generator().manual_seed(key(options.seed, block.name, who) & (2**63 - 1))
    shape = (options.anchors, options.tokens, block.width) if block.whole else (options.anchors, block.width)
    if options.start == "gauss":
        return options.sigma * torch.randn(shape, generator=generator)
    matrices = [value for value in model.values() if value.dim() == 2]
    pool = [value if value.shape[1] == block.width else value.T for value in matrices if block.width in value.shape]
    if not pool:
        raise RecipeError(f"{block.name} has no matrix of its width", hint="start: gauss")
    rows = torch.cat(pool).cpu()
    wanted = shape[0] * (shape[1] if block.whole else 1)
    order = torch.randperm(len(rows), generator=generator)[:wanted]
    chosen = rows[order]
    if len(chosen) < wanted:  # midpoints of pairs
        pairs = torch.randint(len(rows), (wanted - len(chosen), 2), generator=generator)
        chosen = torch.cat([chosen, (rows[pairs[:, 0]] + rows[pairs[:, 1]]) / 2.0])
    return chosen.reshape(shape).clone()
