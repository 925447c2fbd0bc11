"""TransFusion: a new base whose parts stand in another order gets what the old one's fine-tune has learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.alignment.diagnosis.test_diagnose import permuted
from tests.alignment.rebasing.conftest import far, llama, logits, read, tuned


@pytest.fixture(autouse=True)
def cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rebase(mergery: Any, own: Any, out: Any, old: Any, new: Any) -> Any:
    done = mergery("rebase", own, out, "--from", old, "--to", new, "--way", "transfusion")
    assert done.code == 0, done.err
    return done


def test_on_its_own_base_the_fine_tune_comes_back(mergery: Any, save: Any, tmp_path: Any) -> None:
    state = llama().state_dict()
    old, own = save("old", state), save("own", tuned(state, 1))
    rebase(mergery, own, tmp_path / "out", old, old)
    assert far(read(tmp_path / "out"), read(own)) < 1e-6


def test_another_order_of_the_base_gets_the_fine_tune_in_that_order(mergery: Any, save: Any, tmp_path: Any) -> None:
    state = llama().state_dict()
    learned = tuned(state, 1)
    parts = {"neurons": True, "heads": True, "channels": True}
    old, own, new = save("old", state), save("own", learned), save("new", permuted(state, **parts))
    rebase(mergery, own, tmp_path / "out", old, new)
    assert far(read(tmp_path / "out"), permuted(learned, **parts)) < 1e-5
    torch.testing.assert_close(logits(tmp_path / "out"), logits(own), atol=1e-3, rtol=1e-3)


def test_of_a_base_trained_further_it_is_a_transplant(mergery: Any, save: Any, tmp_path: Any) -> None:
    """What the new base has learned does not move its neurons, and so the order is the old one."""
    state = llama().state_dict()
    old, own, new = save("old", state), save("own", tuned(state, 1)), save("new", tuned(state, 2))
    done = mergery("rebase", own, tmp_path / "plain", "--from", old, "--to", new, "--way", "transplant")
    assert done.code == 0
    rebase(mergery, own, tmp_path / "out", old, new)
    assert far(read(tmp_path / "out"), read(tmp_path / "plain")) < 0.02  # heads may be turned a little


def test_a_dry_run_matches_nothing(mergery: Any, save: Any, tmp_path: Any) -> None:
    state = llama().state_dict()
    old, own, new = save("old", state), save("own", tuned(state, 1)), save("new", tuned(state, 2))
    done = mergery("rebase", own, tmp_path / "out", "--from", old, "--to", new, "--way", "transfusion", "--dry-run")
    assert done.code == 0, done.err
    assert "moved by TransFusion" in done.out
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "out").exists()
