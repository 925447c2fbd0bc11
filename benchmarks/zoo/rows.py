"""The methods that the zoo compares, one line each: its settings by default, and the grid from which validation chooses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One method. `given` goes into every recipe of the row; the grid's first value need not be the default.

    Values of the keys in `OPEN` are in ascending order, and the grid goes on beyond its ends where the best value lies there.
    """

    family: str
    method: str
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    given: Settings = field(default_factory=dict)
    label: str = ""
    first: Settings = field(default_factory=dict)  # a merge of each expert with the base, before they are merged
    served: bool = False  # one model for each skill, from what is kept for all

    @property
    def name(self) -> str:
        return self.label or self.method

    def candidates(self) -> Iterator[Settings]:
        """All settings of the grid; the defaults come first."""
        yield {}
        for values in itertools.product(*self.grid.values()) if self.grid else ():
            yield dict(zip(self.grid, values, strict=True))

    def beyond(self, best: Settings, tried: Sequence[Settings]) -> Iterator[Settings]:
        """One step further from settings that lie at an end of what was tried."""
        for key in OPEN:
            if key in self.grid and key in best:
                values = sorted({settings[key] for settings in tried if key in settings})
                step = values[1] / values[0]
                if best[key] == values[-1]:
                    yield {**best, key: round(values[-1] * step, 4)}
                if best[key] == values[0]:
                    yield {**best, key: round(values[0] / step, 4)}


OPEN = ("scale", "weight")  # settings whose grid goes on where its end is best
FURTHER = 4  # steps at most

SUMS = (0.25, 0.4, 0.6)  # scales of what adds task vectors up
MEANS = (1.0, 1.5, 2.5)  # scales of what averages those that take part
TURNED = (0.7, 1.4, 2.8)  # scales of sums whose directions were made orthogonal
SOLVED = (0.7, 1.0, 1.4)  # scales of a minimum of interference

ROWS: tuple[Row, ...] = (
    Row("average", "linear"),
    Row("average", "slerp"),
    Row("average", "multislerp"),
    Row("average", "karcher"),
    Row("average", "model_stock"),
    Row("average", "geometric_median"),
    Row("average", "cart", {"rank": (0.04, 0.08), "scale": (0.5, 1.0, 2.0)}),
    Row("average", "star", {"scale": MEANS}),
    Row("arithmetic", "task_arithmetic", {"scale": SUMS}),
    Row("arithmetic", "balanced", {"scale": MEANS}),
    Row("arithmetic", "metagpt", {"scale": MEANS}),
    Row(
        "arithmetic",
        "task_arithmetic",
        {"scale": SUMS},
        first={"method": "monosoup"},
        label="task_arithmetic of monosoup",
    ),
    Row(
        "arithmetic",
        "task_arithmetic",
        {"scale": SUMS},
        first={"method": "truncate", "share": 0.1},
        label="task_arithmetic of truncate",
    ),
    Row(
        "arithmetic",
        "task_arithmetic",
        {"scale": SUMS},
        first={"method": "spectral_filter", "base_subspace": "remove"},
        label="task_arithmetic of spectral_filter",
    ),
    Row(
        "arithmetic",
        "task_arithmetic",
        given={"scale": [0.1, 0.4]},
        label="task_arithmetic, growing with depth",
    ),
    Row("sparse", "ties", {"density": (0.2, 0.5), "scale": MEANS}),
    Row("sparse", "dare_linear", {"scale": SUMS}),
    Row("sparse", "dare_ties", {"scale": SUMS}),
    Row("sparse", "della", {"scale": MEANS}),
    Row("sparse", "della_linear", {"scale": SUMS}),
    Row("sparse", "breadcrumbs", {"density": (0.15, 0.5), "scale": SUMS}),
    Row("sparse", "breadcrumbs_ties", {"density": (0.5, 0.9), "scale": MEANS}),
    Row("sparse", "sce", {"scale": MEANS}),
    Row("sparse", "ram", {"scale": MEANS}),
    Row("sparse", "ramplus_tl", {"scale": MEANS}),
    Row("sparse", "pcb", {"scale": MEANS}),
    Row("sparse", "consensus", {"scale": SUMS}),
    Row("sparse", "trust_region", {"scale": SUMS}),
    Row("sparse", "magmax", {"scale": (0.5, 0.8, 1.2)}),
    Row("sparse", "neuromerging", {"density": (0.1, 0.3)}),
    Row("spectral", "tsv_merge", {"scale": TURNED}),
    Row("spectral", "iso_c", {"scale": TURNED}),
    Row("spectral", "iso_cts", {"scale": TURNED}),
    Row("spectral", "subspace_boosting", {"scale": (0.15, 0.25, 0.4)}),
    Row("spectral", "dc_merge", {"scale": TURNED}),
    Row("spectral", "knots", {"scale": MEANS}),
    Row("spectral", "orthomerge", {"scale": SUMS}),
    Row("spectral", "coram", {"scale": MEANS}),
    Row("spectral", "svc", {"alpha": (0.5, 1.0), "scale": (0.7, 1.0, 1.4)}),
    Row("spectral", "resmerge", {"scale": MEANS}),
    Row("spectral", "opcm", {"scale": MEANS}),
    Row("quadratic", "wudi", {"start": ("mean", "sum"), "scale": (0.7, 1.0)}),
    Row("quadratic", "wudi", {"scale": SOLVED}, {"solver": "closed"}, label="wudi, closed"),
    Row("quadratic", "optmerge", {"start": ("mean", "sum"), "scale": (0.7, 1.0)}),
    Row("quadratic", "swudi", {"time": (30.0, 300.0), "scale": SOLVED}),
    Row("quadratic", "swudi_a", {"scale": SOLVED}),
    Row("quadratic", "actmat", {"scale": SOLVED}),
    Row("quadratic", "ace", {"scale": SOLVED}),
    Row("quadratic", "dop", {"scale": SOLVED}),
    Row("quadratic", "doge"),
    Row("serving", "tall_mask", {"threshold": (0.2, 0.6)}, served=True),
    Row("serving", "emr", served=True),
    Row("serving", "onebit", served=True),
    Row("serving", "tsv_compress", served=True),
)

LEFT_OUT = {  # and why
    "analogy": "takes two models; the page's own section has it",
    "arcee_fusion": "takes one model",
    "clamp": "bounds another method's result",
    "cosine_add": "takes two models",
    "expo": "extrapolates one model",
    "nearswap": "takes one model",
    "negation": "removes a skill; the page's own section has it",
    "nuslerp": "takes two models",
    "passthrough": "merges nothing",
    "rebase": "moves a fine-tune onto a new base",
    "fisher": "needs statistics of data",
    "led": "needs statistics of data",
    "reasonany": "needs statistics of data",
    "regmean": "needs statistics of data",
    "rotate": "takes two models",
    "run_average": "averages checkpoints of one run",
    "train_difference": "takes two models",
}
