"""Theseus: by hand, on its own base, on rotated and widened copies of it, and what cannot be moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mergery.alignment.rebasing.maps import (
    Moments,
    Rule,
    carried,
    carried_gains,
    identity,
    map_of,
    one_block,
    polar,
    whitened,
)
from tests.alignment.rebasing.conftest import far, llama, logits, orthogonal, read, rotated, tuned, widened

PLAIN = Rule(ridge=0.0, whiten=0.0, sizes=False)


def test_by_hand() -> None:
    """Inputs are turned by a quarter, x_B = (-x_2, x_1): the change that reads x_1 reads the second of B's."""
    quarter = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    old = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    moments = Moments()
    moments.add(old, old.double() @ quarter)
    whole = [(torch.arange(2), torch.arange(2))]
    into = map_of(moments, torch.eye(2), whole, PLAIN)
    torch.testing.assert_close(into[0].map, quarter)
    moved = carried(torch.tensor([[3.0, 0.0]]), identity(1), into, (1, 2))
    torch.testing.assert_close(moved, torch.tensor([[0.0, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(
        carried_gains(torch.tensor([5.0, 7.0]), into, 2), torch.tensor([7.0, 5.0], dtype=torch.float64)
    )


def test_the_map_is_the_nearest_orthogonal_one() -> None:
    torch.manual_seed(0)
    cross = torch.randn(5, 3, dtype=torch.float64)
    best = polar(cross)
    torch.testing.assert_close(best.T @ best, torch.eye(3, dtype=torch.float64))
    for seed in range(50):
        other = orthogonal(5, seed)[:, :3]
        assert float((cross * other).sum()) <= float((cross * best).sum()) + 1e-12


def test_whitening_at_a_half_takes_off_all_sizes() -> None:
    torch.manual_seed(0)
    old, turn = torch.randn(40, 4, dtype=torch.float64) * torch.tensor([1.0, 10.0, 3.0, 0.3]), orthogonal(4, 1)
    new = old @ turn
    made = whitened(old.T @ new, old.T @ old, new.T @ new, 0.5)
    torch.testing.assert_close(made, turn, atol=1e-9, rtol=1e-9)


def test_moments_behind_a_matrix_are_those_of_its_outputs() -> None:
    torch.manual_seed(0)
    old, new, matrix, other = (torch.randn(9, 4), torch.randn(9, 5), torch.randn(3, 4), torch.randn(2, 5))
    biases = torch.randn(3), torch.randn(2)
    before, behind = Moments(), Moments()
    before.add(old, new)
    behind.add(old @ matrix.T + biases[0], new @ other.T + biases[1])
    found = before.through(matrix, other, biases)
    for mine, theirs in ((found.cross, behind.cross), (found.old, behind.old), (found.new, behind.new)):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_what_is_carried_has_the_size_of_the_new_space() -> None:
    moments = Moments()
    moments.add(torch.eye(3), 4.0 * torch.eye(3))
    rule, whole = PLAIN._replace(sizes=True), [(torch.arange(3), torch.arange(3))]
    torch.testing.assert_close(
        map_of(moments, torch.eye(3), whole, rule)[0].map, 4.0 * torch.eye(3, dtype=torch.float64)
    )
    back = map_of(moments, torch.eye(3), whole, rule, back=True)
    torch.testing.assert_close(back[0].map, torch.eye(3, dtype=torch.float64) / 4.0)
    assert len(one_block(torch.eye(3))) == 1


@pytest.mark.parametrize("with_texts", [False, True])
def test_on_its_own_base_the_fine_tune_comes_back(
    mergery: Any, save: Any, texts: Any, tmp_path: Any, with_texts: bool
) -> None:
    state = llama().state_dict()
    old, own = save("old", state), save("own", tuned(state, 1))
    data = ("--data", texts) if with_texts else ()
    done = mergery("rebase", own, tmp_path / "out", "--from", old, "--to", old, "--way", "theseus", *data)
    assert done.code == 0, done.err
    assert far(read(tmp_path / "out"), read(own)) < 1e-5
    assert not (tmp_path / "out.rebase").exists()


@pytest.mark.parametrize("with_texts", [False, True])
def test_a_rotated_copy_of_the_base_gets_the_rotated_fine_tune(
    mergery: Any, save: Any, texts: Any, tmp_path: Any, with_texts: bool
) -> None:
    """Residual stream and values rotated, neurons permuted: the same function, and so it is with what was learned."""
    state = llama().state_dict()
    learned = tuned(state, 1, norms=False)
    old, own, new = save("old", state), save("own", learned), save("new", rotated(state))
    torch.testing.assert_close(logits(new), logits(old), atol=1e-4, rtol=1e-4)
    data = ("--data", texts) if with_texts else ()
    done = mergery("rebase", own, tmp_path / "out", "--from", old, "--to", new, "--way", "theseus", *data)
    assert done.code == 0, done.err
    assert far(read(tmp_path / "out"), rotated(learned)) < 2e-3
    torch.testing.assert_close(logits(tmp_path / "out"), logits(own), atol=2e-2, rtol=2e-2)
    plain = mergery("rebase", own, tmp_path / "plain", "--from", old, "--to", new, "--way", "transplant")
    assert plain.code == 0
    assert far(read(tmp_path / "plain"), rotated(learned)) > 0.05


@pytest.mark.parametrize("with_texts", [False, True])
def test_a_wider_copy_of_the_base_gets_the_wider_fine_tune(
    mergery: Any, save: Any, texts: Any, tmp_path: Any, with_texts: bool
) -> None:
    state = llama().state_dict()
    learned = tuned(state, 1)
    old, own = save("old", state), save("own", learned)
    new = save("new", widened(state), hidden_size=64)
    torch.testing.assert_close(logits(new), logits(old), atol=1e-4, rtol=1e-4)
    data = ("--data", texts) if with_texts else ()
    done = mergery("rebase", own, tmp_path / "out", "--from", old, "--to", new, "--way", "theseus", *data)
    assert done.code == 0, done.err
    torch.testing.assert_close(logits(tmp_path / "out"), logits(own), atol=2e-2, rtol=2e-2)
    assert f"{own}, a fine-tune of {old}, is moved by Theseus" in (tmp_path / "out" / "README.md").read_text()
    again = mergery("verify", tmp_path / "out", "--sample", 2)
    assert again.code == 2
    assert "no tensor of this model can be made again" in again.err
    assert mergery("verify", tmp_path / "out").code == 0
