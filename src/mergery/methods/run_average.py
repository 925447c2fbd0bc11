"""Averages of checkpoints along one training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mergery.errors import RecipeError
from mergery.method import Coefficients, Count, Fraction, method


def check_window(settings: Mapping[str, Any]) -> None:
    if settings["last"] is not None and settings["last"] < 1:
        raise RecipeError(f"last is {settings['last']}", why="it counts checkpoints, at least one", hint="last: 5")


@method(paper="2507.17634", symmetric=False, check=check_window)
def run_average(
    count: Count,
    *,
    by: Literal["simple", "weighted", "exponential", "cosine", "sqrt"] = "simple",
    alpha: Fraction = 0.2,
    last: int | None = None,
) -> Coefficients:
    """Average checkpoints of one training run, in the order of training.

        simple        out = mean of x_1 .. x_n: what a linear decay of the learning rate would give
        weighted      out = sum_i i x_i / sum_i i
        exponential   out = y_n,  y_1 = x_1,  y_i = alpha x_i + (1 - alpha) y_(i-1)
        cosine, sqrt  out = sum_i c_i x_i,  c_n = m_(n-1), c_i = m_(i-1) - m_i, c_1 = 1 - m_1,  for decays
                      m_j = (1 + cos(pi j / n)) / 2 or 1 - sqrt(j / n) of the step after checkpoint j

    A merge with coefficients c gives what training would, to first order, had the updates behind checkpoint j been
    multiplied by m_j = c_(j+1) + ... + c_n: any decay that does not rise is a merge, and the other way round. In a
    recipe, `models: {run: path/checkpoint-*}` names all checkpoints of a folder by step.

    Settings:
        by: which average, as above.
        alpha: with `exponential`, the part of the newer checkpoint, in [0, 1]; 0.1 or 0.2 in the paper. 1 gives the
            last.
        last: average only so many of the last checkpoints (LAWA has 5, PMA 10); null takes all.

    Source: Tian et al. 2025, WSM (arXiv 2507.17634) for decays as merges; Li et al. 2025, PMA (arXiv 2505.12082) for
    simple, weighted and exponential; Kaddour 2022, LAWA (arXiv 2209.14981) for windows.

    Use it on checkpoints of a run at a constant learning rate, to see what annealing would give without training, or
    instead of it. Choose window and average by validation; there is nothing to gain once the rate has decayed.
    """
    import numpy as np

    from mergery.methods._decay import coefficients, decay

    window = count if last is None else min(last, count)
    steps = np.arange(1, window) / window
    match by:
        case "weighted":
            share = np.arange(1.0, window + 1.0)
            share /= share.sum()
        case "exponential":
            share = alpha * (1.0 - alpha) ** np.arange(window - 1.0, -1.0, -1.0)
            share[0] = (1.0 - alpha) ** (window - 1.0)
        case _:
            share = coefficients(decay("linear" if by == "simple" else by, steps))
    return np.append(np.zeros(count - window), share)
