"""SLERP: spherical linear interpolation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from mergery.errors import RecipeError
from mergery.method import Coefficients, Fraction, Gram, PerModel, Way, each, method
from mergery.methods._weights import vanishes

if TYPE_CHECKING:
    import numpy as np


def check_t(settings: Mapping[str, Any]) -> None:
    if settings["t"] is not None and len(settings["weight"]) > 2:
        raise RecipeError(
            f"t is {settings['t']:g}, but there are {len(settings['weight'])} models",
            why="t is the way between two models",
            hint="leave t out and give each model a weight",
        )


def average(settings: Mapping[str, Any]) -> np.ndarray:
    """The weights of the average that has the same shares."""
    import numpy as np

    t = settings["t"]
    return settings["weight"] if t is None else np.array([1.0 - t, t])


@method(paper="shoemake1985", models=(2, None), symmetric=False, check=check_t, average=average)
def slerp(
    gram: Gram,
    *,
    t: Way | None = None,
    weight: PerModel[float] = each(1.0),
    scope: Literal["tensor", "row", "column"] = "tensor",
    lerp_above: Fraction = 1.0,
    tree: Literal["chain", "balanced"] = "chain",
) -> Coefficients:
    """Interpolate along the great circle between two models, or from model to model.

        out = (sin((1 - t) a) x_1 + sin(t a) x_2) / sin(a),   cos(a) = x_1 . x_2 / (|x_1| |x_2|)

    The shares apply to the vectors with their own lengths. They tend to 1 - t and t, exactly, as the angle a
    goes to zero. Where a vector is zero, and where the two are opposite (to within 0.0025 degrees), there is
    no arc, and the interpolation is linear.

    More than two models are merged two at a time along a tree, and the result depends on it and on the order of the
    recipe. At each of its nodes t is the weight on the right over that of both sides.

        chain      ((1 2) 3) 4: each next model joins what is merged so far
        balanced   (1 2) (3 4): neighbours are merged, then neighbouring results; an odd one waits

    Settings:
        t: the way from the first model (0) to the second (1), for two models; beyond that range, to -1 and 2, it
            goes on along the circle. Without t, the weights say it.
        weight: relative share of each model, where t is not given; equal weights by default. t_i is 0.5 where
            weights cancel.
        scope: what is one vector: the whole tensor, each row (an output neuron's weights) or each column.
        lerp_above: interpolate linearly where |cos(a)| exceeds this. 1 never does; 0.9995 is a common
            guard in single precision, which makes the merge of close fine-tunes linear.
        tree: how more than two models are paired, as above. Stages of a recipe state any other tree.

    Source: Shoemake 1985, Animating rotation with quaternion curves (SIGGRAPH).

    Use it for two models whose weights point in clearly different directions. Fine-tunes of one base lie
    within a few degrees of each other, where it differs little from the linear average.
    """
    import numpy as np

    from mergery.methods._sphere import arc, inner

    k = gram.shape[-1]
    nodes = [(np.broadcast_to(row, gram.shape[:-1]), weight[i : i + 1]) for i, row in enumerate(np.eye(k))]

    def join(left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]) -> Any:
        (old, mass), (new, more) = left, right
        way = fraction(np.append(mass, more), len(more)) if t is None else t
        products = inner(gram, old, old), inner(gram, old, new), inner(gram, new, new)
        old_share, new_share = arc(*products, way, lerp_above)
        return old_share[..., None] * old + new_share[..., None] * new, np.append(mass, more)

    while len(nodes) > 1:
        if tree == "chain":
            nodes[:2] = [join(*nodes[:2])]
        else:
            pairs = [nodes[i : i + 2] for i in range(0, len(nodes), 2)]
            nodes = [join(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return nodes[0][0]


def fraction(weight: Any, last: int = 1) -> float:
    """The way to the `last` of some models, as their weights say it; 0.5 where they cancel."""
    return 0.5 if vanishes(weight) else float(weight[-last:].sum() / weight.sum())
