"""What was published of soups: the order in which 72 fine-tunes of CLIP are tried, and the tables of SoCE."""

from __future__ import annotations

import pytest

from mergery.exploration.soups.strategies import greedy
from mergery.exploration.soups.table import compositions, grid

# Of 26,000 held-out images of ImageNet, how many each of the 72 ViT-B/32 of arXiv 2203.05482 gets right, model_0 to model_71:
# `ImageNet2p` of individual_model_results.jsonl, published with the paper.
HELD_OUT = (
    20301, 20760, 20651, 21157, 20417, 20417, 21101, 20840, 20838, 21156, 21061, 20848, 20771, 20992, 20678, 20792,
    20589, 21098, 20554, 21044, 20778, 21031, 20888, 20596, 21275, 21045, 21074, 21394, 20835, 20981, 21021, 20314,
    21361, 20695, 21379, 20601, 21029, 20705, 20887, 20473, 21038, 20559, 21200, 21593, 21554, 21161, 21237, 21181,
    21426, 21196, 21163, 21043, 20929, 20999, 21366, 20631, 21132, 21355, 20967, 21152, 21378, 20933, 20857, 21411,
    20656, 20590, 20745, 20965, 20699, 21443, 21363, 20536,
)  # fmt: skip


def test_the_order_of_the_72_models() -> None:
    alone = {f"model_{number}": right / 26_000 for number, right in enumerate(HELD_OUT)}
    found = greedy(alone, lambda weights: 0.0)
    assert [each.model for each in found.decisions[:5]] == ["model_43", "model_44", "model_69", "model_48", "model_63"]
    assert found.score == pytest.approx(0.8305)
    assert [each.kept for each in found.decisions] == [True, *[False] * 71]


# Weights that SoCE found for the leaderboard of function calling (arXiv 2511.13254, table 1).
@pytest.mark.parametrize(("weights", "count"), [((0.5, 0.2, 0.3), 36), ((0.7, 0.2, 0.1), 36)])
def test_the_published_weights_are_points_of_the_grid(weights: tuple[float, ...], count: int) -> None:
    assert weights in grid(len(weights))
    assert sum(1 for _ in compositions(len(weights))) == count
