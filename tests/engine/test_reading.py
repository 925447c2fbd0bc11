"""What a worker reads, and what it keeps from one pass over a tensor to the next."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from mergery import merge_tensors
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.engine import Workspace
from mergery.engine import workspace as workspace
from mergery.engine.workspace import CHUNK
from mergery.methods import linear, ties

N = 3 * CHUNK + 12345  # elements: four windows
WINDOW = 3 * 2 * CHUNK  # bytes of a window of two models and their base, in bfloat16


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """How often each window is read, of any of the inputs."""
    counted: Counter[tuple[int, int]] = Counter()
    plain = MemoryCheckpoint.read

    def read(self: MemoryCheckpoint, name: str, start: int, stop: int, into: np.ndarray) -> None:
        counted[start, stop] += 1
        plain(self, name, start, stop, into)

    monkeypatch.setattr(MemoryCheckpoint, "read", read)
    return counted


def tensors() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(N, generator=random).bfloat16() for _ in range(3)]


def windows(reads: Counter[tuple[int, int]]) -> list[int]:
    """How often each whole window was read, in order; samples are left out."""
    return [reads[start, min(N, start + CHUNK)] for start in range(0, N, CHUNK)]


@pytest.mark.parametrize(("room", "times"), [(0, [6, 6, 6, 6]), (2 * WINDOW, [3, 3, 6, 6]), (4 * WINDOW, [3] * 4)])
def test_the_first_windows_are_read_once(reads, monkeypatch, room, times):
    base, *models = tensors()
    expected = merge_tensors(ties, models, base, density=0.3)
    reads.clear()
    monkeypatch.setattr(workspace, "KEPT", room)
    assert torch.equal(merge_tensors(ties, models, base, density=0.3), expected)
    assert windows(reads) == times


def test_nothing_is_kept_of_what_is_read_once(reads, monkeypatch):
    monkeypatch.setattr(Workspace, "kept", None)
    models = tensors()
    merge_tensors(linear, models)
    assert windows(reads) == [3, 3, 3, 3]


def test_what_one_reader_kept_is_not_taken_for_anothers():
    here, (one, other) = Workspace(), (object(), object())
    kept = here.kept(0, one)
    kept.windows[0, 8] = np.zeros((1, 64), np.uint8)
    assert here.kept(0, one) is kept
    assert here.kept(1, other).windows == {}
    assert here.kept(0, other).windows == {}
    assert here.kept(0, one).windows == {}
