"""Random methods cannot be compared value by value: what both keep is counted."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from tests.parity.cases import Drawn
from tests.parity.compare import Tensors, stored

if TYPE_CHECKING:
    from tests.parity.__main__ import Session

CRITERION = (
    "One model of weight 1 over a Llama in float32. Kept: the share of entries that survive, within five standard "
    "deviations of the density. L1: the norm of each tensor's task vector after thinning over that before; its "
    "worst tensor is within 1e-4 of 1. Slope: the projection of the result on the task vector, within five standard "
    "deviations of 1 (dare) or of mergekit's (della, whose rescaling is not unbiased). Larger half: the share kept "
    "among the larger half of each row, within five standard deviations of density + epsilon / 2."
)
COLUMNS = [
    "kept by Mergery",
    "by mergekit",
    "L1, Mergery",
    "mergekit",
    "slope, Mergery",
    "mergekit",
    "larger half, Mergery",
    "mergekit",
]
FAMILY, DTYPE, SIGMAS = "llama", "float32", 5.0


def check(session: Session, drawn: Drawn) -> tuple[list[str], str | None]:
    """The cells of the table, and what does not hold."""
    folder = session.fresh()
    density = str(drawn.density) + (f" ± {drawn.epsilon}" if drawn.epsilon else "")
    try:
        theirs = stored(session.theirs(folder, "mergekit", drawn.text, FAMILY, DTYPE))
        mine = stored(session.mine(folder, drawn.text, FAMILY, DTYPE))
    except ValueError as error:
        return [drawn.method, density, *[""] * len(COLUMNS)], str(error)
    members = session.members(FAMILY, DTYPE)
    base, model = stored(members["base"]), stored(members["a"])
    counts = [measure(result, base, model) for result in (mine, theirs)]
    cells = [f"{counts[side][what]:.4f}" for what in ("kept", "l1", "slope", "larger") for side in (0, 1)]
    problems = [*judge("Mergery", counts[0], drawn), *judge("mergekit", counts[1], drawn)]
    if drawn.epsilon and abs(counts[0]["slope"] - counts[1]["slope"]) > 2 * SIGMAS * counts[0]["deviation"]:
        problems.append("the slopes differ")
    return [drawn.method, density, *cells], "; ".join(problems) or None


def measure(result: Tensors, base: Tensors, model: Tensors) -> dict[str, float]:
    kept = total = larger = halves = 0
    along = square = fourth = 0.0
    l1 = 1.0
    for name, start in base.items():
        before = model[name].double() - start.double()
        after = result[name].double() - start.double()
        there = after != 0
        kept, total = kept + int(there.sum()), total + there.numel()
        rows = before.abs().reshape(-1, before.shape[-1])
        high = rows.argsort(dim=1).argsort(dim=1) >= rows.shape[1] // 2
        larger += int((there.reshape(rows.shape) & high).sum())
        halves += int(high.sum())
        along += float((after * before).sum())
        square += float(before.square().sum())
        fourth += float(before.pow(4).sum())
        ratio = float(after.abs().sum() / before.abs().sum())
        l1 = max(l1, ratio, key=lambda value: abs(value - 1.0))
    share = kept / total
    return {
        "kept": share, "l1": l1, "slope": along / square, "larger": larger / halves, "total": total, "halves": halves,
        "deviation": sqrt((1 - share) / share * fourth) / square,
    }  # fmt: skip


def judge(who: str, count: dict[str, float], drawn: Drawn) -> list[str]:
    spread = sqrt(drawn.density * (1 - drawn.density))
    high = drawn.density + (drawn.epsilon or 0.0) / 2
    tests = {
        "kept": (count["kept"], drawn.density, SIGMAS * spread / sqrt(count["total"])),
        "L1": (count["l1"], 1.0, 1e-4),
        "larger half": (
            count["larger"],
            high,
            SIGMAS * spread / sqrt(count["halves"]) + (0.03 if drawn.epsilon else 0),
        ),
    }
    if not drawn.epsilon:
        tests["slope"] = (count["slope"], 1.0, SIGMAS * count["deviation"])
    return [
        f"{who}: {what} is {value:.4f} instead of {wanted:.4f}"
        for what, (value, wanted, slack) in tests.items()
        if abs(value - wanted) > slack
    ]
